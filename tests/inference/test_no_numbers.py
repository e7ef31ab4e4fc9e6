"""A model whose logits are no numbers is refused by name on every path, instead of being graded as wrong."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curate.core import Row
from curate.data.conversation import Conversation
from curate.errors import NumericError
from curate.evaluate import Plan, grade, plan
from curate.inference.activated import score_activated
from curate.inference.engine import Engine
from curate.inference.growing import Watched, most_likely
from curate.inference.mixed import score_mixed
from curate.inference.own_attention import score
from curate.inference.plan import Layout
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.scoring import Scored, log_probabilities, plan_scoring
from curate.inference.variants import Variants
from curate.interfaces import Item, Task
from curate.model import LanguageModel
from curate.presses.h2o import H2o
from curate.presses.snapkv import Snapkv
from curate.tasks.exact_match import ExactMatch
from curate.tasks.likelihood import Likelihood
from curate.tasks.multiple_choice import MultipleChoice
from curate.testing.random_models import random_model
from tests.harness.test_tokens import tokenizer
from tests.inference.random_adapters import save_adapter

POISON = 90  # a token whose embedding is no number


def poisoned(value: float = float("nan")) -> LanguageModel:
    """A model that gives no numbers after one token, and is sound elsewhere."""
    model = replace(random_model(), tokenizer=tokenizer())
    with torch.no_grad():
        model.model.get_input_embeddings().weight[POISON] = value
    return model


def unshared(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setattr("curate.inference.engine.alone_because", lambda *_: "for the test")
    return model


@pytest.mark.parametrize(
    ("row", "sound"),
    [
        ([0.0, 1.0, 2.0], True),
        ([0.0, -math.inf, 2.0], True),
        ([0.0, math.nan, 2.0], False),
        ([0.0, math.inf, 2.0], False),
        ([-math.inf] * 3, False),
    ],
)
def test_a_row_with_one_bad_logit_gives_no_log_probability_to_any_token(row: list[float], sound: bool) -> None:
    nats, likeliest = log_probabilities(torch.tensor([row, [0.0, 0.0, 0.0]]), torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    assert np.isnan(nats[:2]).tolist() == [not sound] * 2 and nats[2] == pytest.approx(-math.log(3))
    if sound:
        assert nats[:2] == pytest.approx([-2 - math.log1p(math.exp(-2) if math.isfinite(row[1]) is False else math.exp(-1) + math.exp(-2)), nats[0] + 2])
        assert likeliest.tolist() == [False, True, False]


CONTEXTS = [[5, 6, 7], [5, 6, POISON], [5, 9, 11], [5, POISON, 7, 8]]
BROKEN = [False, True, False, True]


@pytest.mark.parametrize("layout", [Layout(), Layout(row=8, subtree=2, floor=0), Layout(batch=1), Layout(apart=True)])
@pytest.mark.parametrize("continuations", [[[4]], [[4], [4, 12, 13]]], ids=("one token", "several"))
def test_scores_after_the_token_are_nan_and_others_are_not(layout: Layout, continuations: list[list[int]]) -> None:
    model = poisoned()
    with torch.inference_mode():
        engine = Engine(model)
        found = engine.score(plan_scoring(CONTEXTS, [continuations] * 4, layout))
        for context, several, broken in zip(CONTEXTS, found, BROKEN, strict=True):
            own = [score(model, context, continuation) for continuation in continuations]
            assert [math.isnan(one.loglikelihood) for one in several] == [math.isnan(one.loglikelihood) for one in own] == [broken] * len(continuations)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_generation_says_after_how_many_prompts(alone: bool, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = unshared(poisoned(), monkeypatch) if alone else poisoned()
    choose = Sampler(sample_keys(0, CONTEXTS, 1), Nucleus()) if sampled else most_likely
    with pytest.raises(NumericError, match=r"^the model's logits are no finite numbers after 2 of 4 prompts .the first is number 2.; .*try float32"):
        Engine(model).generate(CONTEXTS, max_tokens=3, choose=choose)
    watched = Watched(choose)
    answers = Engine(model).generate(CONTEXTS, max_tokens=3, choose=watched)
    assert watched.sound(answers) == [not one for one in BROKEN]
    healthy = Engine(random_model()).generate(CONTEXTS, max_tokens=3, choose=choose)
    assert [answers[i] for i in (0, 2)] == [healthy[i] for i in (0, 2)]


@pytest.mark.parametrize("press", [Snapkv(keep=0.5), H2o(tokens=4), H2o(tokens=4, covers="prompt")])
def test_through_a_press_no_broken_prompt_passes(press: Snapkv) -> None:
    watched = Watched(most_likely)
    answers = Engine(poisoned(), press=press).generate(CONTEXTS, max_tokens=3, choose=watched)
    assert not any(sound and broken for sound, broken in zip(watched.sound(answers), BROKEN, strict=True))
    scored = Engine(poisoned(), press=press).loglikelihoods(CONTEXTS, [[[4]]] * 4)
    assert all(math.isnan(scored[i][0]) for i in (1, 3))


def test_a_model_without_any_number_is_not_computed_twice() -> None:
    model = random_model()
    with torch.no_grad():
        model.model.get_output_embeddings().weight[3] = float("nan")
    contexts = [[5, 6, 7, 2 + i % 90, 2 + i // 90] for i in range(300)]
    engine = Engine(model)
    assert all(math.isnan(one) for (one,) in engine.loglikelihoods(contexts, [[[4]]] * 300))
    assert engine.forward_tokens < engine.plan(contexts, [[[4]]] * 300).plan.tokens + 65 * 5


@pytest.mark.parametrize("max_tokens", [1, 4])
def test_continuous_batching_leaves_a_trace_of_it(max_tokens: int) -> None:
    with pytest.raises(NumericError, match="after 2 of 4 prompts .the first is number 2."):
        Engine(poisoned(), continuous=True).generate(CONTEXTS, max_tokens=max_tokens)
    watched = Watched(most_likely)
    answers = Engine(poisoned(), continuous=True).generate([*CONTEXTS, CONTEXTS[1]], max_tokens=max_tokens, choose=watched)
    assert watched.sound(answers) == [True, False, True, False, False]
    sound = [context for context, broken in zip(CONTEXTS, BROKEN, strict=True) if not broken]
    assert Engine(poisoned(), continuous=True).generate(sound, max_tokens=max_tokens) == Engine(random_model()).generate(sound, max_tokens=max_tokens)


def nan_share(results: list[list[Scored]]) -> float:
    return float(np.mean([math.isnan(one.loglikelihood) for several in results for one in several]))


@pytest.mark.parametrize("tokens", [1, 10**6])  # one variant to a pass, and all
def test_in_mixed_rows_only_the_broken_variant_has_no_numbers(tokens: int, tmp_path: Path) -> None:
    folders = {"sound": save_adapter(tmp_path / "sound"), "huge": save_adapter(tmp_path / "huge", 2, lora_alpha=1e30, target_modules="all-linear")}
    plan = plan_scoring(CONTEXTS, [[[4], [6, 7]]] * 4)
    found = score_mixed(Variants(random_model(), folders), [None, "sound", "huge"], plan, tokens=tokens)
    assert {name: nan_share(results) for name, results in found.items()} == {None: 0, "sound": 0, "huge": 1}


def test_behind_a_shared_base_only_the_broken_activated_variant_has_no_numbers(tmp_path: Path) -> None:
    invoked: dict[str, Any] = {"alora_invocation_tokens": [7]}
    folders = {"sound": save_adapter(tmp_path / "sound", **invoked)}
    folders["huge"] = save_adapter(tmp_path / "huge", 2, lora_alpha=1e30, target_modules="all-linear", **invoked)
    contexts = [[5, 6, 7, 9], [5, 6, 8, 9], [7, 5], [5, 6, 7, 11]]  # the second is the base's
    found = score_activated(Variants(random_model(), folders), [None, "sound", "huge"], contexts, [[[4], [6, 7]]] * 4).results
    assert [nan_share([several]) for several in found["huge"]] == [1, 0, 1, 1]
    assert nan_share(found[None]) == nan_share(found["sound"]) == 0


class Letters:
    """Turns into tokens: a number for a letter."""

    def encode(self, conversations: list[Conversation]) -> list[Row]:
        rows = []
        for one in conversations:
            turns = [[2 + ord(letter) % 80 if letter != "!" else POISON for letter in text] for _, text in one.messages]
            ids = np.array([token for turn in turns for token in turn], np.int64)
            rows.append(Row(ids, np.arange(len(ids)) >= len(ids) - len(turns[-1])))
        return rows


def items(*questions: str) -> list[Item]:
    return [Item(f"item-{i}", (("user", question),), "ab"[i % 2]) for i, question in enumerate(questions)]


def asked(task: Task, *questions: str) -> Plan:
    return plan(task, items(*questions), (), Letters())  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [MultipleChoice(), ExactMatch(max_tokens=2), Likelihood()], ids=lambda task: str(task.name))
def test_an_item_without_numbers_is_named_and_not_graded_as_wrong(task: Task) -> None:
    line = r"^evaluation e: the model's logits are no finite numbers for 2 of 4 items .the first is item-1.; lower the learning rate .* dtype: float32$"
    with pytest.raises(NumericError, match=line):
        grade(poisoned(), task, asked(task, "what", "wh!t", "who", "w!"), label="e")
    assert len(grade(poisoned(), task, asked(task, "what", "who"), label="e").records) == 2


@pytest.mark.parametrize("spoil", [lambda head: head[3].fill_(float("nan")), lambda head: head[3].fill_(float("inf"))], ids=("nan", "overflow"))
def test_one_row_of_the_head_is_enough(spoil: Callable[[Tensor], Tensor]) -> None:
    model = random_model()
    with torch.no_grad():
        spoil(model.model.get_output_embeddings().weight)
    assert all(math.isnan(value) for several in Engine(model).loglikelihoods(CONTEXTS[:1], [[[4], [3]]]) for value in several)


def test_the_recipe_s_evaluation_names_the_model(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from curate.model import resolve
    from curate.pipelines import evaluate as pipeline
    from curate.settings import ModelSpec
    from curate.store import Store

    class Broken:
        label, target, inputs, metric, higher_is_better = "e", None, (), "acc", True

        def identity(self) -> dict[str, str]:
            return {}

        def ask(self, model: object, handle: object) -> object:
            raise NumericError("evaluation e: item-1")

    with pytest.raises(NumericError, match=rf"^the base model {tiny}: evaluation e: item-1$"):
        pipeline.evaluate(Store(tmp_path), Broken(), resolve(ModelSpec(path=str(tiny)), tiny), None, "cpu", {})  # type: ignore[arg-type]
