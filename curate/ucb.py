"""Upper confidence bounds for arms that lie near one another: what is known of each, and which to pull next."""

import numpy as np
from numpy.typing import NDArray

from curate.core import Floats


class Arms:
    """UCB1 (Auer et al., 2002) in which an arm starts from what its neighbours gave.

        index_i = (S_i + p_i m_i) / (n_i + p_i) + alpha sigma sqrt(2 ln n / (n_i + p_i))

    n_i rewards of arm i sum to S_i, n is all rewards, sigma their standard deviation, so alpha has no unit and neither shift nor
    scale of the rewards matters. m_i is the mean of the neighbours' rewards, each counted with the neighbour's weight, and p_i that
    count, at most `trust`: neighbours spare an arm its first pulls, but do not bias it for ever. An arm of which nothing
    is known comes first. O(A) per pull after the (A, A) weights.
    """

    def __init__(self, weights: Floats, *, alpha: float, trust: float) -> None:
        self._weights = np.array(weights, np.float64)
        np.fill_diagonal(self._weights, 0.0)
        self._alpha, self._trust = alpha, trust
        arms = len(self._weights)
        self.counts, self._sums = np.zeros(arms), np.zeros(arms)
        self._lent, self._lent_sums = np.zeros(arms), np.zeros(arms)
        self._mean, self._squares = 0.0, 0.0

    def record(self, arm: int, rewards: Floats) -> None:
        """Rewards (B,) that the arm gave."""
        wide = np.asarray(rewards, np.float64)
        before, count, total = self.counts.sum(), len(wide), float(wide.sum())
        shift = total / count - self._mean
        self._squares += float(np.square(wide - total / count).sum()) + shift**2 * before * count / (before + count)
        self._mean += shift * count / (before + count)
        self.counts[arm] += count
        self._sums[arm] += total
        self._lent += self._weights[:, arm] * count
        self._lent_sums += self._weights[:, arm] * total

    def means(self) -> NDArray[np.float64]:
        """(A,) the mean reward of each arm, NaN where it was never pulled."""
        means: NDArray[np.float64] = np.divide(self._sums, self.counts, out=np.full(len(self.counts), np.nan), where=self.counts > 0)
        return means

    def index(self) -> NDArray[np.float64]:
        """(A,) how promising each arm is."""
        lent = np.minimum(self._lent, self._trust)
        known = self.counts + lent
        told = np.divide(self._lent_sums, self._lent, out=np.zeros(len(known)), where=self._lent > 0)
        safe = np.where(known > 0, known, 1.0)
        pulls = max(self.counts.sum(), 1.0)
        # Where all rewards are equal any scale will do: only then is an arm chosen by its count alone.
        sigma = np.sqrt(self._squares / pulls) or 1.0
        index = (self._sums + lent * told) / safe + self._alpha * sigma * np.sqrt(2 * np.log(pulls) / safe)
        return np.where(known > 0, index, np.inf)
