"""Masks of exactly K rows by Plackett-Luce: rows are drawn one after the other, each in proportion to e^{s_i} among those left.

Sampled by exponential clocks (Gumbel top-k; Kool et al., 2019): row i rings at Exp(1) / e^{s_i}, and the first K to ring are the mask.
The clocks of different rows are independent, so a row's own draw can be integrated out: given the others' clocks, it is
kept with probability 1 - e^{-a_i}, a_i = e^{s_i} tau_i, where tau_i is the K-th ring of the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.masks.diversity import Wide


@dataclass(frozen=True)
class Draws:
    """G masks of exactly K of n rows, 0 < K < n, and how they came about."""

    masks: NDArray[np.bool_]  # (G, n)
    last: Integers  # (G,) the K-th row to ring, the last of the mask
    first: Integers  # (G,) the next to ring, the first that is left out
    clocks: Wide  # (G, n) when each row rang
    rates: Wide  # (n,) e^{s - max s}

    def sensitivity(self) -> Wide:
        """(G, n) a_i e^{-a_i}: the derivative by s_i of the probability that row i is kept, given the others' clocks."""
        each = np.arange(len(self.masks))
        last, first = self.clocks[each, self.last], self.clocks[each, self.first]
        hazard = np.clip(self.rates * np.where(self.masks, first[:, None], last[:, None]), 1e-200, 300)
        return np.asarray(hazard * np.exp(-hazard))

    def scores(self) -> Wide:
        """(G, n) d log P(order of the K rows) / d s_i = [i kept] - e^{s_i} sum_t 1 / Z_t, over the draws t that i took part in.

        Z_t, the rates left before draw t, is a sum from the end, so nothing cancels.
        """
        out = self.masks.astype(np.float64)
        for g, mask in enumerate(self.masks):
            kept = np.flatnonzero(mask)
            kept = kept[np.argsort(self.clocks[g, kept])]
            left = np.cumsum(self.rates[kept][::-1])[::-1] + self.rates[~mask].sum()
            passed = np.cumsum(1 / left)
            out[g, kept] -= self.rates[kept] * passed
            out[g, ~mask] -= self.rates[~mask] * passed[-1]
        return out

    def left_out_mean(self, values: Wide) -> Wide:
        """(G,) mean of values (G, n) over the rows left out, in proportion to e^{s}: the expectation over which of them would have come next."""
        weights = np.where(self.masks, 0.0, self.rates)
        return np.asarray((weights * values).sum(axis=1) / weights.sum(axis=1))


def sample(logits: Wide, count: int, samples: int, generator: np.random.Generator) -> Draws:
    """G = `samples` masks of `count` rows; O(G n)."""
    rates = np.exp(np.maximum(logits - logits.max(), -200))
    clocks = generator.standard_exponential((samples, len(logits))) / rates
    order = np.argpartition(clocks, (count - 1, count), axis=1)
    masks = np.zeros(clocks.shape, np.bool_)
    np.put_along_axis(masks, order[:, :count], True, axis=1)
    return Draws(masks, order[:, count - 1], order[:, count], clocks, rates)
