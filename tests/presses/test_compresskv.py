"""CompressKV: heads and budgets as the plain model's own attention gives them, one set of tokens per layer, totals exact."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from curate.compression.allocators.output_error import OutputError
from curate.compression.calibration import haystacks
from curate.compression.importances.retrieval_heads import RetrievalHeads
from curate.compression.importances.window import Window
from curate.errors import DataError, ModelError
from curate.interfaces import State
from curate.model import LanguageModel
from curate.presses.compresskv import Compresskv
from curate.testing.component import check_identity
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.presses.windowed_oracles import (
    best_of,
    compressed,
    kept_tokens,
    logits_after,
    naive_attention,
    naive_pool,
    prefix_of,
    tokens_of,
    whole,
)

N = 60
SMALL = RetrievalHeads(heads=2, trials=10, context=40, needle=12, cue=4)
ERROR = OutputError(importance=SMALL, lowest=10, samples=2, context=30, steps=3)
PRESS = Compresskv(tokens=20, importance=SMALL, allocator=ERROR)
TEXTS = [tokens_of(50, 2), tokens_of(50, 3), *([token for token in tokens_of(25, seed) for _ in range(2)] for seed in (4, 5))]  # some say all twice
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


def plain_steps(model: LanguageModel, tokens: Sequence[int], steps: int) -> Iterator[tuple[int, Any, Any]]:
    """(token said, attentions, cache) of the model's own greedy decoding, its attention computed and shown by transformers."""
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        cache = model.model(input_ids=torch.tensor([tokens[:-1]]), use_cache=True).past_key_values
        last = tokens[-1]
        for _ in range(steps):
            found = model.model(input_ids=torch.tensor([[last]]), past_key_values=cache, use_cache=True, output_attentions=True)
            cache, last = found.past_key_values, int(found.logits[0, -1].argmax())
            yield last, found.attentions, cache
    model.model.set_attn_implementation("sdpa")


@every_architecture
def test_a_head_is_credited_with_the_needle_it_sees_whenever_a_needle_token_is_said(architecture: Architecture) -> None:
    model = random_model(architecture)
    state = SMALL.calibrate(model, TEXTS, 7)
    credits = np.zeros((3, 4))
    for hay in haystacks(TEXTS, 7, count=10, context=40, needle=12, cue=4):
        for said, attentions, _ in plain_steps(model, hay.tokens, 8):
            for position in range(hay.start, hay.stop):
                if hay.tokens[position] == said:
                    credits += [[float(layer[0, head, 0, hay.start : hay.stop].double().sum()) for head in range(4)] for layer in attentions]
    assert credits.any()
    np.testing.assert_allclose(state["retrieval_heads"].numpy(), credits / 10, rtol=1e-3)


@every_architecture
def test_a_layers_share_is_its_outputs_error_with_few_tokens_at_decoding_steps(architecture: Architecture) -> None:
    model = random_model(architecture)
    allocator = OutputError(importance=Window(window=4), lowest=10, samples=2, context=30, steps=3)
    shares = allocator.calibrate(model, TEXTS[:2], 0)["output_error"].numpy()
    errors = np.zeros(3)
    for text in TEXTS[:2]:
        prefix = prefix_of(model, text[:29])
        kept = [[best_of(row[:-4], 6) + [25, 26, 27, 28] for row in layer.tolist()] for layer in Window(window=4).score(prefix)]
        queries = queries_of(model, text[:30], 3)
        for step, (_, _, cache) in enumerate(plain_steps(model, text[:30], 3)):
            for layer in range(3):
                keys, values = (cache.layers[layer].keys[0], cache.layers[layer].values[0])
                after = list(range(29, 30 + step))
                full = output_of(model, layer, queries[step][layer], keys, values, [list(range(30 + step))] * len(keys))
                less = output_of(model, layer, queries[step][layer], keys, values, [tokens + after for tokens in kept[layer]])
                errors[layer] += np.linalg.norm(less - full) / (np.linalg.norm(full) + 1e-5)
    np.testing.assert_allclose(shares, errors / errors.sum(), rtol=1e-3)
    assert len(set(np.round(shares, 3))) == 3


