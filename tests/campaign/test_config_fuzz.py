"""The fuzzer of recipes: its trials are drawn by number, some are valid, and an answer that is no recipe and no error of one line each is a failure."""

from typing import Any

import pytest

from campaign import config_fuzz
from campaign.config_fuzz import Trial, batch, trial_of, wrong_with

WHOLE = Trial(
    b"name: case\npool: {synthetic: pool, rows: 40}\ntarget: {rare: {synthetic: target, rows: 8}}\nmodel: {path: model}\n"
    b"features: {f: loss}\narms: {a: {scores: f, selector: top_k}}\nbudgets: [10]\nevaluate: {task: likelihood, data: {synthetic: test, rows: 10}}\n"
)


def test_trials_are_functions_of_seed_and_number() -> None:
    assert [trial_of(3, number) for number in range(20)] == [trial_of(3, number) for number in range(20)]
    assert trial_of(3, 1) != trial_of(4, 1)
    assert any(trial_of(3, number).profile for number in range(20)) and any(trial_of(3, number).overrides for number in range(60))


def test_a_few_trials_pass_and_some_are_valid() -> None:
    found = batch(11, range(60))
    assert found["wrong"] == {} and 3 < found["valid"] < 60


def test_a_whole_recipe_comes_back() -> None:
    assert wrong_with(WHOLE) == ("", True)


@pytest.mark.parametrize(
    ("name", "stand_in", "wrong"),
    [
        ("curate.recipe.parse_recipe", lambda document: {}["x"], "KeyError: \"'x'\""),
        ("curate.pipelines.summarise.recipe_text", lambda recipe: WHOLE.raw.decode().replace("rows: 40", "rows: 41"), "its resolved recipe is another one"),
        ("curate.pipelines.summarise.recipe_text", lambda recipe: "name: [", "its resolved recipe is not one: "),
    ],
    ids=["exception", "another", "none"],
)
def test_other_answers_are_failures(monkeypatch: pytest.MonkeyPatch, name: str, stand_in: Any, wrong: str) -> None:
    monkeypatch.setattr(name, stand_in)
    assert wrong in wrong_with(WHOLE)[0]


def test_an_error_that_says_no_place_or_comes_too_late_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.errors import ConfigError

    def placeless(document: Any) -> Any:
        raise ConfigError("case.yaml:1: fine\nsomething is wrong")

    def slow(document: Any) -> Any:
        return sum(number * number for number in range(10**8))

    monkeypatch.setattr("curate.recipe.parse_recipe", placeless)
    assert wrong_with(WHOLE)[0] == "a line of the error says no place: 'something is wrong'"
    monkeypatch.setattr(config_fuzz, "SECONDS", 0.2)
    monkeypatch.setattr("curate.recipe.parse_recipe", slow)
    assert wrong_with(WHOLE)[0] == "takes more than 0.2 s"
