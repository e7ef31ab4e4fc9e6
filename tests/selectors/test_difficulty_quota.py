"""Quotas by fail rate are the best that the budget allows, and copies, wrong answers and hopeless questions wait."""

from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Certificate, Features, Written
from curate.interfaces import Context
from curate.selectors.difficulty_quota import DifficultyQuota
from curate.testing import check_selector


def answers(fails: list[float], counts: list[int], **rest: Any) -> Features:
    """`counts[q]` rows of question q, each with the question's fail rate."""
    questions = np.repeat(np.arange(len(fails)), counts)
    return Features.from_arrays(scores=np.asarray(fails)[questions], groups=[f"q{q}" for q in questions], **rest)


def per_question(pool: Features, rows: Any) -> list[int]:
    return [int((pool.groups[rows] == name).sum()) for name in np.unique(pool.groups)]


def certified(pool: Features, kept: int, selector: DifficultyQuota) -> tuple[list[int], Certificate]:
    selection = selector.select(pool, Budget(amount=kept))
    assert selection.certificate is not None
    return per_question(pool, selection.indices), selection.certificate


def honoured(counts: tuple[int, ...], there: list[int], shares: list[float]) -> float:
    """The largest k_p, searched on a grid of quarters, whose quotas max(1, ceil(k_p share)) the counts honour."""
    best = 0.0
    for step in range(1, 4 * 12 + 1):
        level = step / 4
        if all(count >= min(have, max(1, ceil(round(level * share, 9)))) for count, have, share in zip(counts, there, shares, strict=True)):
            best = level
    return best


@pytest.mark.parametrize("fields", [{}, {"quota": "uniform"}])
def test_no_allocation_honours_a_larger_quota_by_brute_force(fields: dict[str, Any]) -> None:
    fails, there = [0.25, 0.5, 1.0, 0.0], [3, 2, 5, 2]
    shares = [1.0] * 4 if fields else fails
    top = max(have / share for have, share in zip(there, shares, strict=True) if share > 0)
    pool = answers(fails, there)
    for kept in range(1, 13):
        counts, certificate = certified(pool, kept, DifficultyQuota(**fields))
        every = [each for each in product(*(range(have + 1) for have in there)) if sum(each) == kept]
        best = min(top, max(honoured(each, there, shares) for each in every))
        assert sum(counts) == kept
        assert certificate.objective == pytest.approx(min(top, honoured(tuple(counts), there, shares)))
        assert certificate.objective == certificate.bound == pytest.approx(best)


def test_the_quotas_are_those_of_the_formula() -> None:
    fails = [0.1, 0.35, 0.7, 0.9, 0.0]
    pool = answers(fails, [30] * 5)
    for largest in range(1, 30):
        quotas = [max(1, ceil(round(largest * fail / 0.9, 9))) for fail in fails]
        assert certified(pool, sum(quotas), DifficultyQuota())[0] == quotas
        assert certified(pool, 5 * largest, DifficultyQuota(quota="uniform"))[0] == [largest] * 5


def test_every_question_has_an_answer_before_any_has_two_and_the_hardest_come_first() -> None:
    pool = answers([0.0, 0.2, 0.9, 0.5], [9] * 4)
    indices = DifficultyQuota().select(pool, Budget(amount=36)).indices
    assert [str(name) for name in pool.groups[indices[:4]]] == ["q2", "q3", "q1", "q0"]
    assert str(pool.groups[indices[4]]) == "q2" and set(pool.groups[indices[-8:]]) == {"q0"}


def test_a_certificate_of_other_rows_falls_short_of_the_bound() -> None:
    pool = answers([0.5, 1.0], [6, 6])
    skewed = DifficultyQuota().certify(pool, Budget(amount=6), np.arange(6))
    assert skewed is not None and (skewed.objective, skewed.bound, skewed.gap) == (0.0, 4.0, 1.0)


def test_copies_of_an_answer_wait_for_every_other_answer_and_the_same_words_elsewhere_are_no_copy() -> None:
    said = ["4", "four", " 4\n", "4", "4", "5", "6", "7"]
    content = [Written(turns=(("user", "two and two"), ("assistant", text))) for text in said]
    pool = Features.from_arrays(scores=[0.5] * 8, groups=["a"] * 4 + ["b"] * 4, content=content)
    for seed in range(20):
        indices = DifficultyQuota().select(pool, Budget(amount=8), context=Context(seed=seed)).indices.tolist()
        assert {said[row].strip() for row in indices[:6] if row < 4} == {"4", "four"} and set(indices[:6]) > {4, 5, 6, 7}
        assert set(indices[6:]) < {0, 2, 3}
    bare = Features.from_arrays(scores=[0.5] * 8, groups=["a"] * 8, content=[Written()] * 8)
    certificate = DifficultyQuota().select(bare, Budget(amount=5)).certificate
    assert certificate is not None and certificate.objective == 5


def test_verdicts_give_the_fail_rates_and_wrong_answers_come_last() -> None:
    wrong = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    pool = Features.from_arrays(scores=np.asarray(wrong, float), groups=["a"] * 6 + ["b"] * 6 + ["c"] * 3)
    indices = DifficultyQuota(score_is="wrong").select(pool, Budget(amount=15)).indices
    assert [wrong[row] for row in indices] == [0] * 8 + [1] * 7
    assert per_question(pool, indices[:5]) == [3, 2, 0]  # fail rates 1/2 and 1/6; nothing of c is right
    said = [Written(turns=(("assistant", text),)) for text in ("a", "a", "b", "c")]
    twice = Features.from_arrays(scores=[0.0, 0, 0, 1], groups=["a"] * 4, content=said)
    indices = DifficultyQuota(score_is="wrong").select(twice, Budget(amount=4)).indices
    assert set(indices[:2]) in ({0, 2}, {1, 2}) and indices[3] == 3


def test_a_question_that_is_always_failed_is_the_hardest_or_the_last() -> None:
    pool = answers([0.5, 1.0, 0.25], [4] * 3)
    assert per_question(pool, DifficultyQuota().select(pool, Budget(amount=6)).indices) == [2, 3, 1]
    late = DifficultyQuota(unsolved="last").select(pool, Budget(amount=9))
    assert per_question(pool, late.indices[:6]) == [4, 0, 2] and per_question(pool, late.indices) == [4, 1, 4]


def test_where_nothing_is_failed_all_questions_are_alike() -> None:
    assert certified(answers([0.0, -2.0], [5, 5]), 6, DifficultyQuota())[0] == [3, 3]


def test_which_answers_are_drawn_depends_on_the_seed_but_the_quotas_do_not() -> None:
    pool = answers([0.9, 0.3], [20, 20])
    drawn = [DifficultyQuota().select(pool, Budget(amount=12), context=Context(seed=seed)).indices for seed in range(6)]
    assert len({tuple(sorted(rows.tolist())) for rows in drawn}) == 6 and {tuple(per_question(pool, rows)) for rows in drawn} == {(9, 3)}


def test_a_budget_in_tokens_is_spent_without_a_certificate() -> None:
    pool = answers([0.9, 0.3], [20, 20], lengths=np.arange(1, 41))
    kept = DifficultyQuota().select(pool, Budget(amount=100, unit="tokens"))
    left = 100 - pool.lengths[kept.indices].sum()
    assert kept.certificate is None and 0 <= left < np.delete(pool.lengths, kept.indices).min()


@pytest.mark.parametrize("fields", [{"quota": "uniform"}, {"score_is": "wrong"}, {"unsolved": "last"}])
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    check_selector(DifficultyQuota(**fields))
