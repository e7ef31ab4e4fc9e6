"""How far a lossy run is from the exact one on the same requests: what has to be known before its numbers are believed.

Compression changes the measuring instrument. Arms that differ by a point can change places through a lossy cache while every mean looks right, so
that agreement is measured item by item, and on the ranking of the variants.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.core import Floats
from curate.errors import DataError


@dataclass(frozen=True)
class Fidelity:
    """Lossy against exact over V variants and n items; NaN where there is nothing to measure."""

    items: int
    agreement: float  # share of items whose likeliest choice, or generated answer, is the same
    loglikelihood_error: float  # mean |difference| in nats per request
    divergence: float  # mean KL in nats from the exact distribution over the choices of an item to the lossy one
    kendall_tau: float  # between the exact and the lossy ranking of the variants by mean score
    sign_agreement: float  # share of pairs of variants whose difference in mean score has the same sign

    def passes(self, gate: "Gate") -> bool:
        """Whether the lossy numbers may stand for the exact ones."""
        return not doubts_of(self, gate)


@dataclass(frozen=True)
class Gate:
    """The least agreement that is asked for."""

    agreement: float = 0.95
    kendall_tau: float = 0.8


def doubts_of(found: Fidelity, gate: Gate) -> list[str]:
    """Why the lossy numbers may not stand for the exact ones; nothing where they may."""
    doubts = []
    if not found.agreement >= gate.agreement:
        doubts.append(f"{found.agreement:.1%} of answers are the same, and {gate.agreement:.0%} are asked for")
    if found.kendall_tau < gate.kendall_tau:
        doubts.append(f"Kendall's tau of the variants' ranking is {found.kendall_tau:.2f}, and {gate.kendall_tau} is asked for")
    if np.isnan(found.kendall_tau) and found.sign_agreement < 1:
        doubts.append("variants that are equal in the exact run are not in the lossy one, or the other way round")
    return doubts


Choices = Sequence[Floats]  # log-likelihoods of the choices, item by item


def of_choices(exact: Sequence[Choices], lossy: Sequence[Choices], exact_scores: Sequence[Floats], lossy_scores: Sequence[Floats]) -> Fidelity:
    """Fidelity of log-likelihoods (V variants, n items, their choices) and of the scores (V, n) made of them."""
    pairs = [(one, other) for variant, again in zip(exact, lossy, strict=True) for one, other in zip(variant, again, strict=True)]
    if not pairs:
        raise DataError("there is no item to compare a lossy run with an exact one on; calibrate on at least one")
    several = [(one, other) for one, other in pairs if len(one) > 1]
    agreement = float(np.mean([np.argmax(one) == np.argmax(other) for one, other in several])) if several else float("nan")
    error = float(np.mean(np.concatenate([np.abs(np.asarray(one) - np.asarray(other)) for one, other in pairs])))
    divergence = float(np.mean([_divergence(np.asarray(one), np.asarray(other)) for one, other in several])) if several else float("nan")
    if not several:  # one continuation each: items agree where their scores do
        agreement = float(np.mean([np.isclose(a, b) for a, b in zip(np.ravel(exact_scores), np.ravel(lossy_scores), strict=True)]))
    return Fidelity(len(pairs) // max(1, len(exact)), agreement, error, divergence, *_ranking(exact_scores, lossy_scores))


def of_answers(exact: Sequence[Sequence[str]], lossy: Sequence[Sequence[str]], exact_scores: Sequence[Floats], lossy_scores: Sequence[Floats]) -> Fidelity:
    """Fidelity of generated answers (V variants, n items) and of their scores (V, n)."""
    same = [one == other for variant, again in zip(exact, lossy, strict=True) for one, other in zip(variant, again, strict=True)]
    if not same:
        raise DataError("there is no item to compare a lossy run with an exact one on; calibrate on at least one")
    return Fidelity(len(same) // max(1, len(exact)), float(np.mean(same)), float("nan"), float("nan"), *_ranking(exact_scores, lossy_scores))


def _divergence(exact: Floats, lossy: Floats) -> float:
    p, q = exact - np.logaddexp.reduce(exact), lossy - np.logaddexp.reduce(lossy)
    return float((np.exp(p) * (p - q)).sum())


def _ranking(exact: Sequence[Floats], lossy: Sequence[Floats]) -> tuple[float, float]:
    """(Kendall's tau-b, share of pairs in the same order) of the variants' mean scores; NaN below two variants, or where all are tied."""
    from scipy.stats import kendalltau

    if len(exact) < 2:
        return float("nan"), float("nan")
    one, other = np.array([np.mean(scores) for scores in exact]), np.array([np.mean(scores) for scores in lossy])
    first, second = np.triu_indices(len(one), 1)
    same = np.sign(one[first] - one[second]) == np.sign(other[first] - other[second])
    return float(kendalltau(one, other).statistic), float(np.mean(same))
