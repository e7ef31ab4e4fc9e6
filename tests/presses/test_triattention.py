"""TriAttention: turning back what rotary positions turned, the score of a key, and what is kept by it."""

import cmath
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from curate.compression.importances.trigonometric import MEAN, NORM, Trigonometric
from curate.compression.prefix import Prefix
from curate.compression.rotary import Rotary, check_rotary, paired, rotary_of, rotate, unrotate
from curate.errors import DataError, ModelError
from curate.inference import prefill as prefilling
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward
from curate.inference.prefill import prefilled
from curate.inference.stores import Memory, Plain
from curate.model import LanguageModel
from curate.presses.triattention import Triattention
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model

TOKENS = np.random.default_rng(3).integers(2, 97, 40).tolist()
TEXTS = [np.random.default_rng(i).integers(2, 97, 9 + i).tolist() for i in range(3)]


def prefix_of(model: LanguageModel, tokens: list[int] = TOKENS) -> Prefix:
    with torch.inference_mode(), ours(model.model):
        prefix = prefilled(model, tokens)[0]
    return replace(prefix, state=Trigonometric().calibrate(model, TEXTS, 0))


def other_model(kind: str) -> LanguageModel:
    """Small models whose queries are made in other ways: normalised per head, with a scaled rotary embedding, with neighbouring channels paired."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "qwen3":
        model: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(num_key_value_heads=2, head_dim=16, **sizes))
        torch.nn.init.normal_(model.model.layers[0].self_attn.q_norm.weight)
    elif kind == "yarn":
        rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=2, rope_parameters=rope, **sizes))
    else:
        model = transformers.CohereForCausalLM(transformers.CohereConfig(num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes))
        model.model.layers[0].self_attn.q_proj.weight.data.mul_(20)
    return LanguageModel(model.eval(), SimpleNamespace(all_special_ids=[0, 1]), "cpu", {})


def queries_before(model: LanguageModel, layer: int, tokens: list[int]) -> Tensor:
    """(Hq, n, d) what the layer's projection makes, before any position is in it."""
    stack = model.model.gpt_neox.layers if hasattr(model.model, "gpt_neox") else model.model.model.layers
    made: list[Tensor] = []
    part = stack[layer].attention.query_key_value if hasattr(stack[layer], "attention") else stack[layer].self_attn.q_proj
    handle = part.register_forward_hook(lambda module, given, output: made.append(output[0]))
    with torch.inference_mode():
        model.model(torch.tensor([tokens]))
    handle.remove()
    if hasattr(stack[layer], "attention"):
        return made[0].reshape(len(tokens), 4, 3, 16)[:, :, 0].transpose(0, 1)
    states = made[0].reshape(len(tokens), 4, 16)
    with torch.inference_mode():
        return (stack[layer].self_attn.q_norm(states) if hasattr(stack[layer].self_attn, "q_norm") else states).transpose(0, 1)


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "qwen3", "yarn"])
def test_turning_back_gives_the_queries_that_the_model_made(kind: Any) -> None:
    model = random_model(kind) if kind in ARCHITECTURES else other_model(kind)
    with torch.inference_mode(), ours(model.model):
        prefix = prefilled(model, TOKENS)[0]
    rotary = rotary_of(model)
    assert (kind == "yarn") == (rotary.scaling != 1)
    for layer in (0, 1):
        back = unrotate(prefix.layers[layer].queries, torch.arange(40), rotary)
        torch.testing.assert_close(back, queries_before(model, layer, TOKENS), rtol=1e-4, atol=1e-5)
    state = Trigonometric().calibrate(model, TEXTS, 0)
    assert state is not None
    before = torch.cat([queries_before(model, 1, text) for text in TEXTS], 1)
    torch.testing.assert_close(state[MEAN][1], before.mean(1), rtol=1e-4, atol=1e-5)
    half = len(rotary.frequencies)
    norms = (before[..., :half] ** 2 + before[..., half : 2 * half] ** 2).sqrt()
    torch.testing.assert_close(state[NORM][1], torch.cat([norms, before[..., 2 * half :].abs()], -1).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pairs", "scaling"), [(8, 1.0), (2, 1.0), (8, 1.3), (3, 0.7)])
def test_turned_back_and_turned_again_is_the_same(pairs: int, scaling: float) -> None:
    torch.manual_seed(0)
    rotary = Rotary(100.0 ** (-torch.arange(pairs) / pairs), scaling)
    keys, positions = torch.randn(2, 30, 16, dtype=torch.float64), torch.randint(0, 50000, (30,))
    torch.testing.assert_close(rotate(unrotate(keys, positions, rotary), positions, rotary), keys, rtol=0, atol=1e-12)
    assert (unrotate(keys, positions, rotary) - keys).abs().max() > 0.1
    own = torch.randint(0, 500, (2, 30))  # positions per head
    torch.testing.assert_close(rotate(keys, own, rotary)[1], rotate(keys[1], own[1], rotary))
    if scaling == 1:
        torch.testing.assert_close(paired(rotate(keys, positions, rotary), rotary).abs(), paired(keys, rotary).abs())


def test_chunks_of_a_text_are_turned_back_from_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    whole = Trigonometric().calibrate(model, [TOKENS], 0)
    monkeypatch.setattr(prefilling, "prefill", partial(prefilling.prefill, chunk=7))
    chunks = Trigonometric().calibrate(model, [TOKENS], 0)
    assert whole is not None and chunks is not None
    torch.testing.assert_close(chunks[MEAN], whole[MEAN], rtol=1e-4, atol=1e-5)


def by_definition(keys: Tensor, positions: list[int], seen: int, mean: Tensor, norm: Tensor, rotary: Rotary, offsets: int, over: str) -> tuple[Any, Any]:
    """The two terms of one query head, from keys (m, d) turned back, number by number."""
    back = unrotate(keys.double(), torch.tensor(positions), rotary).numpy()
    pairs, d = len(rotary.frequencies), keys.shape[1]
    firsts, seconds = np.zeros(len(keys)), np.zeros(len(keys))
    for j, position in enumerate(positions):
        at = [0.0] * offsets
        for f in range(d - pairs):
            turned = f < pairs
            column = f if turned else f + pairs
            k = complex(back[j, column], back[j, f + pairs] if turned else 0.0)
            q = complex(float(mean[column]), float(mean[f + pairs]) if turned else 0.0)
            w, a = (float(rotary.frequencies[f]), rotary.scaling) if turned else (0.0, 1.0)
            for i in range(offsets):
                phase = w * (seen + 2**i - position) + cmath.phase(q * k.conjugate())
                at[i] += a**2 * abs(q) * abs(k) * math.cos(phase)
            seconds[j] += a**2 * (float(norm[f]) - abs(q)) * abs(k)
        firsts[j] = max(at) if over == "max" else sum(at) / offsets
    return firsts, seconds


@pytest.mark.parametrize("over", ["mean", "max"])
@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "yarn"])
def test_the_terms_are_those_of_the_definition(kind: Any, over: Any) -> None:
    model = other_model(kind) if kind == "yarn" else random_model(kind)
    prefix, rotary = prefix_of(model), rotary_of(model)
    importance = Trigonometric(over_offsets=over, offsets=6)
    assert prefix.state is not None
    view, mean, norm = prefix.layers[1], prefix.state[MEAN][1], prefix.state[NORM][1]
    first, second = importance.terms(view.keys, 40, mean, norm, rotary)
    for head in (0, 3):
        wanted = by_definition(view.keys[head // view.groups], list(range(40)), 40, mean[head], norm[head], rotary, 6, over)
        np.testing.assert_allclose(first[head].numpy(), wanted[0], rtol=1e-3, atol=1e-3 * np.abs(wanted[0]).max())
        np.testing.assert_allclose(second[head].numpy(), wanted[1], rtol=1e-3, atol=1e-3 * np.abs(wanted[1]).max())
        assert np.abs(wanted[1]).max() > 0.1


def constant_queries() -> LanguageModel:
    """Qwen2, whose queries are then a bias alone: the same at all positions."""
    model = random_model("qwen2")
    for layer in model.model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    return model


@pytest.mark.parametrize("offsets", [1, 5, 17])
def test_for_constant_queries_the_score_is_the_mean_logit_at_the_future_distances(offsets: int) -> None:
    model = constant_queries()
    prefix, rotary = prefix_of(model), rotary_of(model)
    assert prefix.state is not None
    for layer, view in enumerate(prefix.layers):
        bias = model.model.model.layers[layer].self_attn.q_proj.bias.detach().reshape(4, 16)
        ahead = torch.tensor([40 + 2**i for i in range(offsets)])
        queries = rotate(bias.unsqueeze(1).expand(-1, offsets, -1).double(), ahead, rotary)
        logits = torch.stack([queries[head] @ view.keys[head // view.groups].double().T for head in range(4)])  # times sqrt(d) what the model would have
        first, second = Trigonometric(offsets=offsets).terms(view.keys, 40, prefix.state[MEAN][layer], prefix.state[NORM][layer], rotary)
        torch.testing.assert_close(first.double(), logits.mean(1), rtol=1e-3, atol=2e-3)
        assert second.abs().max() < 1e-4 * view.keys.norm(dim=-1).max()


def test_shifting_all_positions_together_changes_no_score() -> None:
    prefix = prefix_of(random_model("llama"))
    rotary = rotary_of(prefix.model)
    assert prefix.state is not None
    keys, mean, norm = prefix.layers[2].keys, prefix.state[MEAN][2], prefix.state[NORM][2]
    shifted = rotate(unrotate(keys, torch.arange(40), rotary), torch.arange(1000, 1040), rotary)
    for one, other in zip(Trigonometric().terms(keys, 40, mean, norm, rotary), Trigonometric().terms(shifted, 1040, mean, norm, rotary), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * float(one.abs().max()))


def standings(prefix: Prefix, layer: int, candidates: int, group: str = "max") -> np.ndarray[Any, Any]:
    """(Hk, candidates): normalised scores of the first tokens, per key-value head."""
    rotary = rotary_of(prefix.model)
    assert prefix.state is not None
    view = prefix.layers[layer]
    terms = Trigonometric().terms(view.keys, len(prefix), prefix.state[MEAN][layer], prefix.state[NORM][layer], rotary)
    values = (terms[0] + terms[1]).double().numpy()[:, :candidates]
    standing = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    grouped = standing.reshape(len(view.keys), view.groups, candidates)
    return np.asarray(grouped.max(1) if group == "max" else grouped.mean(1))


def test_scores_are_normalised_over_candidates_and_one_ranking_holds_for_all_layers_by_default() -> None:
    prefix = prefix_of(random_model("qwen2"))
    alone = Trigonometric(recent=10, selection="per_layer_head").score(prefix)
    together = Trigonometric(recent=10).score(prefix)
    for layer, values in enumerate(alone):
        np.testing.assert_allclose(values[:, :30].numpy(), standings(prefix, layer, 30), rtol=1e-3, atol=1e-3)
        assert values[:, 30:].eq(0).all() and together[layer].equal(together[0])
    np.testing.assert_allclose(together[0][:, :30].numpy(), np.mean([standings(prefix, layer, 30) for layer in range(3)], 0), rtol=1e-3, atol=1e-3)
    mean = Trigonometric(recent=10, selection="per_layer_head", group="mean").score(prefix)
    np.testing.assert_allclose(mean[1][:, :30].numpy(), standings(prefix, 1, 30, "mean"), rtol=1e-3, atol=1e-3)
    assert Trigonometric(recent=40).score(prefix)[0].eq(0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_kept_are_the_newest_and_the_best_at_their_own_positions(architecture: Architecture) -> None:
    prefix = prefix_of(random_model(architecture))
    press = Triattention(keep=0.3, importance=Trigonometric(recent=5, selection="per_layer_head"))
    for layer, store in enumerate(press.compress(prefix).layers):
        assert isinstance(store, Plain) and store.keys.shape[1] == 12
        for head, values in enumerate(standings(prefix, layer, 35)):
            kept = sorted([*np.argsort(-values, kind="stable")[:7].tolist(), *range(35, 40)])
            assert store.keys[head].equal(prefix.layers[layer].keys[head, kept])
    shared = Triattention(keep=0.3, importance=Trigonometric(recent=5)).compress(prefix)
    values = np.mean([standings(prefix, layer, 35) for layer in range(3)], 0)
    kept = sorted([*np.argsort(-values[0], kind="stable")[:7].tolist(), *range(35, 40)])
    for layer, store in enumerate(shared.layers):
        assert isinstance(store, Plain) and store.keys[0].equal(prefix.layers[layer].keys[0, kept])


def test_keeping_everything_is_the_full_cache() -> None:
    model = random_model("gpt_neox")
    prefix = prefix_of(model)
    whole = Memory([Plain(view.keys, view.values) for view in prefix.layers], 40)
    with torch.inference_mode(), ours(model.model):
        found, wanted = (
            forward(model, torch.tensor([[5, 6, 7]]), torch.tensor([[40, 41, 42]]), Pass([memory]))[0]
            for memory in (Triattention(keep=1.0).compress(prefix), whole)
        )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("pinned", "live", "recent"), [(True, 14, 3), (False, 14, 3), (True, 5, 2), (False, 6, 0), (False, 200, 4)])
def test_while_generating_a_head_is_cut_back_to_its_best_pinned_and_newest_tokens(pinned: bool, live: int, recent: int) -> None:
    prefix = prefix_of(random_model("llama", layers=2))
    kind = Trigonometric(selection="per_layer_head", recent=recent)
    press = Triattention(keep=0.2, importance=kind, live=live, slack=4, pinned=pinned)
    assert prefix.state is not None
    rotary, mean, norm, view = rotary_of(prefix.model), prefix.state[MEAN][1], prefix.state[NORM][1], prefix.layers[1]
    cache, start = press.decoder(prefix, 1), press.compress(prefix).layers[1]
    assert cache is not None and isinstance(start, Plain) and start.keys.shape[1] == 8
    heads = [[int((view.keys[head] == key).all(1).nonzero()) for key in start.keys[head]] for head in range(2)]
    keys, values = view.keys, view.values
    stay = 8 if pinned else 0
    target = max(live, stay + recent)
    torch.manual_seed(1)
    for position in range(40, 70):
        query, key, value = torch.randn(2, 2, 16), rotate(torch.randn(2, 1, 16), torch.tensor([position]), rotary), torch.randn(2, 1, 16)
        keys, values = torch.cat([keys, key], 1), torch.cat([values, value], 1)
        found = cache.attend(query, key, value, position, view.scale)
        for head, kept in enumerate(heads):
            kept.append(position)
            wanted = torch.softmax(query[head] @ keys[head, kept].T * view.scale, -1) @ values[head, kept]
            torch.testing.assert_close(found[head], wanted, rtol=1e-4, atol=1e-5)
            if len(kept) >= target + 4:
                middle = kept[stay : len(kept) - recent]
                terms = [by_definition(keys[head, middle], middle, position + 1, mean[h], norm[h], rotary, 17, "mean") for h in (2 * head, 2 * head + 1)]
                scores = np.array([first + second for first, second in terms])
                standing = ((scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)).max(0)
                best = np.argsort(-standing, kind="stable")[: target - stay - recent]
                heads[head] = [*kept[:stay], *sorted(middle[i] for i in best), *kept[len(kept) - recent :]]
                assert len(heads[head]) == target
    assert all(len(heads[0]) <= tensor.shape[1] <= target + 4 for tensor in cache.tensors[:2])


def test_generated_tokens_are_only_added_where_all_layers_are_ranked_together() -> None:
    prefix = prefix_of(random_model("llama"))
    assert Triattention().decoder(prefix, 0) is None
    assert Triattention(importance=Trigonometric(selection="per_layer_head")).decoder(prefix, 0) is not None


def test_models_whose_queries_are_turned_otherwise_are_refused() -> None:
    with pytest.raises(ModelError, match="CohereForCausalLM turns queries otherwise than by pairs of channels half the width apart; use another press"):
        Trigonometric().calibrate(other_model("cohere"), TEXTS, 0)
    plain = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="has no rotary embedding that all of its layers share"):
        rotary_of(LanguageModel(plain, None, "cpu", {}))
    model = random_model("llama")
    model.model.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(ModelError, match="'dynamic': its angles change with the length"):
        rotary_of(model)
    rotary = rotary_of(random_model("llama"))
    queries = rotate(torch.randn(4, 1, 16).expand(-1, 20, -1), torch.arange(20), rotary)
    check_rotary(model, queries, rotary)
    check_rotary(model, queries.bfloat16(), rotary)
    with pytest.raises(ModelError):
        check_rotary(model, queries, replace(rotary, frequencies=rotary.frequencies * 1.1))


def test_what_was_not_calibrated_is_said() -> None:
    prefix = prefix_of(random_model("llama"))
    with pytest.raises(ModelError, match="triattention reads what its calibration measured, and this prefix has none"):
        Triattention().compress(replace(prefix, state=None))
    with pytest.raises(ModelError, match="triattention is of another model"):
        Triattention().compress(replace(prefix, state=Trigonometric().calibrate(random_model("llama", layers=2), TEXTS, 0)))
    with pytest.raises(DataError, match="was given none with a token in it; give calibration texts"):
        Triattention().calibrate(prefix.model, [[], []], 0)
