"""Right-or-wrong answers are counted against enumeration, and many comparisons against the definition of Holm's correction."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import DataError
from curate.statistics import McNemar, holm, is_right_or_wrong, mcnemar

Table = NDArray[np.float64]


def answers(ours: int, theirs: int, same: int = 5) -> tuple[Table, Table]:
    """One seed: items that ours alone, theirs alone, and both have right."""
    return np.repeat([1.0, 0.0, 1.0], [ours, theirs, same]), np.repeat([0.0, 1.0, 1.0], [ours, theirs, same])


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (7, 2), (2, 7), (5, 5), (30, 14)])
def test_one_seed_is_the_exact_conditional_test(ours: int, theirs: int) -> None:
    n = ours + theirs
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    exact = sum(chance for chance in chances if chance <= chances[ours] * (1 + 1e-9))
    assert mcnemar(*answers(ours, theirs)) == (ours, theirs, pytest.approx(exact))


def test_several_seeds_are_clustered_by_item() -> None:
    rng = np.random.default_rng(0)
    scores, baseline = (rng.random((3, 40)) < 0.6).astype(float), (rng.random((3, 40)) < 0.5).astype(float)
    gained, lost, top, bottom = 0, 0, 0, 0
    for k in range(40):
        b = sum(1 for s in range(3) if scores[s, k] == 1 and baseline[s, k] == 0)
        c = sum(1 for s in range(3) if scores[s, k] == 0 and baseline[s, k] == 1)
        gained, lost, top, bottom = gained + b, lost + c, top + b - c, bottom + (b - c) ** 2
    p = math.erfc(math.sqrt(top**2 / bottom / 2))  # of chi-square at one degree of freedom
    assert mcnemar(scores, baseline) == (gained, lost, pytest.approx(p))


@pytest.mark.parametrize("run", range(6))
def test_the_clustered_p_is_near_that_of_flipping_the_sign_of_every_item(run: int) -> None:
    """Under no difference, the two arms of an item may be exchanged: 2^14 equally likely tables."""
    rng = np.random.default_rng(run)
    scores, baseline = (rng.random((5, 14)) < 0.6).astype(float), (rng.random((5, 14)) < 0.4).astype(float)
    each = (scores - baseline).sum(0)
    flipped = np.array(list(itertools.product((-1, 1), repeat=14))) @ each
    # Half of the ties, for a discrete law is compared with a continuous one.
    exact = np.mean(np.abs(flipped) > abs(each.sum())) + np.mean(np.abs(flipped) == abs(each.sum())) / 2
    assert mcnemar(scores, baseline).p == pytest.approx(exact, abs=0.03)


def test_seeds_that_repeat_each_other_are_no_more_evidence_than_one() -> None:
    ours, theirs = answers(30, 14)
    once, thrice = mcnemar(ours, theirs), mcnemar(np.tile(ours, (3, 1)), np.tile(theirs, (3, 1)))
    assert (thrice.only_ours, thrice.only_theirs) == (90, 42)
    assert thrice.p == pytest.approx(math.erfc(16 / math.sqrt(44 * 2)))
    assert thrice.p == pytest.approx(once.p, abs=0.01)


def test_a_handful_of_items_proves_nothing_however_many_seeds() -> None:
    ours, theirs = answers(4, 0)
    assert mcnemar(np.tile(ours, (9, 1)), np.tile(theirs, (9, 1))) == McNemar(36, 0, 2**-3)
    assert mcnemar(np.ones((3, 4)), np.ones((3, 4))) == McNemar(0, 0, 1.0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_mcnemar_finds_no_difference_where_there_is_none(seeds: int) -> None:
    small = []
    for run in range(600):
        rng = np.random.default_rng(run)
        chance = rng.beta(0.7, 0.7, 80)
        small.append(mcnemar((rng.random((seeds, 80)) < chance).astype(float), (rng.random((seeds, 80)) < chance).astype(float)).p)
    assert 0.01 <= np.mean(np.less(small, 0.05)) <= 0.07
    assert np.mean(np.less(small, 0.01)) <= 0.02


def test_other_scores_and_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="use paired_difference"):
        mcnemar([0.0, 1.0, 0.5], [0.0, 1.0, 1.0])
    with pytest.raises(DataError, match="same seeds and items"):
        mcnemar(np.ones((2, 3)), np.ones((1, 3)))
    with pytest.raises(DataError, match="same seeds and items"):
        mcnemar(np.ones((2, 3)), np.ones((2, 4)))


def test_right_or_wrong_is_zero_or_one_everywhere() -> None:
    assert is_right_or_wrong([[0, 1], [1, 1]]) and is_right_or_wrong(np.array([True, False])) and is_right_or_wrong([0.0])
    assert not is_right_or_wrong([0, 0.5]) and not is_right_or_wrong([0, 2]) and not is_right_or_wrong([np.nan, 1]) and not is_right_or_wrong([])


chances = st.lists(st.floats(0, 1), max_size=7)


@given(chances)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """A hypothesis falls where every set of hypotheses that holds it falls: k times the smallest p of the set."""
    every = [members for size in range(1, len(p) + 1) for members in itertools.combinations(range(len(p)), size)]
    closed = [max(min(1.0, len(members) * min(p[j] for j in members)) for members in every if i in members) for i in range(len(p))]
    assert holm(p).tolist() == pytest.approx(closed, abs=1e-12)


@given(chances)
def test_holm_never_lowers_a_p_keeps_their_order_and_follows_their_places(p: list[float]) -> None:
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    assert (adjusted >= p).all() and (adjusted <= 1).all() and (np.diff(adjusted[order]) >= 0).all()
    assert holm(p[::-1]).tolist() == pytest.approx(adjusted[::-1].tolist())


@pytest.mark.parametrize("p", [[0.1, 1.1], [-0.1], [float("nan")], [[0.1, 0.2]]])
def test_what_is_no_list_of_chances_is_refused(p: list[float]) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        holm(p)
