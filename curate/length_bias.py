"""Whether a selection is one by length: long rows carry more tokens of loss, and a gain that comes of them is no merit of the method."""

import numpy as np
from numpy.typing import ArrayLike

from curate.core import Integers

FAR = 0.2  # from a half: beyond, length alone tells rows taken from rows left in more than seven pairs of ten


def longer(lengths: ArrayLike, taken: Integers) -> float:
    """P(a row taken is longer than a row left), ties a half: the Mann-Whitney U over the number of pairs, a half where length plays no part.

    Args:
        lengths: (N,) tokens of the pool's rows.
        taken: (K,) distinct rows. NaN if none is taken, or none left. O(N log N).
    """
    every = np.asarray(lengths)
    held = np.zeros(len(every), np.bool_)
    held[taken] = True
    left = np.sort(every[~held])
    if not len(left) or held.sum() == 0:
        return float("nan")
    below, upto = (np.searchsorted(left, every[held], side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(left)))


def alarm(longer: float, taken: float, left: float, *, controlled: bool = False) -> str:
    """One sentence where a selection's `longer` is farther than 0.2 from a half; empty where it is not, or is NaN.

    Args:
        longer: what the function of this name gives.
        taken: mean length of the rows taken, in tokens.
        left: mean length of the rows left.
        controlled: whether a control of the same lengths is in the run already.
    """
    if not abs(longer - 0.5) > FAR:
        return ""
    word, share = ("longer", longer) if longer > 0.5 else ("shorter", 1 - longer)
    advice = "read its difference from length_matched_random" if controlled else "add controls: [length_matched_random] to the recipe"
    means = f"{taken:.1f} tokens on average against {left:.1f}"
    return f"a row taken is {word} than a row left in {share:.0%} of pairs ({means}), so a gain over random may be one of length; {advice}"
