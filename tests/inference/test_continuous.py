"""Continuous batching gives the engine's greedy answers."""

from collections.abc import Sequence

import pytest

from curate.inference.continuous import ContinuousBatching
from curate.inference.engine import Engine
from curate.inference.stops import Stops
from curate.testing.random_models import random_model
from tests.inference.test_generation import prompts


@pytest.mark.parametrize("batch_tokens", [1, 64, 8192])
def test_answers_equal_the_engines(batch_tokens: int) -> None:
    model = random_model()
    free = Engine(model).generate(prompts(), max_tokens=6)
    stops = Stops.at([free[0][4], free[3][2]])
    backend = ContinuousBatching(model, batch_tokens)
    found = backend.generate(prompts(), max_tokens=6, stops=stops)
    assert found == Engine(model).generate(prompts(), max_tokens=6, stops=stops)
    assert backend.decoded_tokens == sum(map(len, {tuple(prompt): answer for prompt, answer in zip(prompts(), found, strict=True)}.values()))
    assert model.model.config._attn_implementation == "sdpa"


def test_a_stop_string_cuts_where_the_engine_stops() -> None:
    model = random_model()

    def decode(tokens: Sequence[int]) -> str:
        return "".join(chr(97 + token % 26) for token in tokens)

    free = Engine(model).generate([[5, 6]], max_tokens=10)[0]
    stops = Stops.at([], [decode(free)[4:6]], decode)
    assert ContinuousBatching(model).generate([[5, 6]], max_tokens=10, stops=stops) == Engine(model).generate([[5, 6]], max_tokens=10, stops=stops)


def test_nothing_to_do() -> None:
    assert ContinuousBatching(random_model()).generate([], max_tokens=3, stops=Stops()) == []
    assert ContinuousBatching(random_model()).generate([[3]], max_tokens=0, stops=Stops()) == [[]]
