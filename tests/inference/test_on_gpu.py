"""The engine on a GPU, whose attention kernels no CPU runs: against float64 formulas, the uncached model, and what the CPU gives."""

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from torch.utils._python_dispatch import TorchDispatchMode

from curate.inference import attention as kernels
from curate.inference.activated import score_activated
from curate.inference.attention import FEW, attention, merge, ours
from curate.inference.engine import Engine
from curate.inference.generation import GenerationRun, plan_generation
from curate.inference.growing import Growing
from curate.inference.mixed import score_mixed
from curate.inference.own_attention import score
from curate.inference.plan import Layout
from curate.inference.prefill import prefill
from curate.inference.scoring import ScoringRun, plan_scoring
from curate.inference.stops import Stops
from curate.inference.variants import Variants
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.registry import component, names
from curate.testing import check_press
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.inference.random_adapters import save_adapter
from tests.inference.test_activated_lora import FIRST
from tests.inference.test_generation import alone, prompts
from tests.inference.test_shared_prefixes import Requests, requests
from tests.presses.test_contract import GIVEN

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CLOSE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # of outputs and normalisers of standard normal numbers
LAYOUTS = [
    Layout(),  # one packed row of many queries, with a tree's mask
    Layout(row=64, subtree=128, batch=512, floor=0),  # stored stretches behind stored stretches, and small rows
    Layout(row=512, subtree=256, floor=0, apart=True),  # a stored stretch that many queries attend to
]


def drawn(dtype: torch.dtype, queries: int, keys: int, width: int, bias: str) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Queries (2, 3, T, d), keys and values (2, 3, n, d), and a bias that hides some keys, from one that all share to one of every query's own."""
    generator = torch.Generator().manual_seed(queries + keys + width)
    tensors = [torch.randn(2, 3, rows, width, generator=generator).to("cuda", dtype) for rows in (queries, keys, keys)]
    shapes = {"none": None, "by key": (1, 3, 1, keys), "by query": (2, 1, queries, keys), "whole": (2, 3, queries, keys)}
    shape = shapes[bias]
    if shape is None:
        return tensors, None
    given = torch.randn(shape, generator=generator).masked_fill(torch.rand(shape, generator=generator) < 0.4, float("-inf"))
    given[..., 0] = 0.5  # no query is left without a key
    return tensors, given.to("cuda", dtype)