def queries_of(model: LanguageModel, tokens: Sequence[int], steps: int) -> list[list[Tensor]]:
    """(Hq, d) by step and layer: the query of the last token at each greedy step, from one prefill of all tokens up to it."""
    said = [token for token, _, _ in plain_steps(model, tokens, steps)]
    return [[view.queries[:, -1] for view in prefix_of(model, [*tokens, *said[:step]]).layers] for step in range(steps)]


def output_of(model: LanguageModel, layer: int, query: Tensor, keys: Tensor, values: Tensor, kept: Sequence[Sequence[int]]) -> Any:
    """The attention layer's output for one query and only these tokens by key-value head, in float64."""
    groups, width = len(query) // len(keys), query.shape[-1]
    heads = []
    for head in range(len(query)):
        own = list(kept[head // groups])
        logits = keys[head // groups, own].double() @ query[head].double() * width**-0.5
        heads.append(logits.softmax(0) @ values[head // groups, own].double())
    endings = (f"layers.{layer}.self_attn.o_proj", f"layers.{layer}.attention.dense")
    module = next(module for name, module in model.model.named_modules() if name.endswith(endings))
    bias = 0 if module.bias is None else module.bias.double()
    return (module.weight.double() @ torch.cat(heads) + bias).detach().numpy()


@every_architecture
def test_the_chosen_heads_alone_choose_one_set_for_all_heads_of_a_layer(architecture: Architecture) -> None:
    model = random_model(architecture)
    state: State = {"retrieval_heads": torch.tensor([[0.0, 3, 1, 2], [1, 1, 1, 1], [0, 0, 5, 1]]), "output_error": torch.tensor([0.2, 0.3, 0.5])}
    prefix = prefix_of(model, tokens_of(N), state)
    kept = kept_tokens(prefix, compressed(PRESS, prefix))
    assert [len(heads[0]) for heads in kept] == [16, 19, 25]  # 10 + 30 * (0.2, 0.3, 0.5)
    for view, heads, chosen in zip(prefix.layers, kept, ([1, 3], [0, 1], [2, 3]), strict=True):  # of equal ones the lower head
        weights = naive_attention(view, view.queries[:, -8:], range(N - 8, N))[chosen, :, : N - 8].mean((0, 1))
        assert heads == [[*best_of(naive_pool(weights, "avg", 5), len(heads[0]) - 8), *range(N - 8, N)]] * len(view.keys)


def test_with_all_heads_it_is_snapkv_averaged_over_the_heads() -> None:
    state: State = {"retrieval_heads": torch.rand(3, 4)}
    prefix = prefix_of(random_model("qwen2"), tokens_of(N), state)
    for heads in (4, 99):
        for own, mean in zip(RetrievalHeads(heads=heads).score(prefix), Window(window=8, share="layer").score(prefix), strict=True):
            torch.testing.assert_close(own, mean)


def budgets(shares: Sequence[float], tokens: int, n: int = N, **fields: Any) -> list[int]:
    """Tokens per layer."""
    state: State = {"output_error": torch.tensor(shares)}
    prefix = prefix_of(random_model(layers=len(shares)), tokens_of(n), state)
    found = OutputError(**fields).allocate(prefix, [view.keys[..., 0] for view in prefix.layers], tokens)
    assert found.shape == (len(shares), 2) and found.dtype == np.int64 and (found[:, 0] == found[:, 1]).all()
    assert found.sum() == len(shares) * 2 * min(tokens, n)
    return [int(count) for count in found[:, 0]]


def test_budgets_are_exact_and_within_their_bounds() -> None:
    assert budgets([0.25, 0.25, 0.5], 44) == [41, 41, 50]
    assert budgets([1 / 3, 1 / 3, 1 / 3], 44) == [44, 44, 44]
    assert budgets([0.9, 0.05, 0.05], 20, lowest=5, most=2.0) == [40, 10, 10]  # the first is capped, the others divide its rest
    assert budgets([0.98, 0.01, 0.01], 50) == [60, 45, 45]  # capped by the prefix
    assert budgets([1.0, 0.0, 0.0], 40, lowest=20) == [60, 30, 30]  # nobody else has a share
    assert budgets([0.9, 0.05, 0.05], 20) == [20, 20, 20]  # less than the lowest
    assert budgets([0.9, 0.05, 0.05], 1000) == [N] * 3


def test_permuted_shares_give_permuted_budgets() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(6)).tolist()
    order = [3, 0, 5, 1, 4, 2]
    straight = budgets(shares, 40)
    assert budgets([shares[i] for i in order], 40) == [straight[i] for i in order]
    assert min(straight) >= 32 and len(set(straight)) > 2


@every_architecture
def test_keeping_all_tokens_through_the_gather_is_the_full_cache(architecture: Architecture) -> None:
    model, after = random_model(architecture), tokens_of(5, seed=1)
    state = PRESS.calibrate(model, TEXTS, 0)
    assert state is not None
    prefix = prefix_of(model, tokens_of(N), state)
    memory = compressed(Compresskv(tokens=N, importance=SMALL, allocator=ERROR), prefix)
    assert torch.equal(logits_after(prefix, memory, after), logits_after(prefix, whole(prefix), after))


def test_a_calibration_can_be_stored_and_is_the_same_again() -> None:
    model = random_model()
    state, again = PRESS.calibrate(model, TEXTS, 3), PRESS.calibrate(model, TEXTS, 3)
    assert state is not None and again is not None and set(state) == {"retrieval_heads", "output_error"}
    assert all(torch.equal(state[name], again[name]) for name in state)
    stored = load(save(dict(state)))
    prefixes = [prefix_of(model, tokens_of(N), known) for known in (state, stored)]
    assert kept_tokens(prefixes[0], compressed(PRESS, prefixes[0])) == kept_tokens(prefixes[1], compressed(PRESS, prefixes[1]))
    other = SMALL.calibrate(model, TEXTS, 4)["retrieval_heads"]
    assert not torch.equal(state["retrieval_heads"], other)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], [[5, 6], list(range(2, 16))]], ids=("many", "one", "short"))
def test_a_haystack_holds_its_needle_once_and_asks_for_it_at_its_end(texts: Sequence[Sequence[int]]) -> None:
    for hay in haystacks(texts, 0, count=20, context=40, needle=12, cue=4):
        needle = list(hay.tokens[hay.start : hay.stop])
        assert len(needle) == 12 and list(hay.tokens[-4:]) == needle[:4]
        assert any(needle == list(text[i : i + 12]) for text in texts for i in range(len(text)))
        hidden = [*hay.tokens[: hay.start], *hay.tokens[hay.stop : -4]]
        assert len(hidden) == min(40, sum(map(len, texts)) - 12)
        assert all(hidden[i : i + 12] != needle for i in range(len(hidden)))
    places = {hay.start for hay in haystacks(TEXTS, 0, count=50, context=40, needle=12, cue=4)}
    assert min(places) < 5 and max(places) > 35


def test_what_cannot_be_is_refused_in_one_line() -> None:
    model = random_model()
    prefix = prefix_of(model, tokens_of(N))
    with pytest.raises(ModelError, match="retrieval_heads reads what its calibration measured.*calibrate the press"):
        compressed(PRESS, prefix)
    with pytest.raises(ModelError, match=r"of another model: retrieval_heads is \(2, 4\), but this model needs \(3, 4\)"):
        SMALL.score(prefix_of(model, tokens_of(N), {"retrieval_heads": torch.zeros(2, 4)}))
    with pytest.raises(DataError, match="longest has 5 tokens"):
        SMALL.calibrate(model, [[2, 3, 4], [2, 3, 4, 5, 6]], 0)
    with pytest.raises(DataError, match="longest has 0 tokens"):
        SMALL.calibrate(model, [], 0)
    with pytest.raises(DataError, match="no text of the calibration is longer than 11 tokens"):
        ERROR.calibrate(model, [tokens_of(11)], 0)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()  # every token is as likely, and the first is said
    with pytest.raises(ModelError, match="repeated no token of 10 needles"):
        SMALL.calibrate(model, TEXTS, 0)
    with pytest.raises(ValueError, match="use a smaller cue"):
        RetrievalHeads(needle=8, cue=8)


def test_the_press_and_its_parts_are_components() -> None:
    check_identity(Compresskv(), "presses")
    check_identity(RetrievalHeads(), "importances")
    check_identity(OutputError(), "allocators")
