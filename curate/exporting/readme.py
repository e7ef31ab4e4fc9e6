"""The text of a card: front matter that the Hub reads, and a body that a person reads; nothing from data acts as markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.card import Card, Chosen, licence_of
from curate.report.markdown import escape, fenced, table
from curate.report.results import CertificateRow
from curate.report.wording import gap, number, visible

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_LISTED = 40  # licences and sources of rows
_COMPARED = ["task", "metric", "these rows", "random rows", "difference [95%]", "verdict"]
_MEANINGS = (
    "id of the row in the pool",
    "place in the selection, 0 is best",
    "weight of the row's loss in training",
    "the method's score, null where it has none",
    "why the row was taken",
)


@dataclass(frozen=True)
class Shape:
    """One configuration as it was written: how many rows, its columns, the names of those that were added, its files as a glob."""

    name: str
    rows: int
    columns: Mapping[str, str]
    added: Sequence[str]
    files: str


def readme(card: Card, shapes: Sequence[Shape], snippet: tuple[str, str, str] | None) -> str:
    """The Markdown of a clean card. `snippet` is the trainer's: file name, language, text."""
    parts = [
        f"---\n{_front_matter(card, shapes)}---",
        f"# {escape(card.name)}",
        *(part for shape, chosen in _paired(card, shapes) for part in _section(shape, chosen, several=len(shapes) > 1)),
        "## Contamination",
        _leaks(card),
        "## Load it",
        fenced(_loading(shapes), "python"),
        *_training(snippet),
        "## Columns",
        *(part for shape in shapes[:1] for part in _columns(shape)),
        "## Sources and licence",
        _licence(card),
        "## How to make it again",
        fenced(card.command) if card.command else "The command is not recorded.",
        fenced(card.recipe, "yaml") if card.recipe else "The recipe is not recorded.",
        "`curate verify THIS_FOLDER --data DIR` finds the rows again in the data that the recipe names, below DIR, and compares ids, contents and hashes.",
        escape(", ".join(f"{name} {version}" for name, version in card.versions.items())),
        "manifest.json holds the hashes of the ids, of every file, and of the data and the model that the rows were chosen by.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paired(card: Card, shapes: Sequence[Shape]) -> list[tuple[Shape, Chosen]]:
    by_name = {chosen.config: chosen for chosen in card.chosen}
    return [(shape, by_name.get(shape.name, Chosen(config=shape.name))) for shape in shapes]


def _front_matter(card: Card, shapes: Sequence[Shape]) -> str:
    import yaml

    licences, name = licence_of(card)
    rows = sum(shape.rows for shape in shapes)
    size = next((word for power, word in enumerate(_SIZES) if rows < 10 ** (power + 3)), "10B<n<100B")
    configs: list[dict[str, Any]] = [{"config_name": shape.name, "data_files": [{"split": "train", "path": shape.files}]} for shape in shapes]
    if len(configs) > 1:
        configs[0]["default"] = True
    upstream = list(dict.fromkeys(source.name for source in card.sources if source.hub))
    fields = {
        "pretty_name": visible(card.name),
        "license": licences[0] if len(licences) == 1 else licences,
        **({"license_name": name} if "other" in licences else {}),
        **({"language": list(map(visible, card.language))} if card.language else {}),
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "tags": list(dict.fromkeys(["curate", "data-selection", *map(visible, card.tags)])),
        **({"source_datasets": list(map(visible, upstream))} if upstream else {}),
        "configs": configs,
    }
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=False, width=10**6))


def _section(shape: Shape, chosen: Chosen, *, several: bool) -> list[str]:
    deeper = "###" if several else "##"
    compared = table(_COMPARED, chosen.comparison, left=2) if chosen.comparison else ""
    return [
        f"## {escape(shape.name)}" if several else "",
        _summary(shape.rows, chosen),
        f"{deeper} How the rows were chosen",
        fenced(chosen.method, "yaml") if chosen.method else "The method is not recorded.",
        "\n".join(f"- {escape(line)}" for line in chosen.formulas),
        _certificate(chosen.certificate),
        f"{deeper} How it compares",
        compared or "No comparison was recorded: nothing here shows that these rows beat random ones.",
    ]