def formula(tensors: list[torch.Tensor], scale: float, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value = (tensor.double() for tensor in tensors)
    logits = query @ key.transpose(-1, -2) * scale
    logits = logits if bias is None else logits + bias.double()
    return logits.softmax(-1) @ value, logits.logsumexp(-1)


@pytest.mark.parametrize("bias", ["none", "by key", "by query", "whole"])
@pytest.mark.parametrize("width", [16, 64, 80, 20])
@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (5, 300), (FEW, 1), (FEW, 33), (131, 777), (700, 64)])
@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
def test_every_kernel_gives_the_output_and_the_normaliser_of_the_formula(dtype: torch.dtype, queries: int, keys: int, width: int, bias: str) -> None:
    tensors, given = drawn(dtype, queries, keys, width, bias)
    output, normaliser = attention(*tensors, 0.3, given)
    wanted, total = formula(tensors, 0.3, given)
    assert output.dtype == dtype and normaliser.shape == total.shape
    torch.testing.assert_close(output.double(), wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    torch.testing.assert_close(normaliser.double(), total, rtol=CLOSE[dtype], atol=CLOSE[dtype])


class Operations(TorchDispatchMode):
    """Remembers the names of what ran within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "bias", "wanted"),
    [
        (torch.float32, "none", "efficient"),
        (torch.float32, "by key", "efficient"),
        (torch.bfloat16, "none", "flash"),
        (torch.bfloat16, "whole", "efficient"),
        (torch.float16, "none", "flash"),
        (torch.float64, "none", ""),
    ],
)
def test_the_kernel_is_the_one_that_is_meant(dtype: torch.dtype, bias: str, wanted: str) -> None:
    for queries, name in ((FEW, wanted), (FEW - 1, "")):
        tensors, given = drawn(dtype, queries, 96, 64, bias)
        with Operations() as ran:
            attention(*tensors, 0.3, given)
        assert [kind for kind in ("flash", "efficient") if f"aten._scaled_dot_product_{kind}_attention.default" in ran.names] == ([name] if name else [])


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("queries", [3, 200])
def test_parts_put_together_are_the_attention_over_all_keys(dtype: torch.dtype, queries: int) -> None:
    tensors, given = drawn(dtype, queries, 500, 64, "whole")
    assert given is not None
    given[..., :120] = 0  # the first two parts have no bias, as stored stretches
    query, keys, values = tensors
    parts = [attention(query, keys[:, :, a:b].contiguous(), values[:, :, a:b].contiguous(), 0.3) for a, b in ((0, 70), (70, 120))]
    parts.append(attention(query, keys[:, :, 120:], values[:, :, 120:], 0.3, given[..., 120:]))
    parts.append(attention(query, keys[:, :, :0], values[:, :, :0], 0.3))
    output, normaliser = merge(parts)
    wanted, total = formula(tensors, 0.3, given)
    torch.testing.assert_close(output.double(), wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    torch.testing.assert_close(normaliser.double(), total, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@cache
def asked() -> Requests:
    """Questions behind 300 tokens that all share, some within them, and one alone."""
    contexts, continuations = requests(16, shared=300)
    return [*contexts, list(range(2, 90)) * 2], [*continuations, [[5], [6, 7]]]


def uncached(model: LanguageModel) -> np.ndarray[Any, Any]:
    """log p of every asked token, from a pass over each request alone."""
    with torch.inference_mode():
        return np.concatenate([score(model, context, text).tokens for context, texts in zip(*asked(), strict=True) for text in texts])


@cache
def oracle(architecture: Architecture) -> np.ndarray[Any, Any]:
    """The same in float64 on the CPU; not by transformers' eager attention, whose softmax is of float32."""
    model = random_model(architecture)
    model.model.double()
    return uncached(model)


def through_the_engine(model: LanguageModel, layout: Layout) -> np.ndarray[Any, Any]:
    with torch.inference_mode(), ours(model.model):
        found = ScoringRun(model, plan_scoring(*asked(), layout)).results()
    return np.concatenate([scored.tokens for several in found for scored in several])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_log_likelihoods_are_those_of_the_uncached_model(architecture: Architecture, layout: Layout) -> None:
    model = random_model(architecture, device="cuda")
    found = through_the_engine(model, layout)
    assert found == pytest.approx(oracle(architecture), abs=1e-4)
    assert found == pytest.approx(uncached(model), abs=1e-4)
    model.model.double()  # whose rotations are of float32, and may differ between devices
    assert through_the_engine(model, layout) == pytest.approx(uncached(model), abs=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_numbers_of_16_bits_are_as_near_as_those_of_the_uncached_model(architecture: Architecture, layout: Layout, dtype: torch.dtype) -> None:
    model = random_model(architecture, device="cuda")
    model.model.to(dtype)
    exact = random_model(architecture)
    exact.model.to(dtype).double()  # the same rounded weights
    wanted = uncached(exact)
    error, own = (float(np.abs(found - wanted).mean()) for found in (through_the_engine(model, layout), uncached(model)))
    assert 0 < error < 1.5 * own


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prefill_in_chunks_is_that_in_one_pass(architecture: Architecture) -> None:
    model = random_model(architecture, device="cuda")
    tokens = asked()[0][1][:300]
    with torch.inference_mode(), ours(model.model):
        (_, one), (_, several) = prefill(model, tokens), prefill(model, tokens, chunk=130)
    torch.testing.assert_close(several, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", [Layout(), Layout(row=16, subtree=24, batch=64, floor=0)])
@pytest.mark.parametrize("most", [3, 256])
def test_greedy_answers_are_those_of_the_models_own_attention(architecture: Architecture, layout: Layout, most: int) -> None:
    model, contexts = random_model(architecture, device="cuda"), prompts()
    model.model.double()
    free = alone(model, contexts, Stops())
    stops = Stops.at([free[0][4], free[3][2]])
    with torch.inference_mode(), ours(model.model):
        found = GenerationRun(model, plan_generation(contexts, layout, most), Growing(model, 9, stops)).run()
    assert [found[i] for i in range(len(contexts))] == alone(model, contexts, stops)


def test_answers_behind_a_long_shared_prompt_are_those_of_transformers() -> None:
    model = random_model("qwen2", device="cuda")
    context = asked()[0][1]
    found = Engine(model).generate([context] * 70, max_tokens=70)  # 140 queries of a key-value head on the same keys, and room for more than 64 tokens
    ids = torch.tensor([context], device="cuda")
    settings = t.GenerationConfig(max_new_tokens=70, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert found == [model.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0, len(context) :].tolist()] * 70


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_mixed_adapters_give_what_each_gives_on_the_cpu(tmp_path: Path, tokens: int) -> None:
    folders = {"attention": save_adapter(tmp_path / "one", 1), "head": save_adapter(tmp_path / "two", 2, target_modules=["k_proj", "down_proj", "lm_head"])}
    plan = plan_scoring(*requests(12, shared=200))
    found, wanted = (score_mixed(Variants(random_model(device=place), folders), [None, *folders], plan, tokens=tokens) for place in ("cuda", "cpu"))
    for name in wanted:
        for mine, theirs in zip(found[name], wanted[name], strict=True):
            assert [one.loglikelihood for one in mine] == pytest.approx([one.loglikelihood for one in theirs], abs=1e-4)


def test_activated_adapters_give_what_they_give_on_the_cpu(tmp_path: Path) -> None:
    folders = {"one": save_adapter(tmp_path / "one", 1, alora_invocation_tokens=FIRST)}
    contexts, continuations = requests(12, shared=200)
    contexts = [[*(token % 80 for token in context[:-1]), *FIRST, context[-1] % 80] for context in contexts]
    variants = (Variants(random_model(device=device), folders) for device in ("cuda", "cpu"))
    found, wanted = (score_activated(several, [None, "one"], contexts, continuations).results for several in variants)
    for name in wanted:
        for mine, theirs in zip(found[name], wanted[name], strict=True):
            assert [one.loglikelihood for one in mine] == pytest.approx([one.loglikelihood for one in theirs], abs=1e-4)


def test_a_window_is_heeded_by_running_alone() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model: Any = t.MistralForCausalLM(t.MistralConfig(num_key_value_heads=2, sliding_window=100, **sizes)).eval()
    other = copy.deepcopy(model).to("cuda")
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1, all_special_ids=[0, 1])
    engine = Engine(LanguageModel(other, tokenizer, "cuda", {}))
    found = engine.loglikelihoods(*asked())
    wanted = Engine(LanguageModel(model, tokenizer, "cpu", {})).loglikelihoods(*asked())
    assert engine.unshared
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("name", names("presses"))
def test_every_press_keeps_the_contract_on_a_gpu(name: str) -> None:
    press = component("presses", {"name": name, **GIVEN.get(name, {})})
    assert isinstance(press, Press)
    check_press(press, device="cuda")


def test_the_rows_of_a_bias_begin_where_the_kernel_wants_them() -> None:
    bias = torch.randn(2, 1, 131, 777, device="cuda")
    aligned = kernels._aligned(bias)
    assert aligned.equal(bias) and aligned.stride(-2) % 16 == 0
