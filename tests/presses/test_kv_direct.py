"""KV-Direct: keys and values made again are those of the cache, to the bit."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from curate.compression.actions.recompute import Recompute
from curate.compression.recomputed import NotRecomputed, Recomputed
from curate.errors import ConfigError, ModelError
from curate.model import LanguageModel
from curate.presses.kv_direct import KvDirect
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.stored_prefixes import acted, after, made, queries, real, summed, whole

WIDTH = 64  # of all models here; keys and values of a layer have 2 * 4 * 16 = 128 or 2 * 4 * 32 = 256 numbers a token


def of_transformers(name: str, seed: int = 0) -> LanguageModel:
    """Multi-head models of width 64 with what recomputation has to know of: norms of keys, biases, fused projections, kinds of rotary embedding."""
    import transformers as t

    common: dict[str, Any] = {"vocab_size": 97, "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    several: dict[str, Any] = {**common, "num_key_value_heads": 4, "head_dim": 32}
    configs: dict[str, Any] = {
        "llama": lambda: t.LlamaConfig(**several, attention_bias=True),
        "qwen3": lambda: t.Qwen3Config(**several),
        "phi": lambda: t.PhiConfig(**common),
        "gemma3_text": lambda: t.Gemma3TextConfig(**several, query_pre_attn_scalar=32, layer_types=["full_attention"] * 2),
        "gpt_neox": lambda: t.GPTNeoXConfig(**common),
    }
    torch.manual_seed(seed)
    model: Any = t.AutoModelForCausalLM.from_config(configs[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms that do something
    return LanguageModel(model, None, "cpu", {})


def with_adapter(model: LanguageModel) -> LanguageModel:
    import peft

    fused = any(name.endswith("query_key_value") for name, _ in model.model.named_modules())
    names = ["query_key_value"] if fused else ["q_proj", "k_proj", "v_proj"]
    adapted = peft.get_peft_model(model.model, peft.LoraConfig(r=4, target_modules=names, init_lora_weights=False))
    return LanguageModel(adapted.eval(), None, "cpu", {})


MODELS = ["llama", "qwen3", "phi", "gemma3_text", "gpt_neox"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_cache_to_the_bit_under_adapters_too(name: str, adapted: bool, dtype: torch.dtype) -> None:
    model = with_adapter(of_transformers(name)) if adapted else of_transformers(name)
    model.model.to(dtype)
    with torch.inference_mode():
        prefix = real(model, 40, inputs=True)
        memory = KvDirect().compress(prefix)
        for store, view in zip(memory.layers, prefix.layers, strict=True):
            assert isinstance(store, Recomputed) and store.recomputed
            keys, values = store.read()
            assert torch.equal(keys, view.keys) and torch.equal(values, view.values)
        exact = after(model, whole(prefix))
        assert exact.isfinite().all() and torch.equal(after(model, memory), exact)
        assert memory.nbytes == 2 * 40 * WIDTH * dtype.itemsize < whole(prefix).nbytes


def test_an_adapter_changes_what_is_recomputed() -> None:
    model = with_adapter(of_transformers("llama"))
    with torch.inference_mode():
        prefix = real(model, 20, inputs=True)
        store = KvDirect().compress(prefix).layers[1]
        assert isinstance(store, Recomputed)
        with model.model.disable_adapter():
            assert not torch.allclose(store.read()[0], prefix.layers[1].keys, atol=1e-3)
        assert torch.equal(store.read()[0], prefix.layers[1].keys)


def projected(store: Recomputed, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which projections of the layer run while a store is read, and on how many tokens."""
    linear, ran = nn.functional.linear, []
    names = {getattr(store.module, name).weight.data_ptr(): name for name in ("q_proj", "k_proj", "v_proj", "o_proj")}

    def watched(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ran.append((names[weight.data_ptr()], states.shape[-2]))
        return linear(states, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "linear", watched)
        store.read()
    return ran


def test_neither_queries_nor_the_output_are_computed_and_the_layer_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_transformers("qwen3")
    with torch.inference_mode():
        prefix = real(model, 20, inputs=True)
        exact = after(model, whole(prefix))
        store = KvDirect().compress(prefix).layers[0]
        assert isinstance(store, Recomputed)
        assert projected(store, monkeypatch) == [("k_proj", 20), ("v_proj", 20)]
        assert all("forward" not in vars(module) for module in store.module.modules())
        assert torch.equal(after(model, whole(prefix)), exact)


def test_a_long_prefix_is_recomputed_in_the_chunks_of_its_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.compression.recomputed.CHUNK", 16)
    model = of_transformers("qwen3")
    with torch.inference_mode():
        prefix = real(model, 40, inputs=True, chunk=16)
        for store, view in zip(KvDirect().compress(prefix).layers, prefix.layers, strict=True):
            assert isinstance(store, Recomputed)
            keys, values = store.read()
            assert torch.equal(keys, view.keys) and torch.equal(values, view.values)
            assert [tokens for _, tokens in projected(store, monkeypatch)] == [16, 16, 16, 16, 8, 8]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_used_only_where_it_is_smaller_and_the_store_says_so(architecture: Architecture) -> None:
    model = random_model(architecture)
    with torch.inference_mode():
        prefix = real(model, 30, inputs=True)
        memory = KvDirect().compress(prefix)
        exact = whole(prefix)
        smaller = 2 * prefix.layers[0].keys.shape[0] * 16 > WIDTH
        assert smaller == (architecture == "gpt_neox")
        for store in memory.layers:
            assert isinstance(store, Recomputed if smaller else NotRecomputed) and store.recomputed == smaller
        assert memory.nbytes == (exact.nbytes // 2 if smaller else exact.nbytes)
        assert torch.equal(after(model, memory), after(model, exact))


def test_a_store_holds_its_own_inputs_and_attends_outside_of_the_engine_too() -> None:
    model = of_transformers("gpt_neox")
    with torch.inference_mode():
        prefix = real(model, 30, inputs=True)
        store = KvDirect().compress(prefix).layers[0]
        assert isinstance(store, Recomputed) and summed(store.tensors) == 30 * WIDTH * 4
        assert prefix.layers[0].inputs is not None
        assert store.inputs.untyped_storage().data_ptr() != prefix.layers[0].inputs.untyped_storage().data_ptr()
        before = model.model.config._attn_implementation
        got = store.attend(queries(3, heads=4), 0.25)
        assert torch.equal(got[0], whole(prefix).layers[0].attend(queries(3, heads=4), 0.25)[0])
        assert model.model.config._attn_implementation == before != "curate"


def test_what_is_missing_is_said() -> None:
    assert Recompute.needs_inputs
    with pytest.raises(ConfigError, match="prefill with inputs=True"):
        acted(Recompute(), made(20))
    with pytest.raises(ConfigError, match="layer 0 was to keep 3 of 20 in a head; set keep: 1"):
        acted(Recompute(), made(20), [torch.arange(20), torch.arange(3)])
    with pytest.raises(ValidationError):
        KvDirect(keep=0.5)


def test_a_model_without_one_rotary_embedding_for_all_layers_is_refused() -> None:
    import transformers as t

    config = t.GPT2Config(vocab_size=97, n_embd=WIDTH, n_layer=1, n_head=2)
    model = LanguageModel(t.GPT2LMHeadModel(config).eval(), None, "cpu", {})
    with pytest.raises(ModelError, match="GPT2Model cannot be recomputed"):
        Recomputed.of(torch.zeros(4, WIDTH), model, 0)


def test_the_components_are_what_they_say() -> None:
    check_identity(KvDirect(), "presses")
    check_identity(Recompute(), "actions")
