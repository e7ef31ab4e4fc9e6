"""What a run did with one row of its pool, as a document and as text in the terminal."""

from typing import Any

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.core import Config
from curate.report.results import Number, QuarantinedRow
from curate.report.wording import number, visible

_SHORT_ID = 12


class NearTarget(Config):
    """A target row that is among the most alike."""

    id: str
    alike: float
    group: str = ""
    text: str = ""


class FeatureOfRow(Config):
    """One feature's numbers for the row."""

    feature: str
    target: str | None = None
    kind: str = Field(description="score, cosine, inner product or similarity.")
    value: Number = Field(None, description="The score, or the likeness to the nearest target row; absent where the row has no number.")
    below: Number = Field(None, description="Share of the pool's rows that score less.")
    nearest: list[NearTarget] = Field(default_factory=list)
    missing: str = Field("", description="Why the row has no number.")


class Instead(Config):
    """A row that was taken where this one was not: the most alike of them, or the last one by score."""

    id: str
    why: str
    kind: str = Field("", description="cosine to the row itself, or similarity to its nearest target row; empty for the last row by score.")
    alike: Number = None
    rank: int
    gain: Number = None
    score: Number = None
    text: str = ""


class Fate(Config):
    """What one arm did with the row at one budget, its seeds taken together."""

    arm: str
    target: str | None = None
    budget: str
    seeds: int
    taken: int = Field(description="With how many seeds.")
    ranks: list[int] = Field(default_factory=list, description="Of those seeds; 1 is best.")
    gain: Number = Field(None, description="Of the first of those seeds, likewise the weight.")
    weight: Number = None
    reason: str
    instead: Instead | None = Field(None, description="Where some seed left the row.")


class Explained(Config):
    """Everything that a run knows of one row."""

    run: str
    id: str
    text: str = ""
    source: dict[str, Any] = Field(default_factory=dict, description="The columns that it was read from.")
    tokens: int = 0
    supervised_tokens: int = 0
    group: str = ""
    features: list[FeatureOfRow] = Field(default_factory=list)
    fates: list[Fate] = Field(default_factory=list)
    quarantined: list[QuarantinedRow] = Field(default_factory=list, description="Where it was set aside, and why.")


def print_explained(found: Explained, console: Console) -> None:
    """The row, its numbers, then what became of it: per target and budget a line for every arm, and the row taken in its place below."""
    _say(console, f"row {found.id} of {found.run}", "bold")
    if found.tokens:
        _say(console, ", ".join(part for part in (f"{found.tokens:,} tokens, {found.supervised_tokens:,} with loss", found.group) if part))
    for line in found.text.split("\n") if found.text else ():
        _say(console, f"  {line}")
    for name, value in found.source.items():
        _say(console, f"  {name}: {_cut(value)}", "dim")
    for row in found.quarantined:
        origin = f" ({row.origin})" if row.origin else ""
        _say(console, f"set aside in {row.part}{origin}: {row.reason}{f', {row.detail}' if row.detail else ''}", "yellow")
    if found.tokens and not found.fates:
        _say(console, "the run stopped before it selected")
    for feature in found.features:
        _print_feature(feature, console)
    for place in dict.fromkeys((fate.target, fate.budget) for fate in found.fates):
        _print_fates([fate for fate in found.fates if (fate.target, fate.budget) == place], console)


def _print_feature(feature: FeatureOfRow, console: Console) -> None:
    name = f"{feature.feature} for {feature.target}" if feature.target else feature.feature
    if feature.value is None:
        _say(console, f"\n{name}: no number, {feature.missing}", "yellow")
        return
    share = f", above {feature.below:.0%} of the pool" if feature.below is not None else ""
    subject = "score" if feature.kind == "score" else f"{feature.kind} to the nearest target row"
    _say(console, f"\n{name}: {subject} {number(feature.value)}{share}", "bold")
    for near in feature.nearest:
        _say(console, f"  {near.alike:.3f}  {near.group}  {_cut(near.text)}")


def _print_fates(fates: list[Fate], console: Console) -> None:
    place = ", ".join(f"{word} {value}" for word, value in (("target", fates[0].target), ("budget", fates[0].budget)) if value)
    _say(console, f"\n{place}", "bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), safe_box=True)
    for name, justify in (("arm", "left"), ("taken", "left"), ("rank", "right"), ("gain", "right"), ("weight", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("why", overflow="fold")
    for fate in fates:
        ranks = fate.ranks if len(set(fate.ranks)) > 1 else fate.ranks[:1]
        cells = [fate.arm, _share(fate), ", ".join(map(str, ranks)), *(number(value) if fate.taken else "" for value in (fate.gain, fate.weight))]
        style = "green" if fate.taken == fate.seeds else "yellow" if fate.taken else ""
        table.add_row(*(_text(cell, console, style) for cell in cells), _text(_why(fate), console))
    console.print(table)


def _share(fate: Fate) -> str:
    if fate.taken == fate.seeds:
        return "yes" if fate.seeds == 1 else "with every seed"
    return f"with {fate.taken} of {fate.seeds} seeds" if fate.taken else "no" if fate.seeds == 1 else "never"


def _why(fate: Fate) -> str:
    other = fate.instead
    if other is None:
        return fate.reason
    numbers = [f"{name} {number(value)}" for name, value in (("gain", other.gain), ("score", other.score)) if value is not None]
    alike = f" ({other.kind} {other.alike:.3f})" if other.alike is not None else ""
    return f"{fate.reason}\n{other.why}{alike}: {other.id[:_SHORT_ID]}, {', '.join([f'rank {other.rank}', *numbers])}: {_cut(other.text)}"


def _cut(value: Any, limit: int = 160) -> str:
    text = str(value).replace("\n", " / ")
    return text if len(text) <= limit else text[:limit].rstrip() + " ..."


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(_text(line, console, style))


def _text(text: str, console: Console, style: str = "") -> Text:
    """Neither markup nor control characters, and nothing that the terminal's encoding lacks."""
    plain = visible(text, keep="\n")
    return Text(plain.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style)
