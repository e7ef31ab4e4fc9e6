"""Hygiene: between prepare and score, what leaks and what repeats is found, left out where the recipe says so, and looked for again in what arms took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curate.core import Artifact
from curate.data.derived import write_derived
from curate.data.examples import INDEX, folders_of, in_reading_order, opened, quarantined
from curate.data.table import table_bytes
from curate.errors import DataError, IntegrityError
from curate.pipelines.cells import Chosen
from curate.pipelines.duplicates import find_duplicates, groups_of
from curate.pipelines.embedded import embedded
from curate.pipelines.evaluate import AnyExamination, Examination
from curate.pipelines.guarded import guarded_sets
from curate.pipelines.leaks import find_leaks, leaking_rows, stored_gate
from curate.pipelines.near_leaks import find_near_leaks
from curate.pipelines.select import read_selection
from curate.pipelines.semantic import Led, find_semantic, led_by
from curate.pipelines.session import Session
from curate.recipe import Hygiene, Recipe
from curate.store import Workspace

VERSION = 1
DROPPED = "dropped.parquet"
_MEASURED = {"near_duplicate": "similarity", "semantic_duplicate": "cosine"}


@dataclass(frozen=True)
class Cleaned:
    """What was found in the pool, and the pool without what had to go: the pool itself where nothing had to."""

    whole: Artifact
    leaks: Artifact
    duplicates: Artifact | None
    pool: Artifact
    semantic: Artifact | None = None


def clean(session: Session, recipe: Recipe, pool: Artifact, targets: Mapping[str, Artifact], examinations: Sequence[AnyExamination]) -> Cleaned:
    """Compare the pool with every target and evaluation, and its rows with each other; leave out what the recipe says."""
    hygiene = recipe.hygiene
    items = {one.label: Artifact(one.inputs[0], one.items, {}) for one in examinations if isinstance(one, Examination)}
    sets = guarded_sets(targets, ", ".join(recipe.target), examinations, items)
    near = hygiene.leaks.near
    beside = find_near_leaks(session, embedded(session, recipe, pool, near.encoder, "question"), pool, sets, hygiene.leaks) if near else None
    leaks = find_leaks(session, pool, sets, hygiene, beside)
    duplicates = find_duplicates(session, pool, hygiene) if hygiene.deduplicate != "none" else None
    semantic = find_semantic(session, recipe, pool, duplicates, leaks) if duplicates and hygiene.deduplicate == "semantic" else None
    if duplicates is None and not hygiene.decontaminate:
        return Cleaned(pool, leaks, None, pool)

    def make(workspace: Workspace) -> Mapping[str, Any]:
        leaking = leaking_rows(leaks, hygiene.drop) if hygiene.decontaminate else {}
        return _write(workspace, pool, _dropped(pool, leaking, duplicates, semantic))

    fields = {"drop": hygiene.drop if hygiene.decontaminate else None}
    inputs = [pool.key, *([leaks.key] if hygiene.decontaminate else []), *(one.key for one in (duplicates, semantic) if one)]
    return Cleaned(pool, leaks, duplicates, session.build("clean", "pool", make, fields=fields, inputs=inputs, version=VERSION), semantic)


def _dropped(pool: Artifact, leaking: Mapping[str, Mapping[str, Any]], duplicates: Artifact | None, semantic: Artifact | None) -> list[dict[str, Any]]:
    """A line for each row that has to go: leaks first, so that of a group of duplicates the first row stays that does not leak."""
    examples, order = opened(pool.path), in_reading_order(pool.path)
    lines = [_line(row, "leak", found["benchmark"], found["item"], found["cover"], found["matched"]) for row, found in leaking.items()]
    if duplicates is None:
        return lines
    names, groups = examples.ids[order], groups_of(duplicates)
    free, led = ~np.isin(names, list(leaking)), led_by(semantic) if semantic else None
    kept: dict[int, int] = {}
    for row in np.flatnonzero(free & _in_groups(groups.group)).tolist():
        head = kept.setdefault(int(groups.group[row]), row)
        if head != row:
            exact = groups.same[row] == groups.same[head]
            likeness = 1.0 if exact else float(groups.likeness[row])
            lines.append(_line(str(names[row]), "duplicate" if exact else "near_duplicate", "pool", str(names[head]), likeness, ""))
    return lines if led is None else _follow(lines, names, led)


def _follow(lines: list[dict[str, Any]], names: Any, led: Led) -> list[dict[str, Any]]:
    """The lines with those of semantic duplicates; a copy of such a row goes for the row that stays, too."""
    went = np.flatnonzero(led.row != np.arange(len(led.row)))
    stays = {str(names[row]): (str(names[led.row[row]]), float(led.likeness[row])) for row in went}
    led_lines = [_line(name, "semantic_duplicate", "pool", *partner, "") for name, partner in stays.items()]
    return [_line(one["id"], "semantic_duplicate", "pool", *stays[one["partner"]], "") if one["partner"] in stays else one for one in lines] + led_lines


def _in_groups(group: Any) -> Any:
    """(N,) which rows have others in their group."""
    return np.bincount(group, minlength=len(group))[group] > 1


def _line(row: str, reason: str, where: str, partner: str, likeness: float, matched: str) -> dict[str, Any]:
    return {"id": row, "reason": reason, "where": where, "partner": partner, "likeness": likeness, "matched": matched}


def _write(workspace: Workspace, pool: Artifact, dropped: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The index of what stays, over the rows of the whole; what went beside what had been set aside; and why."""
    import pyarrow.parquet as pq

    examples = opened(pool.path)
    gone = {line["id"]: line for line in dropped}
    stays = ~np.isin(examples.ids, list(gone))
    if len(gone) != len(dropped) or int((~stays).sum()) != len(gone):
        raise IntegrityError(f"rows do not reconcile: {len(dropped)} are to go, {int((~stays).sum())} of {len(stays)} are found; please report this")
    if not stays.any():
        raise DataError("pool: no row is left without leaks and duplicates; see hygiene in the recipe")
    index = pq.read_table(pool.path / INDEX).filter(stays)
    groups = dict(zip(examples.ids.tolist(), examples.groups.tolist(), strict=True))
    went = [{"id": row, "reason": line["reason"], "detail": _detail(line), "origin": groups[row]} for row, line in gone.items()]
    workspace.write(DROPPED, _table(sorted(dropped, key=lambda line: str(line["id"])), ("id", "reason", "where", "partner", "likeness", "matched")))
    return write_derived(workspace.write, index, folders_of(pool.key, index), [*quarantined(pool.path), *went], pool.manifest["summary"])


