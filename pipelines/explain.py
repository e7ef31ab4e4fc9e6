"""Explain: what a finished run did with one row of its pool, read off its folder and the store, of which nothing is changed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from curate.core import Artifact, Examples, Strings
from curate.data.examples import opened
from curate.data.examples import quarantined as set_aside
from curate.errors import DataError, IntegrityError
from curate.features import quarantined as unscored
from curate.pipelines.check import stages_of
from curate.pipelines.describe_likeness import Likeness
from curate.pipelines.describe_reasons import Sight, percentile, words
from curate.pipelines.describe_taken import Numbers, Taken
from curate.pipelines.launch import read_results
from curate.pipelines.select import Given
from curate.report.explained import Explained, Fate, FeatureOfRow, Instead, NearTarget
from curate.report.results import QuarantinedRow, Results, SelectionRow
from curate.store import Store, read_json, verify

_PREFIX = 6  # characters of an id that are enough, if no other begins alike
_TEXT, _NEAR = 4000, 200  # characters
_POOLS = ("examples", "clean", "grown")  # stages that make what arms choose from; the last that a run came to counts


class Untouched(Store):
    """A store that is only read: a damaged artifact is an error, and stays where it is."""

    def find(self, key: str) -> Artifact | None:
        if key not in self._verified and (self.root / key / "manifest.json").is_file():
            if damage := verify(self.root / key):
                raise IntegrityError(f"{damage[0]}; run the recipe again to compute it")
            self._verified[key] = Artifact(key, self.root / key, read_json(self.root / key / "manifest.json"))
        return self._verified.get(key)


def explain(directory: Path, store: Path, row: str, arm: str | None = None) -> Explained:
    """The row of this id, or of the only one that begins so, with its numbers and what every arm, or one, did with it.

    DataError where no row, or no arm, of the run is meant; IntegrityError where something it was made from is missing or damaged.
    """
    results, place = read_results(directory), Untouched(store)
    stages = stages_of(directory)
    labels = {stage["key"]: stage["label"] for stage in stages if stage["stage"] == "examples"}
    pool = _found(place, next((stage["key"] for stage in reversed(stages) if stage["stage"] in _POOLS and stage["label"].startswith("pool")), ""))
    examples, aside = opened(pool.path), {entry["id"]: entry for entry in set_aside(pool.path)}
    name = _meant(row, examples, sorted(aside))
    if name in aside:
        return Explained(run=results.name, id=name, quarantined=[QuarantinedRow(part="pool", **aside[name])])
    selections, numbers, at = _selections(results, arm), Numbers(pool, place), int(np.searchsorted(examples.ids, name))
    content, recipe = examples.rows[at].content, yaml.safe_load(results.recipe)
    taken = [(chosen, Taken.of(_found(place, chosen.key), chosen.arm, chosen.budget, chosen.seed, chosen.matched_to)) for chosen in selections]
    return Explained(
        run=results.name,
        id=name,
        text=words(content, _TEXT),
        source=dict(content.fields),
        tokens=int(examples.lengths[at]),
        supervised_tokens=int(examples.supervised[at]),
        group=str(examples.groups[at]),
        features=_features(recipe["arms"], taken, numbers, at, labels),
        fates=_fates(taken, numbers, at),
        quarantined=[entry for entry in results.quarantined if entry.id == name and entry.part in recipe["features"]],
    )


def _found(store: Store, key: str) -> Artifact:
    found = store.find(key) if key else None
    if found is None:
        raise DataError(f"{store.root / key} is missing; run the recipe again to compute it, or name its folder with --store")
    return found


def _meant(row: str, examples: Examples, aside: Sequence[str]) -> str:
    """The id that is given in full, or by a beginning that only it has."""
    begun = [name for ids in (examples.ids, np.asarray(aside, np.str_)) for name in _beginning(ids, row)]
    if row in begun:
        return row
    if not begun:
        place = int(np.searchsorted(examples.ids, row))
        beside = " and ".join(map(str, examples.ids[max(0, place - 1) : place + 1]))
        raise DataError(f"no row of the pool has the id {row!r}, nor one that begins so; in the order of ids, {beside or 'none'} would be beside it")
    if len(row) < _PREFIX:
        raise DataError(f"{row!r} is no whole id of the pool, and too short for the beginning of one; give at least {_PREFIX} characters")
    if len(begun) > 1:
        raise DataError(f"{len(begun)} rows of the pool have ids that begin with {row!r}, such as {', '.join(begun[:3])}; give more characters")
    return begun[0]


def _beginning(ids: Strings, row: str) -> list[str]:
    """Those of the sorted ids that begin so."""
    names: list[str] = ids[np.searchsorted(ids, row) : np.searchsorted(ids, row + chr(0x10FFFF))].tolist()
    return names


def _selections(results: Results, arm: str | None) -> list[SelectionRow]:
    """Those of one arm, or all; an error that lists the arms there are."""
    found = [chosen for chosen in results.selections if arm in (None, chosen.arm)]
    if arm is not None and not found:
        known = ", ".join(dict.fromkeys(chosen.arm for chosen in results.selections))
        raise DataError(f"run {results.name} has no selection of arm {arm!r}; there are {known or 'none'}")
    return found


def _features(
    arms: Mapping[str, Any], taken: Sequence[tuple[SelectionRow, Taken]], numbers: Numbers, row: int, labels: Mapping[str, str]
) -> list[FeatureOfRow]:
    """Every feature that one of the selections read, once for each target that the row was compared with."""
    found: dict[tuple[str, ...], FeatureOfRow] = {}
    for chosen, one in taken:
        given, method = numbers.given(one), arms.get(chosen.arm, {})
        if given is None:
            continue
        compared = method.get("vectors") or method.get("similarity")
        likeness = numbers.likeness(given)
        if compared and likeness and (key := (compared, likeness.word, given.target.key)) not in found:
            artifact = given.similarity[0] if given.similarity else given.vectors[0] if given.vectors else None
            target = labels.get(given.target.key, "").removeprefix("target").strip() or None
            found[key] = _compared(compared, target, likeness, artifact, Sight.of(one, numbers), row)
        if given.scores and (key := (method["scores"], "score", given.scores.key)) not in found:
            found[key] = _scored(method["scores"], chosen.target, given, numbers, row)
    alone = Counter((feature.feature, feature.kind) for feature in found.values())
    of_all = {"target": None}  # a score that is the same for every target belongs to none
    return [one.model_copy(update=of_all) if one.kind == "score" and alone[one.feature, one.kind] == 1 else one for one in found.values()]


def _compared(name: str, target: str | None, likeness: Likeness, artifact: Artifact | None, sight: Sight, row: int) -> FeatureOfRow:
    near = sight.nearest(row)
    if not near:
        return FeatureOfRow(feature=name, target=target, kind=likeness.word, missing=_why_missing(artifact, str(sight.examples.ids[row])))
    nearest = [
        NearTarget(
            id=str(likeness.target.ids[one.place]), alike=one.value, group=str(likeness.target.groups[one.place]), text=words(one.content, _NEAR)
        )
        for one in near
    ]
    return FeatureOfRow(feature=name, target=target, kind=likeness.word, value=near[0].value, nearest=nearest)


def _scored(name: str, target: str | None, given: Given, numbers: Numbers, row: int) -> FeatureOfRow:
    scores = numbers.scores(given.scores)
    if scores is None or not np.isfinite(scores[row]):
        return FeatureOfRow(feature=name, target=target, kind="score", missing=_why_missing(given.scores, str(numbers.examples.ids[row])))
    return FeatureOfRow(feature=name, target=target, kind="score", value=float(scores[row]), below=percentile(scores, row))


def _why_missing(artifact: Artifact | None, name: str) -> str:
    return dict(unscored(artifact)).get(name, "it was set aside") if artifact else "nothing was stored"


def _fates(taken: Sequence[tuple[SelectionRow, Taken]], numbers: Numbers, row: int) -> list[Fate]:
    """One for every arm, target and budget, in the order of the run."""
    by_place: dict[tuple[str, str | None, str], list[Taken]] = {}
    for chosen, one in taken:
        by_place.setdefault((chosen.arm, chosen.target, chosen.budget), []).append(one)
    return [_fate(arm, target, budget, seeds, numbers, row) for (arm, target, budget), seeds in by_place.items()]


def _fate(arm: str, target: str | None, budget: str, seeds: Sequence[Taken], numbers: Numbers, row: int) -> Fate:
    ranks = {number: int(place[0]) for number, one in enumerate(seeds) if len(place := np.flatnonzero(one.rows == row))}
    left = [one for number, one in enumerate(seeds) if number not in ranks]
    first = seeds[min(ranks)] if ranks else None
    sight = Sight.of(first or left[0], numbers)
    return Fate(
        arm=arm,
        target=target,
        budget=budget,
        seeds=len(seeds),
        taken=len(ranks),
        ranks=[rank + 1 for rank in ranks.values()],
        gain=float(first.gains[ranks[min(ranks)]]) if first else None,
        weight=float(first.weights[ranks[min(ranks)]]) if first else None,
        reason=sight.why_taken(row) if first else sight.why_left(row, other=False),
        instead=_instead(Sight.of(left[0], numbers), row) if left else None,
    )


def _instead(sight: Sight, row: int) -> Instead | None:
    """The row taken that is most like this one; by scores alone, the last one taken."""
    other, alike = sight.instead(row) or (None, None)
    kind = "cosine" if sight.likeness and sight.likeness.has_vectors else "similarity"
    why = "of the rows taken, most like it" if kind == "cosine" else "of the rows taken, nearest to that target row"
    if other is None and sight.scores is not None and len(sight.taken.rows):
        other, why, kind = int(sight.taken.rows[-1]), "the last row taken", ""
    if other is None:
        return None
    rank = int(np.flatnonzero(sight.taken.rows == other)[0])
    return Instead(
        id=str(sight.examples.ids[other]),
        why=why,
        kind=kind,
        alike=alike,
        rank=rank + 1,
        gain=float(sight.taken.gains[rank]),
        score=float(sight.scores[other]) if sight.scores is not None else None,
        text=words(sight.examples.rows[other].content, _NEAR),
    )
