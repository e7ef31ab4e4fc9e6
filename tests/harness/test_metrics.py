"""Scores by hand and by brute force."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import DataError
from curate.harness.filters import filtered
from curate.harness.metrics import Outcome, Value, equal, pass_at_k, summarise, values
from curate.harness.questions import Question
from curate.harness.task_file import Filter, Metric, Step, TaskFile

CHOICES = Question("0", ((("q"), " no"), ("q", " yes!"), ("q", " \u00e9\u00e9\u00e9")), ("no", "yes!", "\u00e9\u00e9\u00e9"), (1,))


def task(output: str, *metrics: str | dict[str, Any], **keys: Any) -> TaskFile:
    given = [{"metric": metric} if isinstance(metric, str) else metric for metric in metrics]
    return TaskFile.model_validate({"task": "demo", "output_type": output, "metric_list": given or None, **keys})


def of_choices(metric: str, scores: Sequence[float], question: Question = CHOICES, greedy: Sequence[bool] = (False, False, False)) -> float:
    return values(task("multiple_choice", metric), question, Outcome(scores, greedy))[metric].value


def test_accuracy_takes_the_likeliest_choice_and_of_equal_ones_the_first() -> None:
    assert of_choices("acc", [-3, -2, -2.5]) == 1
    assert of_choices("acc", [-2, -2, -2]) == 0
    assert of_choices("acc", [-3, -2, -2]) == 1


def test_normalised_accuracy_divides_by_characters_or_bytes_of_the_bare_choice() -> None:
    scores = [-2.0, -3.2, -2.1]  # / characters 2, 4, 3: -1, -.8, -.7; / bytes 2, 4, 6: -1, -.8, -.35
    assert of_choices("acc_norm", scores) == 0
    assert of_choices("acc_norm", [-2.0, -2.6, -2.1]) == 1  # -1, -.65, -.7
    assert of_choices("acc_bytes", [-2.0, -2.6, -2.1]) == 0  # -1, -.65, -.35
    assert of_choices("acc", [-2.0, -2.6, -2.1]) == 0


def test_mutual_information_subtracts_what_a_choice_is_worth_alone() -> None:
    asked = Question("0", CHOICES.requests + tuple(("", continuation) for _, continuation in CHOICES.requests), CHOICES.choices, (1,))
    assert of_choices("acc_mutual_info", [-1, -3, -2, -1, -4, -2], asked) == 1  # 0, 1, 0
    assert of_choices("acc", [-1, -3, -2, -1, -4, -2], asked) == 0
    with pytest.raises(DataError, match="6 requests, but 3 log-likelihoods"):
        of_choices("acc_mutual_info", [-1, -3, -2], asked)


def test_exact_match_of_choices_asks_whether_a_right_one_is_greedy() -> None:
    both = Question("0", CHOICES.requests, CHOICES.choices, (0, 1))
    assert of_choices("exact_match", [-1, -2, -3], CHOICES, [True, False, False]) == 0
    assert of_choices("exact_match", [-1, -2, -3], both, [True, False, False]) == 1
    assert of_choices("acc", [-1, -2, -3], both) == 1
    assert of_choices("acc", [-1, -2, -3], Question("0", CHOICES.requests, CHOICES.choices, ())) == 0


def test_perplexities_by_hand() -> None:
    question = Question("0", (("", "two words,\u00e9 "),))  # split at white space: "two", "words,é", ""; 13 bytes
    file = task("loglikelihood_rolling")
    found = values(file, question, Outcome([-3.0, -4.0]))
    assert found == {"word_perplexity": Value(-7, 3), "byte_perplexity": Value(-7, 13), "bits_per_byte": Value(-7, 13)}
    other = {"word_perplexity": Value(-1, 1), "byte_perplexity": Value(-1, 7), "bits_per_byte": Value(-1, 7)}
    both = summarise(file, [found, other])
    assert both["word_perplexity"].value == pytest.approx(math.exp(8 / 4))
    assert both["byte_perplexity"].value == pytest.approx(math.exp(8 / 20))
    assert both["bits_per_byte"].value == pytest.approx(8 / 20 / math.log(2))
    assert not both["bits_per_byte"].higher_is_better


def test_loglikelihood_gives_perplexity_and_greedy_accuracy() -> None:
    file, question = task("loglikelihood"), Question("0", (("q", "a"),))
    found = [values(file, question, Outcome([score], [greedy])) for score, greedy in ((-1.0, True), (-2.0, False), (-6.0, True))]
    both = summarise(file, found)
    assert both["perplexity"].value == pytest.approx(math.exp(3)) and both["acc"].value == pytest.approx(2 / 3)
    mean = summarise(task("loglikelihood", {"metric": "perplexity", "aggregation": "mean"}), [{"perplexity": one["perplexity"]} for one in found])
    assert mean["perplexity"].value == pytest.approx(-3)
    with pytest.raises(DataError, match="one request, but 1 log-likelihoods and 0 greedy flags"):
        values(file, question, Outcome([-1.0]))


def test_a_means_standard_error_is_that_of_the_sample() -> None:
    scores = [1.0, 0, 0, 1, 1]
    found = summarise(task("multiple_choice", "acc"), [{"acc": Value(score)} for score in scores])["acc"]
    assert found.value == np.mean(scores) and found.standard_error == pytest.approx(np.std(scores, ddof=1) / math.sqrt(5))
    assert (found.questions, found.higher_is_better) == (5, True)
    assert math.isnan(summarise(task("multiple_choice", "acc"), [{"acc": Value(1.0)}])["acc"].standard_error)


def test_a_perplexitys_standard_error_is_close_to_its_spread_over_samples() -> None:
    generator = np.random.default_rng(0)
    file = task("loglikelihood_rolling", "word_perplexity", "bits_per_byte")

    def drawn() -> dict[str, Any]:
        words = generator.integers(5, 40, 300)
        sums = -words * generator.normal(3, 0.5, 300)
        return summarise(file, [{name: Value(float(a), float(b)) for name in ("word_perplexity", "bits_per_byte")} for a, b in zip(sums, words, strict=True)])

    many = [drawn() for _ in range(150)]
    for name in ("word_perplexity", "bits_per_byte"):
        spread = np.std([one[name].value for one in many], ddof=1)
        assert np.mean([one[name].standard_error for one in many]) == pytest.approx(spread, rel=0.2)


def test_texts_without_words_cannot_be_summarised() -> None:
    with pytest.raises(DataError, match="byte_perplexity: all texts are empty"):
        summarise(task("loglikelihood_rolling", "byte_perplexity"), [{"byte_perplexity": Value(0.0, 0.0)}])


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    answers = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(answers, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_of_many_answers_needs_no_large_number() -> None:
    assert pass_at_k(10_000, 3, 1) == pytest.approx(3e-4, rel=1e-9)
    assert pass_at_k(10_000, 0, 100) == 0 and pass_at_k(10_000, 9_990, 11) == 1
    for bad in ((3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)):
        with pytest.raises(DataError, match="pass@"):
            pass_at_k(*bad)


@pytest.mark.parametrize(
    ("options", "said", "right", "same"),
    [
        ({}, "Two", "two", False),
        ({"ignore_case": True}, "TWO", "two", True),
        ({}, "two ", "two", False),
        ({"ignore_punctuation": True}, "(two)!", "two", True),
        ({"ignore_numbers": True}, "two2", "two", True),
        ({"regexes_to_ignore": [",", r"\$"]}, "$1,000", "1000", True),
        ({"regexes_to_ignore": ["(?s).*#### "]}, "so\n#### 4", "as\n#### 4", True),  # of both sides
        ({"regexes_to_ignore": ["[A-Z]"], "ignore_case": True}, "xA", "x", True),  # before the case is lowered
        ({"regexes_to_ignore": ["a"], "ignore_case": True}, "xA", "x", False),
    ],
)
def test_exact_match_ignores_what_its_options_name(options: dict[str, Any], said: str, right: str, same: bool) -> None:
    assert equal(said, right, Metric(metric="exact_match", **options)) is same


def chain(*steps: dict[str, Any]) -> Filter:
    return Filter(name="demo", filter=[Step.model_validate(step) for step in steps])


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([{"function": "take_first"}], [" A 1 ", "b 22", "b 22"]),
        ([{"function": "remove_whitespace"}], ["A 1", "b 22", "b 22"]),
        ([{"function": "lowercase"}, {"function": "remove_whitespace"}], ["a 1", "b 22", "b 22"]),
        ([{"function": "uppercase"}], [" A 1 ", "B 22", "B 22"]),
        ([{"function": "take_first_k", "k": 2}], [" A 1 ", "b 22"]),
        ([{"function": "majority_vote"}], ["b 22"]),
        ([{"function": "regex", "regex_pattern": r"\d ?"}], ["1", "2", "2"]),
        ([{"function": "regex", "regex_pattern": r"\d", "group_select": 1}], ["[invalid]", "2", "2"]),  # a second match
        ([{"function": "regex", "regex_pattern": r"\d\d", "fallback": "none"}], ["none", "22", "22"]),
        ([{"function": "regex", "regex_pattern": r"(z)|( ?\d)|(\w)", "group_select": -1}], ["1", "2", "2"]),  # the group that is not empty, trimmed
        ([{"function": "regex", "regex_pattern": "(z?)(z?)"}], ["[invalid]"] * 3),  # no group is
        ([{"function": "regex"}], ["[invalid]"] * 3),  # the default looks for #### and a number
    ],
)
def test_filters_read_answers(steps: list[dict[str, Any]], left: list[str]) -> None:
    assert filtered(chain(*steps), [" A 1 ", "b 22", "b 22"]) == left


def test_a_metric_is_computed_for_every_filter() -> None:
    filters = [
        {"name": "strict", "filter": [{"function": "regex"}, {"function": "take_first"}]},
        {"name": "last", "filter": [{"function": "regex", "regex_pattern": r"\d+", "group_select": -1}, {"function": "take_first"}]},
    ]
    file = task("generate_until", {"metric": "exact_match"}, filter_list=filters)
    question = Question("0", (("q", ""),), (), ("12",))
    assert values(file, question, Outcome(responses=["I say 12"])) == {"exact_match,strict": Value(0.0), "exact_match,last": Value(1.0)}
    assert values(file, question, Outcome(responses=["#### 12"])) == {"exact_match,strict": Value(1.0), "exact_match,last": Value(1.0)}
    assert list(summarise(file, [values(file, question, Outcome(responses=["#### 12"]))])) == ["exact_match,strict", "exact_match,last"]


def test_of_several_right_answers_any_will_do() -> None:
    file = task("generate_until", {"metric": "exact_match", "ignore_case": True})
    question = Question("0", (("q", ""),), (), ("Paris", "the capital"))
    assert [values(file, question, Outcome(responses=[said]))["exact_match"].value for said in ("paris", "The capital", "Rome")] == [1, 1, 0]


def test_several_answers_give_pass_at_k_and_the_first_exact_match() -> None:
    file = task("generate_until", {"metric": "pass@k", "k": [1, 2]}, "exact_match", repeats=4)
    question = Question("0", (("q", ""),), (), ("4",))
    found = values(file, question, Outcome(responses=["5", "4", "", "4"]))
    assert found == {"pass@1": Value(0.5), "pass@2": Value(pass_at_k(4, 2, 2)), "exact_match": Value(0.0)}
    assert summarise(file, [found])["pass@2"].value == pytest.approx(5 / 6)
    with pytest.raises(DataError, match="question 0: 1 answers, but repeats is 4"):
        values(file, question, Outcome(responses=["4"]))


def test_an_empty_answer_is_never_right() -> None:
    question = Question("0", (("q", ""),), (), ("4",))
    assert values(task("generate_until", {"metric": "exact_match", "ignore_numbers": True}), question, Outcome(responses=[""]))["exact_match"].value == 0
    vote = [{"name": "vote", "filter": [{"function": "majority_vote"}]}]
    file = task("generate_until", {"metric": "exact_match", "ignore_numbers": True}, repeats=3, filter_list=vote)
    assert values(file, question, Outcome(responses=["", "", "4"]))["exact_match,vote"].value == 0
    guess = [{"name": "a", "filter": [{"function": "regex", "regex_pattern": "x", "fallback": "4"}, {"function": "take_first"}]}]
    file = task("generate_until", "exact_match", filter_list=guess)
    assert [values(file, question, Outcome(responses=[said]))["exact_match,a"].value for said in ("", "y")] == [0, 1]


def test_pass_at_k_of_a_filter_that_leaves_too_few_is_refused() -> None:
    filters = [{"name": "vote", "filter": [{"function": "majority_vote"}]}]
    file = task("generate_until", {"metric": "pass@k", "k": [2]}, repeats=3, filter_list=filters)
    with pytest.raises(DataError, match="filter 'vote' leaves 1 answers, too few for pass@2"):
        values(file, Question("0", (("q", ""),), (), ("4",)), Outcome(responses=["4", "4", "5"]))
