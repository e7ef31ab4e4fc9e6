"""What single rows do to a mask: the value of adding, dropping or exchanging one, for every row of a pool in memory.

With f the diversity term of J, already weighted and scaled, and S a mask of K rows: gain_i = f(S + i) - f(S - i) for every row i, and
exchange(i, j) is what makes f(S - i + j) = f(S) - gain_i + gain_j + exchange(i, j). All are exact and cost as much as f itself per
row, so a policy gradient can credit each row with its own effect.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.masks.diversity import Anchors, Diversity, Pairs, Wide, along

_BLOCK = 1024  # rows whose float64 copy stays in the processor's cache

Masks = NDArray[np.bool_]  # (G, n)


class Growing(Protocol):
    """A mask that grows from nothing: the gains of all rows (n,) on top of it."""

    gains: Wide

    def add(self, row: int) -> None:
        """Put a row in, and bring the gains up to date."""


class Effects(Protocol):
    """The diversity term f over n rows in memory; the pairwise forms are scaled as for masks of K rows, whatever a mask's size."""

    def values(self, masks: Masks) -> Wide:
        """(G,) f of each mask."""

    def gains(self, masks: Masks) -> Wide:
        """(G, n) the gain of every row."""

    def exchanges(self, masks: Masks, last: Integers, first: Integers) -> Wide:
        """(G, n) exchange(i, first) for the rows of a mask, exchange(last, i) for the others; `last` (G,) is in the mask, `first` (G,) is not."""

    def growing(self) -> Growing:
        """An empty mask, to be grown row by row."""


def products(vectors: NDArray[np.float32], points: Wide) -> Wide:
    """(P, n) inner products of every row (n, D) with points (P, D), in float64."""
    out = np.empty((len(points), len(vectors)))
    for start in range(0, len(vectors), _BLOCK):
        out[:, start : start + _BLOCK] = points @ vectors[start : start + _BLOCK].astype(np.float64).T
    return out


def effects_of(form: Diversity, vectors: NDArray[np.float32], size: int, scale: float) -> Effects:
    """The effects of unit rows (n, D) on masks of about `size` rows, for `scale` times a diversity."""
    if isinstance(form, Anchors):
        blocks = [form.similarity(vectors[start : start + _BLOCK]) for start in range(0, len(vectors), _BLOCK)]
        return AnchorEffects(np.concatenate(blocks), scale)
    if isinstance(form, Pairs):
        return PairEffects(vectors, form.power, scale * form.per_pair(size), scale / size if form.power == 2 else 0.0)
    raise TypeError(f"no effects are known for {type(form).__name__}")


@dataclass(frozen=True)
class PairEffects:
    """f(S) = -per_pair sum_{i != j} cos_ij^power - constant."""

    vectors: NDArray[np.float32]
    power: int
    per_pair: float
    constant: float

    def values(self, masks: Masks) -> Wide:
        pairs = [float(np.vdot(total, total)) - np.count_nonzero(mask) for total, mask in zip(self._totals(masks), masks, strict=True)]
        return -self.per_pair * np.asarray(pairs) - self.constant

    def gains(self, masks: Masks) -> Wide:
        totals = self._totals(masks)
        inner = products(self.vectors, totals) if self.power == 1 else np.stack([self._along(total) for total in totals])
        return np.asarray(-2 * self.per_pair * (inner - masks))

    def exchanges(self, masks: Masks, last: Integers, first: Integers) -> Wide:
        partners = products(self.vectors, self.vectors[np.concatenate([first, last])].astype(np.float64))
        return np.asarray(2 * self.per_pair * np.where(masks, partners[: len(masks)], partners[len(masks) :]) ** self.power)

    def growing(self) -> Growing:
        return GrowingPairs(self)

    def _totals(self, masks: Masks) -> Wide:
        """(G, D) sums of the kept rows, or (G, D, D) of their outer products."""
        kept = [self.vectors[mask].astype(np.float64) for mask in masks]
        return np.stack([rows.sum(axis=0) if self.power == 1 else rows.T @ rows for rows in kept])

    def _along(self, total: Wide) -> Wide:
        """(n,) x_i^T total x_i."""
        return np.concatenate([along(self.vectors[at : at + _BLOCK].astype(np.float64), total) for at in range(0, len(self.vectors), _BLOCK)])


