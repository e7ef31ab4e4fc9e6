"""Leaks: every row of the pool compared with every target and every evaluation set, over the cluster, in bounded memory."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from curate.core import Artifact, Row
from curate.data.examples import in_reading_order, opened
from curate.data.table import table_bytes
from curate.errors import DataError
from curate.hygiene.benchmark import LeakRules
from curate.hygiene.leaks import Gate, Hit, Verdict
from curate.hygiene.normalise import Strip, excerpt, words
from curate.pipelines.guarded import Guarded, read_written, written
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.store import Workspace

VERSION = 1
ROWS = 16384  # in a shard
LEAKS = "leaks.parquet"
_ITEMS = "items.jsonl"
_SHOWN, LETTERS = 5, 400  # examples of a benchmark, and letters of each text
_DIRTY = 0.01  # share of dirty items from which a benchmark is dirty
UNSAID = {"matched": "", "row_text": "", "item_text": ""}  # of a pair of which the texts are not shown
_RANK = {"clean": 0, "suspicious": 1, "dirty": 2}


@dataclass(frozen=True)
class ScanTask:
    """A stretch of the pool, in reading order, to be compared."""

    workspace: Path
    pool: Path
    sets: tuple[tuple[str, str, str], ...]  # name, role, key
    rules: LeakRules
    start: int
    stop: int


def find_leaks(session: Session, pool: Artifact, sets: Sequence[Guarded], hygiene: Hygiene, near: Artifact | None = None) -> Artifact:
    """What of the targets and evaluations stands in the pool. DataError where a target is made of items of an evaluation and nobody said that it is meant.

    `near` holds what is alike by vectors (`find_near_leaks`); what is found by words too counts as that.
    """
    rules = hygiene.leaks.words

    def make(workspace: Workspace) -> Mapping[str, Any]:
        workspace.write(_ITEMS, written(sets))
        named = tuple((one.name, one.role, one.key) for one in sets)
        overlaps = _overlaps(gate_of(workspace.path / _ITEMS, named, rules), sets)
        _refuse_overlap(overlaps, hygiene.target_overlap)
        count = len(opened(pool.path))
        tasks = [ScanTask(workspace.path, pool.path, named, rules, start, min(count, start + ROWS)) for start in range(0, count, ROWS)]
        unread = sum(session.cluster.map(scan, tasks, label="leaks"))
        table = _collected(workspace.path, tasks)
        if near is not None:
            table += _beside(read_leaks(near), table)
        workspace.write(LEAKS, parquet_of(table))
        items = Counter(json.loads(line)[0] for line in (workspace.path / _ITEMS).read_bytes().splitlines())
        benchmarks = [_benchmark(one, number, items[number], table, pool) for number, one in enumerate(sets)]
        return {"benchmarks": benchmarks, "overlaps": overlaps, "rows": count, "unread": unread}

    fields = {"sets": [one.identity() for one in sets], "rules": rules.model_dump(mode="json"), "target_overlap": hygiene.target_overlap}
    return session.build("leaks", "pool (leaks)", make, fields=fields, inputs=[pool.key, *([near.key] if near else [])], version=VERSION)


@lru_cache(maxsize=2)
def gate_of(path: Path, named: tuple[tuple[str, str, str], ...], rules: LeakRules) -> Gate:
    """The gate over the items in this file, once per process."""
    return Gate.of(read_written(path, [{"name": name} for name, _, _ in named]), rules)


def stored_gate(leaks: Artifact) -> Gate:
    """The gate that this artifact was made with."""
    fields = leaks.manifest["fields"]
    named = tuple((one["name"], one["role"], one["key"]) for one in fields["sets"])
    return gate_of(leaks.path / _ITEMS, named, LeakRules.model_validate(fields["rules"]))


def scan(task: ScanTask) -> int:
    """Compare these rows and commit what leaks; returns how many have no text to compare (token ids)."""
    workspace, name = Workspace(task.workspace), f"hits-{task.start // ROWS:05d}.parquet"
    if found := workspace.committed(name):
        return int(found["unread"])
    gate, examples = gate_of(task.workspace / _ITEMS, task.sets, task.rules), opened(task.pool)
    order = in_reading_order(task.pool)[task.start : task.stop]
    rows: Sequence[Row] = [examples.rows[int(place)] for place in order]
    turns = [[content for _, content in row.content.turns] for row in rows]
    names = [str(examples.ids[int(place)]) for place in order]
    table = _lines(gate, gate.scan(turns), turns, names)
    unread = sum(not said for said in turns)
    workspace.commit(name, parquet_of(table), {"unread": unread})
    return unread


def _lines(gate: Gate, hits: Sequence[Hit], turns: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each pair of a row and an item that it leaks; texts only for the worst of each row and benchmark."""
    lines: dict[tuple[int, int, int], tuple[int, float, Hit, Verdict]] = {}
    for hit in hits:
        verdict, key = gate.verdict(hit), (hit.row, hit.benchmark, hit.item)
        rank = (_RANK[verdict], hit.cover)
        if rank[0] and names[hit.row] not in gate.rules.allow and (key not in lines or rank > lines[key][:2]):
            lines[key] = (*rank, hit, verdict)
    worst: dict[tuple[int, int], tuple[int, float, int]] = {}
    for (row, benchmark, item), (level, cover, _, _) in lines.items():
        worst[row, benchmark] = max(worst.get((row, benchmark), (0, 0.0, 0)), (level, cover, -item))
    made = []
    for (row, number, item), (level, cover, hit, verdict) in sorted(lines.items(), key=lambda pair: pair[0]):
        shown = worst[row, number] == (level, cover, -item)
        line = {"id": names[row], "benchmark": number, "item": gate.benchmarks[number].items[item].id, "verdict": verdict}
        made.append({**line, "part": hit.part, "kind": hit.kind, "cover": cover, **_said(gate, hit, turns[row][hit.turn], shown=shown)})
    return made


