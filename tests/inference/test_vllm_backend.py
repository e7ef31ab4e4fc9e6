"""What is asked of vLLM and what is made of its answers, with a twin in its place that computes from uncached logits."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import ConfigError, ModelError, NumericError
from curate.inference import vllm_backend
from curate.inference.adapter_folder import AdapterFolder
from curate.inference.engine import Engine
from curate.inference.growing import Watched, most_likely
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.stops import Stops
from curate.inference.vllm_backend import PAGE, Vllm, VllmEngine
from curate.model import LanguageModel, ModelHandle
from curate.presses.snapkv import Snapkv
from curate.testing.random_models import random_model
from tests.inference.test_generation import prompts
from tests.inference.vllm_twin import Twin


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model()


@pytest.fixture
def vllm(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Vllm]:
    """vLLM with these adapters, and a twin for its process."""
    monkeypatch.setattr(vllm_backend, "build", lambda: "vllm 0")

    def make(batch_tokens: int = 64, longest: int = 50, adapters: dict[str, Any] | None = None, **twin: Any) -> Vllm:
        folders = {name: AdapterFolder(Path("adapter.safetensors"), settings) for name, settings in (adapters or {}).items()}
        made = Vllm(model, ModelHandle(Path("folder"), "f", "float32", 512), folders, batch_tokens=batch_tokens, longest=longest)
        made.started = made.process._wanted["start"]  # type: ignore[attr-defined]
        made.process = Twin(model, **twin)  # type: ignore[assignment]
        return made

    return make


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(97 + token % 26) for token in tokens)


@pytest.mark.parametrize("together", [1, 3, 99])
def test_greedy_answers_equal_the_engines_and_equal_contexts_are_asked_once(model: LanguageModel, vllm: Callable[..., Vllm], together: int) -> None:
    free = Engine(model).generate(prompts(), max_tokens=6)
    for stops in (Stops(), Stops.at([free[0][4], free[3][2]]), Stops.at([free[1][1]], [letters(free[0][2:4])], letters)):
        engine = VllmEngine(model, vllm=vllm(together=together))
        assert engine.generate(prompts(), max_tokens=6, stops=stops) == Engine(model).generate(prompts(), max_tokens=6, stops=stops)
        twin = engine.vllm.process
        assert len(twin.messages[0]["ask"]) == len(set(map(tuple, prompts()))) and twin.waiting == {}  # type: ignore[attr-defined]
        assert engine.peak_bytes == engine.vllm.cache_bytes


def test_computed_tokens_are_those_of_prompts_and_of_answers_that_were_fed(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    engine = VllmEngine(model, vllm=vllm())
    answers = engine.generate([[3, 4, 5], [3, 4, 5], [6]], max_tokens=4)
    assert list(map(len, answers)) == [4, 4, 4]
    assert engine.forward_tokens == (3 + 3) + (1 + 3)  # the last token of an answer is fed to nobody
    twice = VllmEngine(model, vllm=vllm())
    twice.generate([[3, 4, 5]], max_tokens=4, stop=[answers[0][2]])
    assert twice.forward_tokens == 3 + 2  # the token that ended it is not fed, the two before it are


def test_nothing_to_do_asks_nobody(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    engine = VllmEngine(model, vllm=vllm())
    assert engine.generate([], max_tokens=3) == [] and engine.generate([[3], [3]], max_tokens=0) == [[], []]
    assert engine.vllm.process.messages == []  # type: ignore[attr-defined]


def test_every_sample_has_a_seed_of_its_own_that_belongs_to_its_prompt(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    def seeds(order: Sequence[Sequence[int]]) -> dict[tuple[int, ...], set[int]]:
        engine = VllmEngine(model, vllm=vllm(together=99))
        engine.generate([one for one in order for _ in range(3)], max_tokens=2, choose=Sampler(sample_keys(5, order, 3), Nucleus(0.7, 0.9)))
        asked = engine.vllm.process.messages[0]  # type: ignore[attr-defined]
        assert asked["how"] == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 2} and len(asked["ask"]) == 3 * len(order)
        found: dict[tuple[int, ...], set[int]] = {}
        for _, tokens, seed in asked["ask"]:
            assert 0 <= seed < 2**63
            found.setdefault(tuple(tokens), set()).add(seed)
        return found

    one, other = seeds([[3, 4], [5]]), seeds([[5], [7], [3, 4]])
    assert {key: other[key] for key in one} == one and all(len(several) == 3 for several in other.values())


def test_answers_without_numbers_in_vllm_are_the_engines_and_its_cache_is_given_up(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    for choose in (most_likely, Sampler(sample_keys(0, [[3], [4], [5]], 1), Nucleus())):
        made, watched = vllm(broken={1: 2}, together=99), Watched(choose)
        found = VllmEngine(model, vllm=made).generate([[3], [4], [5]], max_tokens=4, choose=watched)
        own = Engine(model).generate([[3], [4], [5]], max_tokens=4, choose=choose)
        assert watched.failed == {} and found[1] == own[1] and made.process.closed  # type: ignore[attr-defined]
        assert (found == own) == (choose is most_likely)


def test_a_model_without_numbers_is_an_error_or_noted_for_the_caller(vllm: Callable[..., Vllm]) -> None:
    damaged = random_model()
    with torch.no_grad():
        damaged.model.get_input_embeddings().weight[4] = float("nan")
    made = vllm(broken={1: 0})
    made.process.model = damaged  # type: ignore[attr-defined]
    with pytest.raises(NumericError, match="no finite numbers in vLLM"):
        VllmEngine(damaged, vllm=made).generate([[3], [4]], max_tokens=4)
    watched = Watched(most_likely)
    VllmEngine(damaged, vllm=made).generate([[3], [4], [4]], max_tokens=4, choose=watched)
    assert watched.failed == {1: 0, 2: 0}


def test_what_is_not_done_is_refused(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    with pytest.raises(ConfigError, match="vLLM keeps whole caches"):
        VllmEngine(model, press=Snapkv(), vllm=vllm()).generate([[3]], max_tokens=2)
    with pytest.raises(ConfigError, match="vLLM gives greedy and sampled answers"):
        VllmEngine(model, vllm=vllm()).generate([[3]], max_tokens=2, choose=lambda logits, contexts, step: logits.argmin(-1))
    for temperature in (0.001, 2.5):
        with pytest.raises(ConfigError, match=f"temperatures from 0.01 to 2, and {temperature} was asked for"):
            VllmEngine(model, vllm=vllm()).generate([[3]], max_tokens=2, choose=Sampler(sample_keys(0, [[3]], 1), Nucleus(temperature)))


def test_answers_that_never_come_are_an_error(model: LanguageModel, vllm: Callable[..., Vllm]) -> None:
    made = vllm(longest=50, news=1)
    with pytest.raises(ModelError, match="vLLM left 2 of 2 answers unfinished"):
        VllmEngine(model, vllm=made).generate([[3], [4]], max_tokens=4)
    assert len(made.process.messages) == 1 + 51  # type: ignore[attr-defined]  # a prompt may take as many steps as it has tokens


@pytest.mark.parametrize(("batch", "longest", "blocks"), [(64, 50, 82 // 32 + 2), (8192, 50, 258), (64, 1000, 1032 // 32 + 2)])
def test_sizes_are_stated(model: LanguageModel, vllm: Callable[..., Vllm], batch: int, longest: int, blocks: int) -> None:
    made = vllm(batch_tokens=batch, longest=longest)
    started = made.started  # type: ignore[attr-defined]
    block = torch.zeros(2, 3, 2, PAGE, 16)  # keys and values of 3 layers with 2 heads of 16
    assert made.cache_bytes == started["kv_cache_memory_bytes"] == blocks * block.nbytes
    assert (started["max_model_len"], started["block_size"], started["trust_remote_code"], started["load_format"]) == (longest, 32, False, "safetensors")
    assert started["max_num_batched_tokens"] == max(batch, 256) and "enable_lora" not in started


def test_adapters_are_written_down_as_peft_would(vllm: Callable[..., Vllm]) -> None:
    given = {"a": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}, "b": {"r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 40}}}
    made = vllm(adapters=given)
    assert {name: made.started[name] for name in ("enable_lora", "max_loras", "max_lora_rank")} == {  # type: ignore[attr-defined]
        "enable_lora": True, "max_loras": 1, "max_lora_rank": 64,
    }  # fmt: skip
    with pytest.raises(ModelError, match="within `with`"):
        made.adapter("b")
    with made:
        name, number, path = made.adapter("b") or ("", 0, "")
        assert (name, number, made.adapter("b"), made.adapter(None)) == ("b", 2, (name, number, path), None)
        assert json.loads((Path(path) / "adapter_config.json").read_text()) == {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", **given["b"]}
        assert (Path(path) / "adapter_model.safetensors").readlink() == Path("adapter.safetensors").absolute()
    assert not Path(path).parent.exists()


REFUSED = [
    ({"use_dora": True}, "x: vLLM knows no adapters with use_dora"),
    ({"lora_bias": True}, "no adapters with lora_bias"),
    ({"r": 513}, "its rank 513 is more"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_an_adapter_that_vllm_does_not_compute_is_named(vllm: Callable[..., Vllm], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        vllm(adapters={"x": {"r": 4, "lora_alpha": 8, **settings}})
