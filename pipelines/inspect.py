"""Inspect: the data as the model would see it, before anything is computed on it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curate.core import Row
from curate.data.conversation import Rejection
from curate.data.load import load
from curate.data.locate import pinned
from curate.data.source import Source
from curate.data.template import Encoder
from curate.errors import DataError
from curate.model import load_tokenizer, resolve
from curate.recipe import Recipe, label_of

if TYPE_CHECKING:
    from rich.text import Text

LIMIT = 2000


def inspect_data(recipe: Recipe, folder: Path, shown: int) -> None:
    """Print, for the pool, the target and each evaluation, what its first rows become; DataError if one has no usable row."""
    handle = resolve(recipe.model, folder)
    encoder = Encoder(load_tokenizer(handle), handle.max_length)
    parts = {"pool": recipe.pool, **{f"target {name}": sources for name, sources in recipe.target.items()}}
    parts |= {f"evaluation {label_of(entry)}": entry.data for entry in recipe.evaluate}
    empty = [name for name, sources in parts.items() if not _inspect(name, sources, folder, encoder, shown)]
    if empty:
        raise DataError(f"{', '.join(empty)}: no row can be used; the reasons are above")


def _inspect(name: str, sources: list[Source], folder: Path, encoder: Encoder, shown: int) -> int:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    used: list[Row] = []
    aside: dict[str, int] = {}
    for number, parsed in enumerate(load([pinned(source) for source in sources], folder, on_bad_row="quarantine")):
        if number == LIMIT:
            break
        meaning = parsed.meaning
        outcome = meaning if isinstance(meaning, Rejection) else encoder.encode([meaning])[0]
        if isinstance(outcome, Rejection):
            aside[outcome.reason] = aside.get(outcome.reason, 0) + 1
        else:
            used.append(outcome)
            if len(used) <= shown:
                console.print(Text(f"{parsed.row.origin}  ", "dim") + _coloured(outcome, encoder))
    lengths = np.array([len(row.input_ids) for row in used] or [0])
    supervised = sum(int(row.supervised.sum()) for row in used) / max(1, int(lengths.sum()))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(aside.items())) or "none"
    first = f" (the first {LIMIT} rows)" if len(used) + sum(aside.values()) == LIMIT else ""
    console.print(
        f"{name}{first}: {len(used)} usable, set aside: {reasons}; tokens median {int(np.median(lengths))}, longest {lengths.max()}; "
        f"{supervised:.0%} of tokens carry loss\n",
        style="bold",
        markup=False,
    )
    return len(used)


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