def _detail(line: Mapping[str, Any]) -> str:
    if line["reason"] == "leak":
        said = f": {line['matched'][:120]}" if line["matched"] else ""
        return f"{line['likeness']:.0%} of item {line['partner']} of {line['where']}{said}"
    return f"of row {line['partner']}" + (f", {_MEASURED[line['reason']]} {line['likeness']:.2f}" if line["reason"] in _MEASURED else "")


def _table(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    import pyarrow as pa

    return table_bytes(pa.table({name: pa.array([line[name] for line in lines], pa.float64() if name == "likeness" else pa.string()) for name in columns}))


def look_again(session: Session, hygiene: Hygiene, cleaned: Cleaned, chosen: Sequence[Chosen]) -> None:
    """Compare the rows that arms took once more, from their texts; IntegrityError if one leaks though leaks were to be left out."""
    if not hygiene.decontaminate or not chosen:
        return

    def make(workspace: Workspace) -> Mapping[str, Any]:
        gate, examples = stored_gate(cleaned.leaks), opened(cleaned.pool.path)
        taken = np.unique(np.concatenate([np.asarray(read_selection(one.artifact)["row"], np.int64) for one in chosen]))
        rows = [examples.rows[int(row)].content.turns for row in taken]
        for hit in gate.scan([[content for _, content in turns] for turns in rows]):
            name = str(examples.ids[taken[hit.row]])
            if gate.verdict(hit) in (hygiene.drop, "dirty") and name not in gate.rules.allow:
                held = gate.benchmarks[hit.benchmark]
                raise IntegrityError(f"row {name} was taken, and it holds {hit.cover:.0%} of item {held.items[hit.item].id} of {held.name}; please report this")
        return {"rows": len(taken)}

    keys = sorted({one.artifact.key for one in chosen})
    session.build("recheck", "rows taken", make, fields={"drop": hygiene.drop}, inputs=[cleaned.leaks.key, cleaned.pool.key, *keys], version=VERSION)
