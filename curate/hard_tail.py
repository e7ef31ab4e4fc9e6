"""How many of the hardest rows to distrust, read off the scores: by a trusted target, or by the knee of the sorted scores."""

import numpy as np

from curate.core import Floats

_DOUBT = 0.05
_SMIRNOV = np.sqrt(np.log(1 / _DOUBT) / 2)  # one-sided 5% point of sqrt(n) times the deviation from uniform


def share_beyond_target(pool: Floats, target: Floats) -> float:
    """A lower bound, true with probability 0.95, on the share of a pool's rows that are not drawn as the target's are.

    If the pool is a mixture of rows like the target's and of others, a share b, then F_pool >= (1 - b) F_target at every
    hardness, so b >= 1 - F_pool / F_target (Blanchard et al., 2010). Both distribution functions are taken at the ends of
    their Dvoretzky-Kiefer-Wolfowitz bands, 2.5% each, so few target rows prove little and give 0.
    """
    n, m = len(pool), len(target)
    if not n or not m:
        return 0.0
    trusted = np.sort(target)
    high = np.searchsorted(np.sort(pool), trusted, side="right") / n + np.sqrt(np.log(2 / _DOUBT) / (2 * n))
    low = np.searchsorted(trusted, trusted, side="right") / m - np.sqrt(np.log(2 / _DOUBT) / (2 * m))
    proven = low > 0
    return float(np.max(1 - high[proven] / low[proven], initial=0.0))


def share_beyond_knee(hardness: Floats) -> float:
    """The share of rows above the knee of the sorted harder half, 0 if that half is spread evenly (Smirnov's test at 5%).

    The knee is the point of the curve farthest below the line from the median to the hardest row (Satopaa et al., 2011). A
    rule of thumb: it finds a tail, whatever the tail is made of; of normal scores it cuts some 5%.
    """
    n = len(hardness)
    upper = np.sort(hardness)[n // 2 :]
    span = upper[-1] / 2 - upper[0] / 2 if len(upper) > 2 else 0.0
    if span == 0:
        return 0.0
    depth = np.arange(len(upper)) / (len(upper) - 1) - (upper / 2 - upper[0] / 2) / span
    knee = int(np.argmax(depth))
    if depth[knee] * np.sqrt(len(upper)) <= _SMIRNOV:
        return 0.0
    return (len(upper) - 1 - knee) / n
