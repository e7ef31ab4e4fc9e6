"""What the last step of growth changed in every selection."""

from collections.abc import Mapping

import numpy as np

from curate.core import Features, Integers, Strings
from curate.pipelines.cells import Chosen
from curate.pipelines.experiment import Experiment
from curate.pipelines.select import read_selection, recorded
from curate.report.churned import Churn, Left
from curate.similarity import unit_rows
from curate.store import Store


def churn_of(store: Store, experiment: Experiment) -> list[Churn]:
    """One line for every selection that was also made of the pool before; empty where the pool did not grow."""
    before = {_place(one): one for one in experiment.earlier}
    return [_churn(store, before[_place(one)], one) for one in experiment.chosen if _place(one) in before]


def _place(one: Chosen) -> tuple[str, str, str, int]:
    return one.arm, one.target, str(one.budget), one.seed


def _churn(store: Store, before: Chosen, after: Chosen) -> Churn:
    old, new = (np.asarray(read_selection(one.artifact)["id"], np.str_) for one in (before, after))
    pool_before, pool_after = (recorded(store, one.artifact.manifest["summary"]["given"]).features()[0] for one in (before, after))
    came, left = new[~np.isin(new, old)], old[~np.isin(old, new)]
    return Churn(
        arm=after.arm,
        target=after.target or None,
        budget=str(after.budget),
        seed=after.seed,
        stayed=int(np.isin(new, old).sum()),
        came=came.tolist(),
        new=int((~np.isin(came, pool_before.ids)).sum()),
        left=_left(left, came, pool_after),
        gap_before=_gap(before.artifact.manifest["summary"]),
        gap_after=_gap(after.artifact.manifest["summary"]),
    )


def _left(left: Strings, came: Strings, pool: Features) -> list[Left]:
    """Why each row is no longer taken, and which of those that came is most like it."""
    still = np.isin(left, pool.ids)
    like = _most_alike(left[still], came, pool) if len(came) else {}
    return [
        Left(id=row, why="displaced", by=like.get(row, (None, None))[0], likeness=like.get(row, (None, None))[1]) if there else Left(id=row, why="removed")
        for row, there in zip(left.tolist(), still.tolist(), strict=True)
    ]


def _most_alike(left: Strings, came: Strings, pool: Features) -> Mapping[str, tuple[str, float]]:
    """By the row that went, the row that came with the largest cosine, and that; empty where rows have no vectors."""
    if pool.vectors is None or not len(left):
        return {}
    order = np.argsort(pool.ids)
    out, into = (order[np.searchsorted(pool.ids, names, sorter=order)] for names in (left, came))
    likeness = unit_rows(_rows(pool, out)) @ unit_rows(_rows(pool, into)).T
    best = np.argmax(likeness, axis=1)
    return {row: (str(came[best[number]]), round(float(likeness[number, best[number]]), 6)) for number, row in enumerate(left.tolist())}


def _rows(pool: Features, rows: Integers) -> Features:
    return Features.from_arrays(vectors=np.asarray(pool.vectors[rows]) if pool.vectors is not None else None, ids=pool.ids[rows].tolist())


def _gap(summary: Mapping[str, Mapping[str, float | None] | None]) -> float | None:
    certificate = summary["certificate"]
    return certificate["gap"] if certificate else None
