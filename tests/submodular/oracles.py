"""Every objective beside its formula, written down once more in float64 with loops over sets and nothing remembered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from curate.core import Features
from curate.facility import DenseFacility, SparseFacility, TiledFacility
from curate.submodular.feature_based import FeatureBased
from curate.submodular.graph import Graph
from curate.submodular.graph_cut import GraphCut
from curate.submodular.kernel import Tiles
from curate.submodular.log_determinant import LogDeterminant
from curate.submodular.mutual_information import GaussianInformation, Modular, QueryFacility
from curate.submodular.objective import Objective
from curate.submodular.saturated import SaturatedCoverage, SparseSaturatedCoverage

Value = Callable[[list[int]], float]


@dataclass(frozen=True)
class Case:
    """An objective and its formula."""

    objective: Objective
    value: Value


def unit(n: int, seed: int = 0, width: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, width))[rng.integers(3, size=n)] + 0.7 * rng.normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def alike(rows: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    return (1 + rows.astype(np.float64) @ (rows if others is None else others).astype(np.float64).T) / 2


def nearest_only(similar: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, m) each row's most similar rows, and (N, N) the similarities without the others."""
    near = np.argsort(-similar, axis=1, kind="stable")[:, :m]
    kept = np.zeros_like(similar)
    np.put_along_axis(kept, near, np.take_along_axis(similar, near, axis=1), axis=1)
    return near, kept


def covered(similar: np.ndarray, cap: np.ndarray | float = np.inf) -> Value:
    return lambda rows: float(np.minimum(similar[:, rows].max(axis=1), cap).sum()) if rows else 0.0


def saturated(similar: np.ndarray, share: float) -> Value:
    return lambda rows: float(np.minimum(similar[:, rows].sum(axis=1), share * similar.sum(axis=1)).sum())


def cut(similar: np.ndarray, weight: float) -> Value:
    return lambda rows: float(sum(similar[:, j].sum() for j in rows) - weight * sum(similar[i, j] for i in rows for j in rows))


def totals(rows: np.ndarray, shape: Callable[[np.ndarray], np.ndarray]) -> Value:
    split = np.concatenate([np.maximum(rows, 0), np.maximum(-rows, 0)], axis=1).astype(np.float64)
    return lambda kept: float(shape(split[kept].sum(axis=0)).sum())


def positive_columns(rows: np.ndarray) -> Value:
    return lambda kept: float(sum(any(rows[j, d] > 0 for j in kept) for d in range(rows.shape[1])))


def volume(rows: np.ndarray, scale: float) -> Value:
    wide = rows.astype(np.float64)
    return lambda kept: float(np.linalg.slogdet(np.eye(len(kept)) + scale * wide[kept] @ wide[kept].T)[1]) if kept else 0.0


def queries(similar: np.ndarray, strength: float) -> Value:
    return lambda rows: float(similar[rows].max(axis=0).sum() + strength * similar[rows].max(axis=1).sum()) if rows else 0.0


def shared(rows: np.ndarray, target: np.ndarray, scale: float, strength: float) -> Value:
    """log det L_S - log det (L_S - e^2 L_SQ L_Q^-1 L_QS), L = I + a times the Gram matrix."""
    wide, goal = rows.astype(np.float64), target.astype(np.float64)

    def value(kept: list[int]) -> float:
        own = np.eye(len(kept)) + scale * wide[kept] @ wide[kept].T
        cross = strength * scale * wide[kept] @ goal.T
        rest = own - cross @ np.linalg.inv(np.eye(len(goal)) + scale * goal @ goal.T) @ cross.T
        return float(np.linalg.slogdet(own)[1] - np.linalg.slogdet(rest)[1]) if kept else 0.0

    return value


def graph(similar: np.ndarray, m: int) -> Graph:
    near = np.argsort(-similar, axis=1, kind="stable")[:, :m]
    return Graph(near.astype(np.int32), np.take_along_axis(similar, near, axis=1))


def cases(n: int, seed: int = 0) -> dict[str, Case]:
    """Every objective over n rows, with its formula."""
    rows, goal = unit(n, seed), unit(3, seed + 1)
    pool = Features.from_arrays(vectors=rows)
    similar, to_target = alike(rows), alike(rows, goal)
    near = nearest_only(similar, max(2, n // 3))[1]
    cap = 0.9 * to_target.max(axis=1)
    step = (similar >= (1 + 0.5) / 2).astype(np.float64)
    tiles, steps, narrow = Tiles(rows), Tiles(rows, 0.5), cap.astype(np.float32)
    few = graph(similar, max(2, n // 3))
    return {
        "facility, dense": Case(DenseFacility(tiles.whole().alike), covered(similar)),
        "facility, tiled": Case(TiledFacility(tiles), covered(similar)),
        "facility, neighbours": Case(SparseFacility(few), covered(near)),
        "flvmi, dense": Case(DenseFacility(tiles.whole().alike, narrow), covered(similar, cap)),
        "flvmi, tiled": Case(TiledFacility(tiles, narrow), covered(similar, cap)),
        "flvmi, neighbours": Case(SparseFacility(few.reshaped(None, narrow)), covered(near, cap)),
        "set cover, dense": Case(DenseFacility(steps.whole().alike), covered(step)),
        "set cover, neighbours": Case(SparseFacility(few.reshaped(0.5, None)), covered(np.where(near > 0, step, 0.0))),
        "set cover, columns": Case(FeatureBased(pool, "cover"), positive_columns(rows)),
        "saturated, dense": Case(SaturatedCoverage(tiles.whole(), 0.3), saturated(similar, 0.3)),
        "saturated, tiled": Case(SaturatedCoverage(tiles, 0.3), saturated(similar, 0.3)),
        "saturated, neighbours": Case(SparseSaturatedCoverage(few, 0.3), saturated(near, 0.3)),
        "graph cut": Case(GraphCut(rows, 0.5), cut(similar, 0.5)),
        "graph cut, not monotone": Case(GraphCut(rows, 3.0), cut(similar, 3.0)),
        "features, root": Case(FeatureBased(pool, "root"), totals(rows, np.sqrt)),
        "features, log": Case(FeatureBased(pool, "log"), totals(rows, np.log1p)),
        "log-determinant": Case(LogDeterminant(rows, 2.0), volume(rows, 2.0)),
        "flqmi": Case(QueryFacility(to_target.T.astype(np.float32), 0.7), queries(to_target, 0.7)),
        "gcmi": Case(Modular(to_target.sum(axis=1)), lambda kept: float(to_target[kept].sum())),
        "logdetmi": Case(GaussianInformation(rows, goal, 2.0, 1.0), shared(rows, goal, 2.0, 1.0)),
        "logdetmi, weaker": Case(GaussianInformation(rows, goal, 2.0, 0.6), shared(rows, goal, 2.0, 0.6)),
    }


NAMES = sorted(cases(4))
MONOTONE = [name for name in NAMES if name != "graph cut, not monotone"]
SUBMODULAR = [name for name in NAMES if not name.startswith("logdetmi")]
