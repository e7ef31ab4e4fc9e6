"""Find exported rows again in the data that the recipe names, and hold every field against what is there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from curate.card import LOCAL
from curate.core import Turns
from curate.data.conversation import Conversation
from curate.data.ledger import Ledger
from curate.data.load import Parsed, load
from curate.data.locate import fingerprint, pinned
from curate.data.source import Source
from curate.errors import DataError
from curate.exporting.columns import same
from curate.exporting.layouts import kind_of, shaped
from curate.exporting.manifest import Manifest

Rows = Sequence[Mapping[str, Any]]


def compared_with_pool(about: Manifest, rows: Mapping[str, Rows], folder: Path) -> tuple[list[str], list[str]]:
    """What was found again, a line for each configuration, and what differs, a line each: inputs, ids, fields. DataError where the data is not here."""
    recipe = yaml.safe_load(about["card"]["recipe"] or "{}")
    if not isinstance(recipe, dict) or not recipe.get("pool"):
        raise DataError("the export records no recipe")
    recorded = about["card"]["inputs"].get("stages", {}).get("examples pool", {}).get("sources", [])
    found = [_source(entry, folder, before) for entry, before in zip(recipe["pool"], recorded or [{}] * len(recipe["pool"]), strict=True)]
    wrong = [line for source, before in zip(found, recorded, strict=False) for line in _changed(source, folder, before)]
    wanted = {str(row[about["configs"][name]["added_columns"]["id"]]) for name, part in rows.items() for row in part}
    upstream = dict(_found_again(found, folder, wanted, recipe.get("hygiene", {}).get("on_bad_row", "error")))
    said = []
    for name, part in rows.items():
        differ = list(_differences(name, about, part, upstream))
        wrong += differ
        if not differ:
            said.append(f"{name}: all {len(part)} rows were found again in the pool, with every field the same")
    return said, wrong


def _source(entry: Mapping[str, Any], folder: Path, recorded: Mapping[str, Any]) -> Source:
    """The source of a recipe, its path taken to lie in `folder` where it was one of the machine that exported, its revision the one that was read."""
    fields = dict(entry)
    path = fields.get("path")
    if isinstance(path, str) and path.startswith(LOCAL):
        fields["path"] = path.removeprefix(LOCAL).lstrip("/") or "."
    if fields.get("hub") and recorded.get("revision"):
        fields["revision"] = recorded["revision"]
    return Source.model_validate(fields)


def _changed(source: Source, folder: Path, recorded: Mapping[str, Any]) -> list[str]:
    """What of a source is not what it was when the rows were chosen."""
    now = fingerprint(pinned(source), folder)
    before, after = ({file["name"]: file for file in facts.get("files_read", [])} for facts in (recorded, now))
    wrong = [f"pool: file {name} was read then and is not here" for name in sorted(before.keys() - after.keys())]
    wrong += [f"pool: file {name} is here and was not read then" for name in sorted(after.keys() - before.keys())]
    wrong += [
        f"pool: file {name} has other bytes ({after[name]['bytes']}, {before[name]['bytes']} then)"
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]
    for fact in ("revision", "rows_made"):
        if recorded.get(fact) != now.get(fact):
            wrong.append(f"pool: {source.label}: {fact.replace('_', ' ')} is {now.get(fact)}, {recorded.get(fact)} then")
    return wrong


def _found_again(sources: Sequence[Source], folder: Path, wanted: set[str], on_bad_row: Any) -> Iterator[tuple[str, Parsed]]:
    """The wanted rows by their ids, in one pass over the pool that keeps no others."""
    ledger, kept = Ledger(), {}
    contents = {row.partition("-")[0] for row in wanted}
    for parsed in load(sources, folder, on_bad_row=on_bad_row):
        ordinal = ledger.enter(parsed)
        if (parsed.row.id or "") in wanted or parsed.key.hex() in contents:
            kept[ordinal] = parsed
    ids = ledger.ids()
    for ordinal, parsed in kept.items():
        if str(ids[ordinal]) in wanted:
            yield str(ids[ordinal]), parsed


def _differences(name: str, about: Manifest, rows: Rows, upstream: Mapping[str, Parsed]) -> Iterator[str]:
    """A line for every row that is not in the pool, and for every field that is another there."""
    config = about["configs"][name]
    added = set(config["added_columns"].values())
    ids = [str(row[config["added_columns"]["id"]]) for row in rows]
    yield from (f"{name}: row {missing!r} is not in the pool" for missing in ids if missing not in upstream)
    here = [(row, row_id, upstream[row_id]) for row, row_id in zip(rows, ids, strict=True) if row_id in upstream]
    for (row, row_id, _), expected in zip(here, _expected(about["layout"], [parsed for _, _, parsed in here], ids), strict=True):
        stored = {column: value for column, value in row.items() if column not in added}
        for column in dict.fromkeys([*expected, *stored]):
            if not same(stored.get(column), expected.get(column)):
                yield f"{name}: row {row_id!r}: field {column!r} differs from the pool's"


def _expected(layout: Any, parsed: Sequence[Parsed], ids: Sequence[str]) -> list[dict[str, Any]]:
    """The columns that rows of the pool have in this layout, without those that are added."""
    if layout == "datasets":
        return [json.loads(one.source_json) for one in parsed]
    said = [_turns(one) for one in parsed]
    kind = kind_of(said, ids[: len(said)])
    return [shaped(layout, kind, turns) for turns in said]


def _turns(parsed: Parsed) -> Turns:
    meaning = parsed.meaning
    if not isinstance(meaning, Conversation):
        return ()
    return meaning.messages if meaning.messages is not None else (("", meaning.text or ""),)