class GrowingPairs:
    """Cosines are rounded to float32, so that copies have equal gains wherever they stand."""

    def __init__(self, effects: PairEffects) -> None:
        self.gains: Wide = np.zeros(len(effects.vectors))
        self._effects = effects

    def add(self, row: int) -> None:
        held = self._effects
        alike = products(held.vectors, held.vectors[row : row + 1].astype(np.float64))[0].astype(np.float32)
        self.gains -= 2 * held.per_pair * alike.astype(np.float64) ** held.power


@dataclass(frozen=True)
class AnchorEffects:
    """f(S) = scale mean_a max_{i in S} similarity (n, A); 0 for no rows."""

    similarity: NDArray[np.float32]
    scale: float

    def values(self, masks: Masks) -> Wide:
        return np.asarray([self.scale * float(self.similarity[mask].max(axis=0, initial=0).mean(dtype=np.float64)) for mask in masks])

    def gains(self, masks: Masks) -> Wide:
        out = np.empty(masks.shape)
        for g, mask in enumerate(masks):
            best, second, holder = self._tops(mask)
            out[g] = self.above(best)
            out[g, mask] = np.bincount(holder, (best - second) / len(best), minlength=len(mask))[mask]
        return self.scale * out

    def exchanges(self, masks: Masks, last: Integers, first: Integers) -> Wide:
        out = np.empty(masks.shape)
        for g, mask in enumerate(masks):
            best, second, holder = self._tops(mask)
            own = np.flatnonzero(holder == last[g])
            out[g] = np.clip(self.similarity[:, own] - second[own], 0, best[own] - second[own]).sum(axis=1)
            regained = np.clip(self.similarity[first[g]] - second, 0, best - second)
            out[g, mask] = np.bincount(holder, regained, minlength=len(mask))[mask]
        return np.asarray(self.scale * out / self.similarity.shape[1])

    def growing(self) -> Growing:
        return GrowingAnchors(self)

    def above(self, best: Wide) -> Wide:
        """(n,) mean over anchors of what each row has above `best` (A,)."""
        out = np.empty(len(self.similarity))
        for start in range(0, len(self.similarity), _BLOCK):
            over = np.maximum(self.similarity[start : start + _BLOCK].astype(np.float64) - best, 0)
            out[start : start + len(over)] = np.einsum("ba->b", over) / len(best)
        return out

    def _tops(self, mask: NDArray[np.bool_]) -> tuple[Wide, Wide, Integers]:
        """Of each anchor: the best and the second best similarity of the mask's rows, and the row that is best; 0 and row 0 for none."""
        rows, anchors = np.flatnonzero(mask), np.arange(self.similarity.shape[1])
        if len(rows) == 0:
            nothing = np.zeros(len(anchors))
            return nothing, nothing, np.zeros(len(anchors), np.int64)
        kept = self.similarity[rows].astype(np.float64)
        at = kept.argmax(axis=0)
        best = kept[at, anchors]
        kept[at, anchors] = 0
        return best, kept.max(axis=0), rows[at]


class GrowingAnchors:
    """The best similarity of each anchor so far."""

    def __init__(self, effects: AnchorEffects) -> None:
        self._effects = effects
        self._best = np.zeros(effects.similarity.shape[1])
        self.gains: Wide = effects.scale * effects.above(self._best)

    def add(self, row: int) -> None:
        self._best = np.maximum(self._best, self._effects.similarity[row])
        self.gains = self._effects.scale * self._effects.above(self._best)