def _summary(rows: int, chosen: Chosen) -> str:
    pool = f" of {chosen.pool_rows:,}" if chosen.pool_rows else ""
    aim = f" for the target {chosen.target}" if chosen.target else ""
    facts = (
        f"arm {chosen.arm}" if chosen.arm else "",
        f"budget {chosen.budget}" if chosen.budget else "",
        f"seed {chosen.seed}" if chosen.seed is not None else "",
    )
    how = ", ".join(fact for fact in facts if fact)
    return escape(f"{rows:,} rows{pool}, chosen by curate{aim}" + (f" ({how})." if how else "."))


def _certificate(row: CertificateRow | None) -> str:
    if row is None:
        return "No certificate: the method gives no bound on how far from optimal its selection is."
    side = "at most" if row.sense == "max" else "at least"
    return escape(f"Certificate ({row.kind}): objective {number(row.objective)}, {side} {number(row.bound)} is possible, gap {gap(row.gap)}.")


def _leaks(card: Card) -> str:
    if card.leaks is None:
        return "Not checked: whether rows here stand in a benchmark too is not known."
    if len(card.leaks) < 2:
        return "Not checked: there was no target and no evaluation to compare with."
    taken = [f"- {escape(f'{chosen.config}: ' if len(card.chosen) > 1 else '')}{escape(chosen.leaking)}" for chosen in card.chosen if chosen.leaking]
    return "\n\n".join(part for part in (table(card.leaks[0], card.leaks[1:], left=len(card.leaks[0])), "\n".join(taken)) if part)


def _loading(shapes: Sequence[Shape]) -> str:
    named = "" if len(shapes) == 1 and shapes[0].name == "default" else f"{shapes[0].name!r}, "
    others = f"  # or {', '.join(repr(shape.name) for shape in shapes[1:])}" if len(shapes) > 1 else ""
    return f'from datasets import load_dataset\n\nrows = load_dataset("THIS_FOLDER", {named}split="train"){others}'


def _training(snippet: tuple[str, str, str] | None) -> list[str]:
    if snippet is None:
        return []
    name, language, text = snippet
    note = f"{name}, beside this file, is a start. Rows are in the order of the selection, best first; the trainer does not read their weights."
    return ["## Train on it", note, fenced(text, language)]


def _columns(shape: Shape) -> list[str]:
    meanings = dict(zip(shape.added, _MEANINGS, strict=True))
    return [table(["column", "type", "meaning"], [[name, kind, meanings.get(name, "")] for name, kind in shape.columns.items()], left=3)]


def _licence(card: Card) -> str:
    licences, _ = licence_of(card)
    rows = [[source.name, source.revision, source.license] for source in card.sources]
    sources = table(["source", "revision", "licence"], rows, left=3) if rows else "The sources are not recorded."
    counted = _counted(card.licenses)
    stated = card.license or " and ".join(licences)
    note = f"unknown{' in part' if len(licences) > 1 else ''}. Check the licences of the sources before you share these rows or train on them."
    return "\n\n".join(part for part in (sources, counted, f"Licence: {note if 'unknown' in licences else escape(stated)}") if part)


def _counted(licences: Mapping[str, Mapping[str, int]]) -> str:
    """Rows by licence and source, largest first; the smallest as one line where there are many."""
    lines = [(name, source, rows) for name, sources in licences.items() for source, rows in sources.items()]
    shown = [[name, source, f"{rows:,}"] for name, source, rows in lines[:_LISTED]]
    if rest := lines[_LISTED:]:
        shown.append(["others", f"{len(rest)} more", f"{sum(rows for _, _, rows in rest):,}"])
    return table(["licence of rows", "source of rows", "rows"], shown, left=2) if shown else ""