def _said(gate: Gate, hit: Hit, turn: str, *, shown: bool) -> dict[str, str]:
    """The stretch in normal form, and both texts around it."""
    if not shown:
        return UNSAID
    item = gate.benchmarks[hit.benchmark].items[hit.item]
    matched = Strip.of([words(turn)]).words_of(*hit.there)
    here = item.question if hit.part == "question" else item.answer
    return {"matched": matched[:LETTERS], "row_text": excerpt(turn, *hit.there)[:LETTERS], "item_text": excerpt(here, *hit.here)[:LETTERS]}


_COLUMNS = ("id", "benchmark", "item", "verdict", "part", "kind", "cover", "matched", "row_text", "item_text")


def parquet_of(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A table of pairs of a row and an item that it leaks."""
    import pyarrow as pa

    kinds = {"benchmark": pa.int32(), "cover": pa.float64()}
    return table_bytes(pa.table({name: pa.array([line[name] for line in lines], kinds.get(name, pa.large_string())) for name in _COLUMNS}))


def _collected(path: Path, tasks: Sequence[ScanTask]) -> list[dict[str, Any]]:
    """The lines of all shards."""
    return [line for task in tasks for line in read_pairs(path / f"hits-{task.start // ROWS:05d}.parquet")]


def _beside(near: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pairs of `near` that are not in the table, without texts where the row has those of a worse leak of the same set."""
    known = {(line["id"], line["benchmark"], line["item"]) for line in table}
    told = {(line["id"], line["benchmark"]) for line in table}
    new = [line for line in near if (line["id"], line["benchmark"], line["item"]) not in known]
    return [{**line, **(UNSAID if (line["id"], line["benchmark"]) in told else {})} for line in new]


def read_leaks(leaks: Artifact) -> list[dict[str, Any]]:
    """Every pair of a row and an item that it leaks."""
    return read_pairs(leaks.path / LEAKS)


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """What `parquet_of` wrote."""
    import pyarrow.parquet as pq

    return [dict(line) for line in pq.read_table(path, page_checksum_verification=True).to_pylist()]


def _benchmark(one: Guarded, number: int, items: int, table: Sequence[Mapping[str, Any]], pool: Artifact) -> dict[str, Any]:
    """What was found of one set: items by their worst verdict, rows by theirs, and the first few to read."""
    mine = [line for line in table if line["benchmark"] == number]
    by_item, by_row = _worst(mine, "item"), _worst(mine, "id")
    dirty, suspicious = by_item["dirty"], by_item["suspicious"]
    verdict = "dirty" if dirty and dirty >= _DIRTY * items else "suspicious" if dirty or suspicious else "clean"
    shown = sorted((line for line in mine if line["matched"]), key=lambda line: (-_RANK[line["verdict"]], -line["cover"], line["id"]))[:_SHOWN]
    return {
        "name": one.name,
        "role": one.role,
        "verdict": verdict,
        "items": {"all": items, "dirty": dirty, "suspicious": suspicious},
        "rows": {"dirty": by_row["dirty"], "suspicious": by_row["suspicious"]},
        "kinds": dict(sorted(Counter(line["kind"] for line in mine if line["verdict"] == "dirty").items())),
        "shown": [{name: line[name] for name in _COLUMNS if name != "benchmark"} for line in shown],
    }


def _worst(lines: Sequence[Mapping[str, Any]], by: str) -> Counter[str]:
    """How many rows, or items, have each verdict as their worst."""
    worst: dict[str, str] = {}
    for line in lines:
        if _RANK[line["verdict"]] > _RANK[worst.get(line[by], "clean")]:
            worst[line[by]] = line["verdict"]
    return Counter(worst.values())


def _overlaps(gate: Gate, sets: Sequence[Guarded]) -> list[dict[str, Any]]:
    """How many rows of each target are items of each evaluation."""
    found = []
    for target in (one for one in sets if one.role == "target"):
        rows = list(target.items())
        held: dict[int, dict[int, str]] = {}
        for hit in gate.scan([(row.question, row.answer) if row.answer else (row.question,) for row in rows]):
            if gate.verdict(hit) == "dirty" and sets[hit.benchmark].role == "evaluation":
                held.setdefault(hit.benchmark, {}).setdefault(hit.row, gate.benchmarks[hit.benchmark].items[hit.item].id)
        for number, taken in sorted(held.items()):
            first = min(taken)
            line = {"target": target.name, "evaluation": sets[number].name, "rows": len(taken), "of": len(rows)}
            found.append({**line, "row": rows[first].id, "item": taken[first]})
    return found


def _refuse_overlap(overlaps: Sequence[Mapping[str, Any]], limit: float) -> None:
    for one in overlaps:
        if one["rows"] > limit * one["of"]:
            raise DataError(
                f"target {one['target']}: {one['rows']} of its {one['of']} rows are items of evaluation {one['evaluation']} (such as row {one['row']}): "
                "what is selected for cannot be evaluated on; take the target from another split, or set hygiene.target_overlap: 100% if it is meant"
            )


def leaking_rows(leaks: Artifact, drop: Verdict) -> dict[str, dict[str, Any]]:
    """The rows to leave out by id, each with the worst that it leaks; benchmarks by name."""
    named = [one["name"] for one in leaks.manifest["fields"]["sets"]]
    found: dict[str, dict[str, Any]] = {}
    for line in read_leaks(leaks):
        known = found.get(line["id"])
        rank = (_RANK[line["verdict"]], line["cover"], line["matched"] != "")
        if rank[0] >= _RANK[drop] and (known is None or rank > (_RANK[known["verdict"]], known["cover"], known["matched"] != "")):
            found[line["id"]] = {**line, "benchmark": named[line["benchmark"]]}
    return found
