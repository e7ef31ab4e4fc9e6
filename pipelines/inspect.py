"""Inspect: the data as the model would see it, before anything is computed on it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curate.core import Row, Turns
from curate.data.conversation import Conversation, Rejection
from curate.data.load import load
from curate.data.locate import pinned
from curate.data.source import Source
from curate.data.template import Encoder
from curate.errors import DataError
from curate.evaluations import TaskFileName, label_of
from curate.model import resolve
from curate.pipelines.inspect_hygiene import Looked, hygiene_lines
from curate.pipelines.prepare import checked_tokenizer
from curate.recipe import Hygiene, Recipe

if TYPE_CHECKING:
    from rich.text import Text

LIMIT = 2000


@dataclass(frozen=True)
class Seen:
    """How many rows can be used; for each reason how many were set aside, and where the first of them is."""

    used: int
    aside: Counter[str]
    first: dict[str, str]
    looked: Looked


def inspect_data(recipe: Recipe, folder: Path, shown: int) -> None:
    """Print, for the pool, the target and each evaluation, what its first rows become; DataError if a run would refuse one."""
    handle = resolve(recipe.model, folder)
    encoder = Encoder(checked_tokenizer(handle), handle.max_length)
    parts = {"pool": recipe.pool, **{f"target {name}": sources for name, sources in recipe.target.items()}}
    parts |= {f"evaluation {label_of(entry)}": entry.data for entry in recipe.evaluate if entry.data and not isinstance(entry.task, TaskFileName)}
    seen = {name: _inspect(name, sources, folder, encoder, shown) for name, sources in parts.items()}
    _print_hygiene({name: part.looked for name, part in seen.items()}, recipe.hygiene, folder)
    refusals = [refusal for name, part in seen.items() if (refusal := _refusal(name, part, recipe.hygiene))]
    if refusals:
        raise DataError("; ".join(refusals))


def _print_hygiene(parts: dict[str, Looked], hygiene: Hygiene, folder: Path) -> None:
    """What leaks, what repeats, what is poor and where the pool comes from, of the rows that were read."""
    from rich.console import Console

    console = Console(highlight=False)
    for line in hygiene_lines(parts, hygiene, folder):
        console.print(_visible(line), markup=False)


def _refusal(name: str, seen: Seen, hygiene: Hygiene) -> str:
    """Why a run would stop at these rows; empty if it would not."""
    unread = [reason for reason in ("bad_json", "bad_csv") if reason in seen.aside]
    if unread and hygiene.on_bad_row == "error":
        return f"{name}: a run stops at {seen.first[unread[0]]} ({unread[0]}); mend the line, or set hygiene.on_bad_row: quarantine to leave it out"
    refused = seen.aside.total()
    if seen.used and refused <= hygiene.quarantine_limit * (seen.used + refused):
        return ""
    examples = ", ".join(f"{origin} {reason}" for reason, origin in seen.first.items())
    limit = f"the limit is {hygiene.quarantine_limit * 100:g}%: mend them or raise hygiene.quarantine_limit"
    return f"{name}: {refused} of {seen.used + refused} rows are set aside (such as {examples}); {limit if seen.used else 'no row is left: mend the data'}"


def _inspect(name: str, sources: list[Source], folder: Path, encoder: Encoder, shown: int) -> Seen:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    used: list[Row] = []
    aside: Counter[str] = Counter()
    first: dict[str, str] = {}
    looked = Looked()
    for number, parsed in enumerate(load([pinned(source) for source in sources], folder, on_bad_row="quarantine")):
        if number == LIMIT:
            break
        meaning = parsed.meaning
        outcome = meaning if isinstance(meaning, Rejection) else encoder.encode([meaning])[0]
        if isinstance(outcome, Rejection):
            aside[outcome.reason] += 1
            first.setdefault(outcome.reason, parsed.row.origin)
        else:
            used.append(outcome)
            looked.add(parsed, _turns(meaning))
            if len(used) <= shown:
                console.print(Text(f"{parsed.row.origin}  ", "dim") + _coloured(outcome, encoder))
    lengths = np.array([len(row.input_ids) for row in used] or [0])
    supervised = sum(int(row.supervised.sum()) for row in used) / max(1, int(lengths.sum()))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(aside.items())) or "none"
    part = f" (the first {LIMIT} rows)" if len(used) + aside.total() == LIMIT else ""
    console.print(
        f"{name}{part}: {len(used)} usable, set aside: {reasons}; tokens median {int(np.median(lengths))}, longest {lengths.max()}; "
        f"{supervised:.0%} of tokens carry loss\n",
        style="bold",
        markup=False,
    )
    return Seen(len(used), aside, first, looked)


def _turns(meaning: Conversation | Rejection) -> Turns:
    """Who says what; plain text is one turn of role "", token ids have none."""
    if isinstance(meaning, Rejection):
        return ()
    return meaning.messages or ((("", meaning.text),) if meaning.text is not None else ())


def _coloured(row: Row, encoder: Encoder) -> "Text":
    """The row's text, with what carries loss in green and between brackets."""
    from rich.text import Text

    pieces = np.split(np.arange(len(row.input_ids)), np.flatnonzero(np.diff(row.supervised.astype(np.int8))) + 1)
    text = Text()
    for piece in pieces:
        words = _visible(str(encoder.tokenizer.decode(row.input_ids[piece])))
        text.append(f"[[{words}]]" if row.supervised[piece[0]] else words, "green" if row.supervised[piece[0]] else "")
    return text


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)
