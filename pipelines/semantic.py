"""Semantic duplicates: rows of the pool whose vectors are alike, after those were found that say exactly the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Integers
from curate.data.examples import in_reading_order, opened
from curate.features import map_tensors
from curate.hygiene.leaders import EXACT, Leaders, leaders
from curate.hygiene.settings import Semantic
from curate.hygiene.vectors import share_alike
from curate.pipelines.duplicates import groups_of
from curate.pipelines.embedded import embedded, vectors_of
from curate.pipelines.leaks import leaking_rows
from curate.pipelines.session import Session
from curate.randomness import row_keys, uniform
from curate.recipe import Hygiene, Recipe
from curate.store import Workspace

VERSION = 1
LEADERS = "leaders.safetensors"
SAMPLE = 1000  # rows of which all pairs show whether the encoder tells rows apart


@dataclass(frozen=True)
class Led:
    """Of each row, by its place in reading order (N,): the row that stays for it by their vectors, itself where none does, and the cosine."""

    row: Integers
    likeness: NDArray[np.float64]


def find_semantic(session: Session, recipe: Recipe, pool: Artifact, duplicates: Artifact, leaks: Artifact) -> Artifact:
    """Which row stays for each; among the first of each group of exact duplicates that do not leak, where leaks are left out."""
    hygiene = recipe.hygiene
    rules = hygiene.semantic or Semantic()
    vectors = embedded(session, recipe, pool, rules.encoder)
    leaking = [leaks.key] if hygiene.decontaminate else []

    def make(workspace: Workspace) -> Mapping[str, Any]:
        names = opened(pool.path).ids[in_reading_order(pool.path)]
        places, rows = vectors_of(vectors)
        stays = _heads(hygiene, names, groups_of(duplicates).same, leaks)
        compared = np.flatnonzero(stays[places])
        mine, some = places[compared], rows.take(compared)
        found = leaders(some, rules.at, row_keys(0, "semantic duplicates", names[mine]))
        drawn = np.sort(np.argsort(uniform(0, "semantic sample", names[mine]), kind="stable")[:SAMPLE])
        workspace.write(LEADERS, _tensors(mine, found, len(names)))
        return {
            "rows": len(names),
            "semantic": int((found.row != np.arange(len(mine))).sum()),
            "compared": len(mine),
            "exhaustive": len(mine) <= EXACT,
            "unread": int(stays.sum()) - len(mine),
            "alike_by_chance": share_alike(some[drawn], rules.at) if len(drawn) > 1 else 0.0,
        }

    fields = {"at": rules.at, "drop": hygiene.drop if leaking else None}
    return session.build("semantic", "pool (semantic duplicates)", make, fields=fields, inputs=[vectors.key, duplicates.key, *leaking], version=VERSION)


def _heads(hygiene: Hygiene, names: Any, same: Integers, leaks: Artifact) -> NDArray[np.bool_]:
    """(N,) the first row of each group of exact duplicates, of the rows that are not left out as leaks."""
    free = ~np.isin(names, list(leaking_rows(leaks, hygiene.drop))) if hygiene.decontaminate else np.ones(len(names), np.bool_)
    rows = np.flatnonzero(free)
    heads = np.zeros(len(names), np.bool_)
    heads[rows[np.unique(same[rows], return_index=True)[1]]] = True
    return heads


def _tensors(places: Integers, found: Leaders, count: int) -> bytes:
    from safetensors.numpy import save

    row, likeness = np.arange(count), np.ones(count)
    row[places], likeness[places] = places[found.row], found.likeness
    return save({"row": row, "likeness": likeness})


def led_by(semantic: Artifact) -> Led:
    """What was found."""
    tensors = map_tensors(semantic.path / LEADERS)
    return Led(np.array(tensors["row"], np.int64), np.array(tensors["likeness"]))
