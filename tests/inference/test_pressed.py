"""The engine with a press: what is compressed, that keeping all is exact, and that generation goes on behind a compressed prefix."""

import pytest

from curate.errors import ConfigError, ModelError
from curate.inference.engine import Engine
from curate.presses.fastkv import Fastkv
from curate.presses.h2o import H2o
from curate.presses.kv_direct import KvDirect
from curate.presses.snapkv import Snapkv
from curate.testing.random_models import random_model
from tests.inference.test_generation import prompts
from tests.inference.test_shared_prefixes import requests


def test_a_press_that_keeps_all_tokens_changes_nothing_and_says_what_it_covered() -> None:
    contexts, continuations = requests(20)
    exact = Engine(random_model()).loglikelihoods(contexts, continuations)
    engine = Engine(random_model(), press=Snapkv(keep=1.0))
    found = engine.loglikelihoods(contexts, continuations)
    for one, other in zip(exact, found, strict=True):
        assert other == pytest.approx(one, abs=1e-5)
    assert engine.compressed_tokens > 0


def test_a_press_that_drops_tokens_holds_fewer_bytes_and_other_numbers() -> None:
    contexts, continuations = requests(20, shared=200)
    contexts = [contexts[1][:200] + context[-5:] for context in contexts]
    whole, half = Engine(random_model(), press=Snapkv(keep=1.0)), Engine(random_model(), press=Snapkv(keep=0.5))
    exact, lossy = whole.loglikelihoods(contexts, continuations), half.loglikelihoods(contexts, continuations)
    assert half.peak_bytes == whole.peak_bytes / 2
    assert max(abs(a - b) for one, other in zip(exact, lossy, strict=True) for a, b in zip(one, other, strict=True)) > 1e-3


@pytest.mark.parametrize("covers", ["prefix", "prompt"])
@pytest.mark.parametrize("press", [Snapkv(keep=1.0), H2o(tokens=500), KvDirect()])
def test_generation_behind_whole_caches_equals_the_exact_one(covers: str, press: Snapkv) -> None:
    model = random_model("llama_one_kv_head") if not isinstance(press, KvDirect) else random_model("gpt_neox")
    exact = Engine(model).generate(prompts(), max_tokens=6)
    engine = Engine(model, press=press.model_copy(update={"covers": covers}))
    assert engine.generate(prompts(), max_tokens=6) == exact
    assert engine.compressed_tokens > 0


def test_h2o_goes_on_forgetting_while_it_generates() -> None:
    model = random_model()
    short, long = (Engine(model, press=H2o(tokens=12, covers="prompt")) for _ in range(2))
    short.generate([prompts()[0]], max_tokens=8)
    long.generate([prompts()[0]], max_tokens=80)
    assert short.peak_bytes == long.peak_bytes


def test_a_press_with_a_prefill_of_its_own_reads_only_what_follows_the_prefix() -> None:
    contexts, continuations = requests(20, shared=120)
    behind = [contexts[1][:120] + context[-5:] for context in contexts]
    assert len(Engine(random_model(), press=Fastkv()).loglikelihoods(behind, continuations)) == 20
    with pytest.raises(ModelError, match="scored inside a stretch"):  # the first tokens of the others are this one's answer
        Engine(random_model(), press=Fastkv()).loglikelihoods([*behind, behind[0][:100]], [*continuations, [behind[0][100:120]]])


def test_continuous_batching_takes_no_press_and_no_sampling() -> None:
    with pytest.raises(ConfigError, match="greedy answers from whole caches"):
        Engine(random_model(), press=Snapkv(), continuous=True).generate([[3, 4]], max_tokens=2)
    assert Engine(random_model(), continuous=True).generate(prompts(), max_tokens=4) == Engine(random_model()).generate(prompts(), max_tokens=4)
