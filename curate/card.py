"""The card of an exported data set: what was chosen for what, how, how far from optimal, and how to make it again."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from curate.core import Config
from curate.report.markdown import escape, fenced, table
from curate.report.results import CertificateRow
from curate.report.wording import gap, number, visible

_BEFORE = r"(?<![\w:/.*>)\]}-])"
_PATH = re.compile(rf"(?:file://|{_BEFORE}(?:~\w*)?/(?=[^\s/])|(?<!\w)[A-Za-z]:\\|\\\\)[^\s\"',;\]}})]*(?: +[^\s\"',:/\\]*[/\\][^\s\"',]*)*")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))
_MEANINGS = (
    "id of the row in the pool",
    "place in the selection, 0 is best",
    "weight of the row's loss in training",
    "the method's score, null where it has none",
    "why the row was taken",
)


class Source(Config):
    """One part of the pool that the rows come from."""

    name: str
    revision: str = "unknown"
    license: str = "unknown"


class Card(Config):
    """What the card and the manifest say besides the rows; local paths are taken out of every field."""

    name: str
    arm: str = ""
    target: str = Field("", description="What the rows were chosen for.")
    budget: str = ""
    seed: int | None = None
    pool_rows: int | None = None
    method: str = Field("", description="The arm as it stands in the recipe.")
    certificate: CertificateRow | None = None
    comparison: list[str] = Field(default_factory=list, description="Sentences of the report on this arm.")
    sources: list[Source] = Field(default_factory=list)
    license: str = "unknown"
    language: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    recipe: str = Field("", description="The resolved recipe, as YAML.")
    command: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


def readme(card: Card, *, columns: Mapping[str, str], names: Sequence[str], rows: int) -> str:
    """The Markdown of the card, with the front matter that the Hub and `datasets` read."""
    clean = Card.model_validate(without_local_paths(card.model_dump()))
    parts = [
        f"---\n{_front_matter(clean, rows)}---",
        f"# {escape(clean.name)}",
        _summary(clean, rows),
        "## How the rows were chosen",
        fenced(clean.method, "yaml") if clean.method else "The method is not recorded.",
        _certificate(clean.certificate),
        "## How it compares",
        "\n".join(f"- {escape(line)}" for line in clean.comparison) or "No comparison was recorded: nothing here shows that these rows beat random ones.",
        "## Columns",
        table(["column", "type", "meaning"], [[name, kind, dict(zip(names, _MEANINGS, strict=True)).get(name, "")] for name, kind in columns.items()], left=3),
        fenced('from datasets import load_dataset\n\nrows = load_dataset("THIS_FOLDER", split="train")', "python"),
        "## Sources and licence",
        _licence(clean),
        "## How to make it again",
        fenced(clean.command) if clean.command else "",
        fenced(clean.recipe, "yaml") if clean.recipe else "The recipe is not recorded.",
        escape(", ".join(f"{name} {version}" for name, version in clean.versions.items())),
        "manifest.json holds the hashes of the ids and of every data file.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def without_local_paths(value: Any) -> Any:
    """The same value with every absolute path cut to its file name and every access token taken out."""
    if isinstance(value, str):
        for root in sorted({os.getcwd(), str(Path.home())}, key=len, reverse=True):
            if root != os.path.dirname(root):
                value = re.sub(rf"{_BEFORE}{re.escape(root)}(?![\w.-])", "<local>", value)
        return _TOKEN.sub("<token>", _PATH.sub(_file_name, value))
    if isinstance(value, Mapping):
        return {without_local_paths(key): without_local_paths(item) for key, item in value.items()}
    return [without_local_paths(item) for item in value] if isinstance(value, list | tuple) else value


def _file_name(path: re.Match[str]) -> str:
    # The last part of a folder's path may be the user's name; that of a file has an ending.
    last = re.split(r"[/\\]", path[0].rstrip("/\\"))[-1]
    return f"<local>/{last}" if "." in last.strip(".") or "*" in last else "<local>"


def _front_matter(card: Card, rows: int) -> str:
    import yaml

    fields = {
        "pretty_name": visible(card.name),
        "license": visible(card.license) or "unknown",
        **({"language": list(map(visible, card.language))} if card.language else {}),
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "n>100M")],
        "task_categories": ["text-generation"],
        "tags": list(dict.fromkeys(["curate", "data-selection", *map(visible, card.tags)])),
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=False, width=10**6))


def _summary(card: Card, rows: int) -> str:
    pool = f" of {card.pool_rows:,}" if card.pool_rows else ""
    aim = f" for the target {card.target}" if card.target else ""
    facts = (f"arm {card.arm}" if card.arm else "", f"budget {card.budget}" if card.budget else "", f"seed {card.seed}" if card.seed is not None else "")
    how = ", ".join(fact for fact in facts if fact)
    return escape(f"{rows:,} rows{pool}, chosen by curate{aim}" + (f" ({how})." if how else "."))


def _certificate(row: CertificateRow | None) -> str:
    if row is None:
        return "No certificate: the method gives no bound on how far from optimal its selection is."
    side = "at most" if row.sense == "max" else "at least"
    return escape(f"Certificate ({row.kind}): objective {number(row.objective)}, {side} {number(row.bound)} is possible, gap {gap(row.gap)}.")


def _licence(card: Card) -> str:
    rows = [[source.name, source.revision, source.license] for source in card.sources]
    sources = table(["source", "revision", "licence"], rows, left=3) if rows else "The sources are not recorded."
    note = (
        "unknown. Check the licences of the sources before you share these rows or train on them." if card.license in ("", "unknown") else escape(card.license)
    )
    return f"{sources}\n\nLicence: {note}"
