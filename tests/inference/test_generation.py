"""Answers from shared prompts equal those of the model's own attention, however many grow from one prompt and however they are batched."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from curate.core import Integers
from curate.inference.attention import ours
from curate.inference.engine import Engine
from curate.inference.generation import GenerationRun, plan_generation
from curate.inference.growing import Growing, most_likely
from curate.inference.own_attention import Answering
from curate.inference.plan import Layout
from curate.inference.stops import Stops
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, VOCABULARY, Architecture, random_model

LAYOUTS = [Layout(), Layout(row=16, subtree=24, batch=64, floor=0), Layout(row=1, subtree=1, batch=1, floor=0)]


def prompts() -> list[list[int]]:
    """Some shared, one within another, one asked three times."""
    generator = np.random.default_rng(3)
    start = generator.integers(2, VOCABULARY, 30).tolist()
    found = [start + generator.integers(2, VOCABULARY, generator.integers(1, 20)).tolist() for _ in range(8)]
    return [*found, start, start[:10], [7], found[2], found[2], found[0] + [5]]


def alone(model: LanguageModel, contexts: Sequence[list[int]], stops: Stops, max_tokens: int = 9) -> list[list[int]]:
    answering = Answering(model, max_tokens, stops, most_likely)
    with torch.inference_mode():
        return [answering.answers(context, np.array([0]))[0] for context in contexts]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("most", [1, 3, 256])
def test_greedy_answers_equal_those_without_sharing(architecture: Architecture, layout: Layout, most: int) -> None:
    model, contexts = random_model(architecture), prompts()
    free = alone(model, contexts, Stops())
    stops = Stops.at([free[0][4], free[3][2]])
    wanted = alone(model, contexts, stops)
    with torch.inference_mode(), ours(model.model):
        found = GenerationRun(model, plan_generation(contexts, layout, most), Growing(model, 9, stops)).run()
    assert [found[i] for i in range(len(contexts))] == wanted
    assert {len(answer) for answer in wanted} > {9}


def test_every_prefix_of_the_prompts_is_computed_once_and_no_step_after_an_answer_ended() -> None:
    model, contexts = random_model(), prompts()
    engine = Engine(model)
    answers = engine.generate(contexts, max_tokens=9, stop=[1, 11, 23])
    distinct = {tuple(context[: end + 1]) for context in contexts for end in range(len(context))}
    lasts = {tuple(context) for context in contexts}
    interior = {prefix for prefix in lasts if any(context[: len(prefix)] == list(prefix) and len(context) > len(prefix) for context in contexts)}
    steps = sum(min(len(answer), 8) for answer in answers)
    assert engine.forward_tokens == len(distinct) + len(interior) + steps  # a prompt that others go on from has its last token computed for itself


def test_a_choice_sees_the_context_that_it_is_made_for() -> None:
    contexts = prompts()

    def by_context(logits: torch.Tensor, asked: Integers, step: int) -> torch.Tensor:
        return torch.from_numpy((asked * 3 + step) % 50 + 30)

    found = Engine(random_model(), batch_tokens=64).generate(contexts, max_tokens=4, choose=by_context)
    assert found == [[(i * 3 + step) % 50 + 30 for step in range(4)] for i in range(len(contexts))]


def test_many_answers_of_one_prompt_keep_its_keys_once() -> None:
    one, many = Engine(random_model()), Engine(random_model())
    prompt = prompts()[0]
    one.generate([prompt], max_tokens=3)
    many.generate([prompt] * 32, max_tokens=3)
    layers, heads, width, room = 3, 2, 16, 64
    answer = layers * 2 * heads * width * room * 4
    assert many.peak_bytes - one.peak_bytes == 31 * answer


def test_answers_longer_than_the_room_they_start_with_go_on() -> None:
    model = random_model("qwen2")
    contexts = prompts()[:3]
    assert Engine(model).generate(contexts, max_tokens=150) == alone(model, contexts, Stops(), 150)


def test_a_stop_string_ends_an_answer_across_tokens() -> None:
    letters = {token: chr(97 + token % 26) for token in range(VOCABULARY)}
    free = Engine(random_model()).generate([[5, 6]], max_tokens=12)[0]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(letters[token] for token in tokens)

    text = decode(free)
    stop = text[5:7]
    stops = Stops.at([], [stop, ""], decode)
    answer = Engine(random_model()).generate([[5, 6]], max_tokens=12, stops=stops)[0]
    first = text.find(stop)
    assert decode(answer) == text[: first + 2]
    assert stops.cut(decode(answer)) == text[:first]


def test_no_tokens_and_no_prompts() -> None:
    engine = Engine(random_model())
    assert engine.generate([], max_tokens=4) == []
    assert engine.generate([[3, 4]], max_tokens=0) == [[]]
