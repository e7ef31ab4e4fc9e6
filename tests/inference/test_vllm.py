"""vLLM itself, where it is installed: its answers are the engine's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from curate.errors import ModelError
from curate.inference.adapter_folder import adapter_folder
from curate.inference.engine import Engine
from curate.inference.growing import Watched, most_likely
from curate.inference.sampling import Nucleus, Sampler, sample_keys
from curate.inference.stops import Stops
from curate.inference.variants import Variants
from curate.inference.vllm_backend import Vllm, VllmEngine
from curate.model import LanguageModel, ModelHandle

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow  # it takes half a minute to start

POISON = 96  # a token whose embedding is no number
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "patterns": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"q_proj": 3}},
    "stabilised": {"target_modules": ["o_proj", "down_proj"], "use_rslora": True},
}
CONTEXTS = [[3, 4, 5], [3, 4, 5], [8] * 40, [(7 * i) % 90 for i in range(70)], [(7 * i) % 90 for i in range(71)], [2], [(5 * i) % 89 for i in range(200)]]


def saved(kind: str, folder: Path) -> Path:
    """A random Llama or Qwen2 with heads as wide as vLLM asks on a CPU, and a token that poisons."""
    import transformers

    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    common |= {"num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None}
    make: Any = {"llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig), "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config)}[kind]
    model = make[0](make[1](**common))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        model.get_input_embeddings().weight[POISON] = float("nan")
        model.get_output_embeddings().weight[POISON] = 0  # so that no answer holds it
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> LanguageModel:
    import transformers

    return LanguageModel(transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval(), None, "cpu", {})


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Variants, Vllm]]:
    import peft

    folder = saved(request.param, tmp_path_factory.mktemp(request.param))
    paths = {}
    for name, settings in ADAPTERS.items():
        torch.manual_seed(len(name))
        config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
        paths[name] = tmp_path_factory.mktemp(request.param) / name
        peft.get_peft_model(loaded(folder).model, config).save_pretrained(str(paths[name]))
    variants = Variants(loaded(folder), paths)
    folders = {name: adapter_folder(path) for name, path in paths.items()}
    handle = ModelHandle(folder, "f", "float32", 512)
    with Vllm(variants.base, handle, folders, batch_tokens=512, longest=256) as vllm:
        yield variants, vllm
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize("name", [None, *ADAPTERS])
def test_greedy_answers_equal_the_engines(running: tuple[Variants, Vllm], name: str | None) -> None:
    variants, vllm = running
    with variants.using(name) as model:
        free = Engine(model).generate(CONTEXTS, max_tokens=20)
        assert VllmEngine(model, vllm=vllm, adapter=name).generate(CONTEXTS, max_tokens=20) == free
        stops = Stops.at([free[2][7]], [letters(free[3][4:7])], letters)
        assert VllmEngine(model, vllm=vllm, adapter=name).generate(CONTEXTS, max_tokens=20, stops=stops) == Engine(model).generate(
            CONTEXTS, max_tokens=20, stops=stops
        )
    if name is not None:
        assert free != Engine(variants.base).generate(CONTEXTS, max_tokens=20)


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(97 + token % 26) for token in tokens)


def test_only_one_process_is_started_and_this_one_stays_as_it_was(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    before = torch.get_rng_state(), torch.set_num_threads, torch.distributed.is_initialized()
    VllmEngine(variants.base, vllm=vllm).generate([[3]], max_tokens=2)
    (only,) = psutil.Process().children(recursive=True)
    assert {address.laddr.ip for address in only.net_connections("inet")} <= {"127.0.0.1"}
    assert torch.equal(before[0], torch.get_rng_state()) and before[1:] == (torch.set_num_threads, torch.distributed.is_initialized())


def test_samples_follow_the_nucleus_and_are_the_same_in_any_batch(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    prompt, nucleus, count = CONTEXTS[3], Nucleus(2.0, 0.9), 2000
    keys = sample_keys(1, [prompt], count)

    def drawn(which: Sequence[int]) -> list[list[int]]:
        chosen = Sampler(keys[list(which)], nucleus)
        return VllmEngine(variants.base, vllm=vllm).generate([prompt] * len(which), max_tokens=2, choose=chosen)

    found = drawn(range(count))
    assert drawn(range(9, -1, -1)) == found[9::-1] and drawn([3]) == [found[3]]
    with torch.no_grad():
        weights = nucleus.weights(variants.base.model(torch.tensor([prompt])).logits[:, -1])[0].numpy()
    expected = weights / weights.sum() * count
    counts = np.bincount([answer[0] for answer in found], minlength=len(weights))
    assert (weights > 0).sum() > 5 and counts[weights == 0].sum() == 0
    wide = expected > 5
    distance = (((counts - expected) ** 2)[wide] / expected[wide]).sum()
    assert distance < wide.sum() + 5 * np.sqrt(2 * wide.sum())  # chi-squared: mean k, deviation sqrt(2 k)


def test_a_request_without_numbers_is_noted_and_spoils_no_other(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    clean = Engine(variants.base).generate(CONTEXTS, max_tokens=8)
    for bad in ([3] * 100 + [POISON] + [4] * 100, [POISON]):
        watched = Watched(most_likely)
        found = VllmEngine(variants.base, vllm=vllm).generate([*CONTEXTS, bad], max_tokens=8, choose=watched)
        assert watched.failed == {len(CONTEXTS): 0} and found[:-1] == clean
        assert VllmEngine(variants.base, vllm=vllm).generate(CONTEXTS, max_tokens=8) == clean  # in blocks that it did not spoil


def test_a_cache_smaller_than_the_work_gives_the_same_answers(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    many = [[i % 90, *CONTEXTS[6]] for i in range(30)]  # ten times what the cache holds
    engine = VllmEngine(variants.base, vllm=vllm)
    assert engine.generate(many, max_tokens=20) == Engine(variants.base).generate(many, max_tokens=20)
    assert engine.peak_bytes == vllm.cache_bytes


def test_a_prompt_that_others_begin_with_is_computed_once(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    head = [(11 * i) % 83 for i in range(128)]
    engine = VllmEngine(variants.base, vllm=vllm)
    engine.generate([[*head, i] for i in range(6)], max_tokens=1)
    assert engine.forward_tokens == 129 + 5 * 1


def test_a_request_that_does_not_fit_is_one_line(running: tuple[Variants, Vllm]) -> None:
    variants, vllm = running
    with pytest.raises(ModelError, match="vLLM failed .*; leave --vllm out") as caught:
        VllmEngine(variants.base, vllm=vllm).generate([[3] * 300], max_tokens=20)
    assert "\n" not in str(caught.value) and not psutil.Process().children()
