"""Mass that target rows spread evenly over their nearest pool rows, as far as evenness is worth the distance: TSDS (Liu et al., 2024)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Features, Integers
from curate.gumbel import gumbel
from curate.interfaces import Selector
from curate.nearest_lists import NearestLists
from curate.similarity import Metric, Similarities

Wide = NDArray[np.float64]


class MassSelector(Selector):
    """Keeps the rows that receive most mass, or draws them by it."""

    alpha: float = Field(default=0.01, ge=1e-6, le=1, description="What closeness weighs against evenness: larger shares mass among fewer rows.")
    scale: float = Field(default=5.0, ge=1e-6, le=1e6, description="C: the scale of distances that alpha is relative to.")
    neighbours: int = Field(default=5000, ge=1, le=1_000_000, description="The most rows that a target row shares its mass among.")
    share: float = Field(default=0.1, gt=0, le=1, description="The same as a share of the pool, rounded down but one at least; the smaller of the two counts.")
    take: Literal["largest", "sampled"] = Field(default="largest", description="The rows of most mass, or a draw in proportion to it.")

    def near(self, rows: Features, target: Features | None, metric: Metric) -> "Neighbours":
        """The lists that mass is spread over."""
        return Neighbours.of(rows, target, metric, depth(len(rows), self.neighbours, self.share))

    def kept(self, near: "Neighbours", density: Wide, rows: Features, budget: Budget, seed: int) -> tuple[Integers, Wide]:
        """The rows that fill the budget, and the mass of each; `density` (M, L) says how the rows of the lists crowd."""
        received = mass(near, density, spread(near.away, density, (1 / self.alpha - 1) * self.scale * len(density)))
        chosen = budget.fill(by_mass(near, received, rows, seed if self.take == "sampled" else None), rows)
        return chosen, received[chosen]


@dataclass(frozen=True)
class Neighbours:
    """The L nearest pool rows of each of M target rows, at distance 1 - similarity, and how like its nearest target row each pool row is."""

    rows: Integers  # (M, L) nearest first
    away: Wide  # (M, L)
    nearest: NDArray[np.floating[Any]]  # (N,)

    @classmethod
    def of(cls, pool: Features, target: Features | None, metric: Metric, depth: int) -> "Neighbours":
        """From one pass over the pool; a depth beyond the pool is the whole pool."""
        alike = Similarities(pool, target, metric=metric)
        lists, nearest = NearestLists(alike.shape[1], min(depth, len(pool))), np.empty(len(pool))
        for start, block in alike.blocks():
            nearest[start : start + len(block)] = block.max(axis=1)
            lists.add(start, block)
        found = lists.lists()
        return cls(np.stack([rows for rows, _ in found]), 1 - np.stack([values for _, values in found]).astype(np.float64), nearest)


def depth(rows: int, neighbours: int, share: float) -> int:
    """L: the smaller of a number of neighbours and a share of the pool, rounded down; one at least."""
    return max(1, min(neighbours, int(Fraction(str(share)) * rows)))


def spread(away: Wide, density: Wide, toll: float) -> float:
    """The smallest s at which sum_i sum_{k <= K_i} (d_i,K_i+1 - d_ik) / density_ik >= toll, K_i(s) = max {K: sum_{k <= K} 1 / density_ik <= s}.

    s counts the distinct neighbours, rows in a crowd of c for 1 / c each, that a target row shares its mass among. With mass
    1 / (M s density) for a neighbour it solves

        min over plans g >= 0 with row sums 1 / M of  alpha / C <g, d> + (1 - alpha) M max_ij density_j g_ij

    for toll = C (1 / alpha - 1) M, since the left side is what sharing among a little more than s neighbours would cost in distance.
    Where it stays below the toll, s is the largest for which every list holds its row's mass. O(M L log(M L)).
    """
    counted = np.cumsum(1 / density, axis=1)
    at = counted[:, :-1].ravel()
    rises = (np.diff(away, axis=1) * counted[:, :-1]).ravel()
    order = np.argsort(at, kind="stable")
    reached = np.flatnonzero(np.cumsum(rises[order]) >= toll)
    held = float(counted[:, -1].min())
    return min(float(at[order[reached[0]]]), held) if len(reached) else held


def mass(neighbours: Neighbours, density: Wide, s: float) -> Wide:
    """(N,) what the pool rows receive: 1 / (M s density) of every target row, nearest first, until its 1 / M is spent."""
    share = 1 / density
    before = np.cumsum(share, axis=1) - share
    received = np.clip(s - before, 0, share) / (len(share) * s)
    return np.bincount(neighbours.rows.ravel(), weights=received.ravel(), minlength=len(neighbours.nearest)).astype(np.float64)


def by_mass(neighbours: Neighbours, received: Wide, pool: Features, seed: int | None) -> Integers:
    """All rows: those with mass first, by their mass or, with a seed, drawn without replacement in proportion to it; equal ones nearest first."""
    key = np.full(len(received), -np.inf)
    holds = np.flatnonzero(received > 0)
    key[holds] = np.log(received[holds])
    if seed is not None:
        key[holds] += gumbel(seed, "neighbour mass", pool.ids[holds])
    return np.lexsort((-neighbours.nearest, -key))
