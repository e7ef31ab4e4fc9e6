"""Tasks grade what the model says."""

import pytest

from curate.interfaces import Answer, Item
from curate.tasks.exact_match import ExactMatch
from curate.tasks.likelihood import Likelihood
from curate.tasks.multiple_choice import MultipleChoice

ITEM = Item("q1", (("user", "2 + 2?"),), "four")


def test_likelihood_is_nats_per_token() -> None:
    assert Likelihood().grade(ITEM, Answer(("four",), [-3.0], [2])) == 1.5


def test_the_right_answer_wins_only_if_it_is_the_likeliest() -> None:
    assert MultipleChoice().grade(ITEM, Answer(("five", "four"), [-2.0, -1.0], [1, 1])) == 1.0
    assert MultipleChoice().grade(ITEM, Answer(("five", "four"), [-1.0, -2.0], [1, 1])) == 0.0


@pytest.mark.parametrize(("normalise", "wins"), [("none", 0.0), ("tokens", 1.0), ("bytes", 1.0)])
def test_normalisation_divides_by_length(normalise: str, wins: float) -> None:
    item = Item("q", (("user", "?"),), "a much longer answer")
    answer = Answer(("no", "a much longer answer"), [-2.0, -6.0], [1, 6])
    assert MultipleChoice(normalise=normalise).grade(item, answer) == wins  # type: ignore[arg-type]


def test_candidates_hold_the_right_answer_and_do_not_depend_on_the_order_of_the_others() -> None:
    references = [f"label {i}" for i in range(50)] + ["four"]
    task = MultipleChoice(candidates=11)
    offered = task.choices(ITEM, references)
    assert len(set(offered)) == 11 and "four" in offered
    assert sorted(task.choices(ITEM, references[::-1])) == sorted(offered)
    assert task.choices(Item("q2", ITEM.messages, "four"), references) != offered


def test_options_are_offered_as_given_with_the_right_answer_among_them() -> None:
    assert MultipleChoice(options=("one", "two")).choices(ITEM, ["unused"]) == ["four", "one", "two"]


@pytest.mark.parametrize(
    ("said", "score"), [(" four\n", 1.0), ("Four", 0.0), ("four!", 0.0), ("", 0.0)]
)
def test_exact_match_trims_and_nothing_else(said: str, score: float) -> None:
    assert ExactMatch().grade(ITEM, Answer(generation=said)) == score


@pytest.mark.parametrize(
    ("said", "score"), [("so 3 + 4 = 1,234.50", 1.0), ("1234.5 apples", 1.0), ("1234", 0.0), ("none", 0.0), ("-1234.5", 0.0)]
)
def test_numbers_are_compared_as_numbers(said: str, score: float) -> None:
    item = Item("q", (("user", "?"),), "the answer is 1234.5")
    assert ExactMatch(extract="number").grade(item, Answer(generation=said)) == score
