"""How faithful sketched similarities are to exact ones, measured on a pilot, and the width that would make them so.

A CountSketch of width k adds noise to <x, y> of variance |x|^2 |y|^2 / k. What all pool rows have in common moves them together, so
ranking suffers only from the rest: with c the share of the pool's energy that lies in its mean, s the standard deviation of
a target row's exact similarities, and e the mean of |x| |y|,

    Pearson(k) = s / sqrt(s^2 + e^2 (1 - c) / k)

(e = 1 for unit vectors, less on the rebalanced scale).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]

SPEARMAN, OVERLAP = 0.95, 0.9  # what counts as faithful
_PEARSON = 0.97  # the law's own value that gives about that rank correlation
_SHARE = 0.05


@dataclass(frozen=True)
class Law:
    """The noise law with its constants as a pilot found them."""

    spread: float  # s
    energy: float  # e^2 (1 - c)

    def pearson(self, width: int) -> float:
        """Correlation of sketched with exact similarities at this width."""
        return float(self.spread / np.sqrt(self.spread**2 + self.energy / width)) if self.spread > 0 else 0.0

    def width(self, pearson: float = _PEARSON) -> int:
        """The smallest power of two whose correlation reaches `pearson`; 2^30 where none below does."""
        noise = self.spread**2 * (1 / pearson**2 - 1)
        needed = self.energy / noise if noise > 0 else 2.0**30
        return 1 << int(np.ceil(np.log2(max(1.0, min(needed, 2.0**30)))))


def law_of(exact: Wide, pool: Wide, target: Wide) -> Law:
    """The law from exact similarities (N, M) and wide sketches of pool (N, K) and target rows (M, K), whose lengths are those of the rows."""
    energy, rows = float((pool**2).sum(1).mean()), len(pool)
    mean = max(0.0, (float((pool.mean(0) ** 2).sum()) - energy / rows) * rows / max(1, rows - 1))
    spread = float(np.sqrt(exact.var(0, ddof=1).mean())) if rows > 1 else 0.0
    return Law(spread, float((target**2).sum(1).mean()) * max(0.0, energy - mean))


def agreement(exact: Wide, found: Wide) -> Mapping[str, float]:
    """Rank correlation within a target row, and overlap of the top twentieth of the pool: of the mean similarity, and of each target row's own."""
    from scipy.stats import spearmanr

    top = max(1, int(_SHARE * len(exact)))
    ranks = [float(spearmanr(mine, theirs).statistic) for mine, theirs in zip(exact.T, found.T, strict=True)]
    single = [_overlap(mine, theirs, top) for mine, theirs in zip(exact.T, found.T, strict=True)]
    return {
        "spearman": float(np.nanmean(ranks)) if np.isfinite(ranks).any() else 0.0,
        "overlap": _overlap(exact.mean(1), found.mean(1), top),
        "overlap_per_target": float(np.mean(single)),
    }


def faithful(found: Mapping[str, float]) -> bool:
    """Whether the agreement is as good as it should be."""
    return found["spearman"] >= SPEARMAN and found["overlap"] >= OVERLAP


def _overlap(mine: Wide, theirs: Wide, top: int) -> float:
    best = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (mine, theirs))
    return len(set.intersection(*best)) / top
