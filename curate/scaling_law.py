"""What more tokens of a filtered pool are worth: the scaling law for data filtering, which tells new rows from repeated ones.

The pool is cut into buckets of N tokens, best first. Training on the buckets S, p of them, for n tokens leaves the loss

    y = d + a exp(-b G),   b = mean of b_i over S,   G = sum_k (1/2)^(k / (p tau)) (x(n_k) - x(n_{k-1})),   x(n) = log n

where n_k = min(n, (k + 1) p N) are the tokens seen when pass k = 0, 1, ... ends, and n_{-1} is one token. In the first
pass that is the power law d + a n^-b. In pass k the utility is b_k = b (1/2)^(k / (p tau)), and the loss above d falls
by (n_k / n_{k-1})^-b_k; d itself never falls (Goyal et al., "Scaling Laws for Data Filtering", CVPR 2024).

Fine-tuning begins with a model that has learned, as if from `start` tokens before the first one: x(n) = log(1 + n / start),
so that y = d + a before training (the pre-learned data of Lin et al., "Rectified Scaling Law", ICML 2024).

The half-life of p buckets is p tau passes, so it is proportional to the tokens of the pool; that also tells what a part of
a bucket says of the whole. A bucket of negative utility does harm. That utilities average is the law's own assumption: it
is far off where the target needs one bucket alone, and only runs on several buckets at once show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import ConfigError

Wide = NDArray[np.float64]

_FORGOTTEN = 40  # half-lives after which another pass moves no digit that is printed
_MOST_PASSES = 256


class Kept(NamedTuple):
    """How many of the best buckets, how often they are passed over, and the loss that is predicted."""

    buckets: int
    passes: float
    loss: float


def position(tokens: ArrayLike, start: float) -> Wide:
    """x(n): log(1 + n / start), or log n where `start` is 0, not below that of one token."""
    seen = np.asarray(tokens, np.float64)
    return np.log1p(seen / start) if start else np.log(np.maximum(seen, 1.0))


def pass_ends(seen: ArrayLike, pool: ArrayLike, half_life: ArrayLike) -> Wide:
    """(R, K + 1) tokens seen before the first pass and when each ends, as far as passes still count; nothing but both ends where none fades."""
    seen, pool, half_life = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, np.float64)) for value in (seen, pool, half_life)))
    if np.isinf(half_life).all():
        return np.stack([np.zeros_like(seen), seen], 1)
    last = min(float(np.max(seen / pool)), 1 + _FORGOTTEN * float(half_life.max()))
    passes: Wide = np.minimum(pool[:, None] * np.arange(int(np.ceil(last)) + 1), seen[:, None])
    return passes


def fading(half_life: ArrayLike, passes: int) -> Wide:
    """(R, K) (1/2)^(k / half_life) of passes k = 0, 1, ..., K - 1."""
    faded: Wide = np.exp2(-np.arange(passes) / np.atleast_1d(np.asarray(half_life, np.float64))[:, None])
    return faded


def growth(seen: ArrayLike, pool: ArrayLike, half_life: ArrayLike, start: float) -> Wide:
    """(R,) G of `seen` tokens (R,) of pools of `pool` tokens (R,) whose utility halves every `half_life` passes (R,)."""
    ends = pass_ends(seen, pool, half_life)
    grown: Wide = (np.diff(position(ends, start), axis=1) * fading(half_life, ends.shape[1] - 1)).sum(1)
    return grown


@dataclass(frozen=True)
class Law:
    """The law of one pool. Losses in the unit of a and d, tokens counted one by one."""

    a: float  # loss above d, before training where there is a start, after one token where there is none
    b: tuple[float, ...]  # utility of each bucket, in the order of the score
    tau: float  # passes over one bucket of `bucket` tokens that halve its utility; may be infinite
    d: float  # loss that no amount of data removes
    bucket: float  # N
    start: float = 0.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and self.bucket > 0 and self.start >= 0 and self.b):
            raise ConfigError(f"a scaling law needs tau > 0, bucket > 0, start >= 0 and a utility for each bucket: got {self}")

    def loss(self, kept: Sequence[int], bucket: float, seen: ArrayLike) -> Wide:
        """(R,) the loss after `seen` tokens (R,) of the buckets `kept` (numbers from 0), of each of which `bucket` tokens are there."""
        pool = bucket * len(kept)
        utility = float(np.mean([self.b[number] for number in kept]))
        grown = growth(seen, pool, self.tau * pool / self.bucket, self.start)
        loss: Wide = self.d + self.a * np.exp(-utility * grown)
        return loss

    def best(self, compute: float) -> Kept:
        """The number of best-first buckets with the lowest predicted loss after `compute` tokens; of equals, the fewest."""
        losses = [float(self.loss(range(count), self.bucket, compute)[0]) for count in range(1, len(self.b) + 1)]
        count = int(np.argmin(losses)) + 1
        return Kept(count, compute / (count * self.bucket), losses[count - 1])

    def crossover(self, fewer: int, more: int) -> float | None:
        """The tokens from which keeping the `more` best buckets beats keeping the `fewer` best; None if that is not within 256 passes over the fewer.

        Both exponents b G are linear in x between the ends of passes, so the root is exact. Without fading the curves only meet
        before the first token: there it is 0 (1 token without a start) or never.
        """
        last = _MOST_PASSES * fewer * self.bucket
        ends = np.concatenate([np.arange(1, last / (count * self.bucket) + 1) * count * self.bucket for count in (fewer, more)])
        nodes = np.concatenate([[0.0 if self.start else 1.0], np.unique(ends[ends <= last])])
        less, most = (self._exponent(count, nodes) for count in (fewer, more))
        ahead = most - less > 1e-12 * (1 + np.abs(less))
        if not ahead.any():
            return None
        after = int(np.argmax(ahead))
        before = after - 1
        lead = np.array([min(most[before] - less[before], 0.0), most[after] - less[after]])
        x = position(nodes[[before, after]], self.start)
        root = float(x[0] - lead[0] * (x[1] - x[0]) / (lead[1] - lead[0]))
        return self.start * float(np.expm1(root)) if self.start else float(np.exp(root))

    def _exponent(self, count: int, seen: Wide) -> Wide:
        utility = float(np.mean(self.b[:count]))
        exponent: Wide = utility * growth(seen, count * self.bucket, self.tau * count, self.start)
        return exponent
