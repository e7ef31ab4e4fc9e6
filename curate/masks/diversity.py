"""How unlike one another the rows of a mask are, in closed forms whose cost is linear in the number of rows.

| form | D(S) of unit rows x_i | cost of D(S) |
|---|---|---|
| pairwise | -sum_{i != j} cos_ij / (K (K - 1)), from |sum_i x_i|^2 | K D |
| covariance | -|C_S|_F^2, C_S = sum_i x_i x_i^T / K, which is -sum_ij cos_ij^2 / K^2 | K D min(K, D) |
| facility | mean over A fixed anchors a of max_{i in S} (1 + cos_ia) / 2 | K D A |

The covariance is taken about the origin, so that its trace is one: about the mean of S, a set of copies would have norm zero, the
best there is. `Pairs` and `Anchors` measure masks of a pool that is read in blocks; `held` gives the effects of single rows on
masks of rows in memory (curate/masks/effects.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]
Form = Literal["pairwise", "covariance", "facility"]


class Diversity(Protocol):
    """D of a mask, from a summary of its rows that is added up block by block."""

    def summary(self, blocks: Iterable[Wide]) -> Wide:
        """What D needs of the rows: their mean (D,), their second moment (D, D), or the best similarity of each anchor (A,)."""

    def value(self, summary: Wide, count: int) -> float:
        """D of `count` unit rows with this summary; 0 for one row of `pairwise`."""


@dataclass(frozen=True)
class Pairs:
    """Minus the mean of cos^power over pairs: power 1 is `pairwise`, power 2 `covariance`."""

    power: Literal[1, 2]

    def summary(self, blocks: Iterable[Wide]) -> Wide:
        count, total = 0, np.zeros(0)
        for block in blocks:
            part = block.sum(axis=0) if self.power == 1 else block.T @ block
            total = part if count == 0 else total + part
            count += len(block)
        return np.asarray(total / max(count, 1))

    def value(self, summary: Wide, count: int) -> float:
        square = float(np.vdot(summary, summary))
        if self.power == 2:
            return -square
        return -(count * square - 1) / (count - 1) if count > 1 else 0.0

    def per_pair(self, count: int) -> float:
        """What a unit of cos^power between two rows, counted in both orders, takes from D of a mask of `count` rows."""
        if self.power == 2:
            return 1 / count**2
        return 1 / (count * (count - 1)) if count > 1 else 0.0


@dataclass(frozen=True)
class Anchors:
    """`facility`: how near the kept rows come to each of the fixed anchors (A, D)."""

    rows: NDArray[np.float32]

    def summary(self, blocks: Iterable[Wide]) -> Wide:
        best = np.zeros(len(self.rows))
        for block in blocks:
            best = np.maximum(best, self.similarity(block).max(axis=0, initial=0))
        return best

    def value(self, summary: Wide, count: int) -> float:
        return float(summary.mean())

    def similarity(self, block: NDArray[np.floating]) -> NDArray[np.float32]:
        """(B, A) (1 + cos) / 2, summed in float64 and kept in float32."""
        return np.asarray(np.maximum((block.astype(np.float64) @ self.rows.T.astype(np.float64) + 1) / 2, 0), np.float32)


def along(block: Wide, summary: Wide) -> Wide:
    """(B,) inner products of x_i, or of x_i x_i^T, with a summary of that shape."""
    return np.asarray(block @ summary if summary.ndim == 1 else np.einsum("bd,bd->b", block @ summary, block))
