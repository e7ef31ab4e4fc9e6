"""Prefixes with known queries and keys, and the plainest loop that decodes one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curate.compression.prefix import LayerView, Prefix
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.prefill import prefilled
from curate.inference.stores import DecodeCache, Memory
from curate.interfaces import Press
from curate.model import LanguageModel
from curate.testing.random_models import Architecture, random_model

MODEL = random_model("llama")


def made_prefix(n: int, *, layers: int = 2, heads: int = 2, groups: int = 3, width: int = 8, seed: int = 0, sharp: float = 2.0) -> Prefix:
    """Queries, keys and values drawn at random, in float32."""
    draws = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws)

    views = [LayerView(sharp * drawn(heads * groups, n, width), drawn(heads, n, width), drawn(heads, n, width), width**-0.5) for _ in range(layers)]
    return Prefix(list(range(n)), views, MODEL, lambda tokens: [])


def to_one_token(n: int, *, layers: int = 1, heads: int = 1, groups: int = 1) -> Prefix:
    """Every query gives all its attention to token 0, so that all others get exactly none."""
    keys = torch.zeros(heads, n, 1)
    keys[:, 0] = 1
    views = [LayerView(torch.full((heads * groups, n, 1), 1000.0), keys, torch.zeros(heads, n, 1), 1.0) for _ in range(layers)]
    return Prefix(list(range(n)), views, MODEL, lambda tokens: [])


def attention_of(view: LayerView) -> Tensor:
    """(Hq, n, n) float64 the causal attention matrix, from its definition."""
    n, groups = view.keys.shape[1], view.groups
    logits = view.queries.double() @ view.keys.double().repeat_interleave(groups, 0).transpose(1, 2) * view.scale
    return logits.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)


@dataclass
class Decoding:
    """One new token of one sequence, for which every layer has a cache of its own."""

    caches: Sequence[DecodeCache]
    position: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        heads, width = key.shape[1], query.shape[-1]
        return self.caches[layer].attend(query[0].reshape(heads, -1, width), key[0], value[0], self.position, scale).reshape(query.shape)


def decoded(model: LanguageModel, press: Press, prefix: Prefix, after: Sequence[int]) -> tuple[Tensor, list[DecodeCache]]:
    """((T, V) logits of tokens that follow the prefix one at a time, the caches as they are then)."""
    caches = [cache for layer in range(len(prefix.layers)) if (cache := press.decoder(prefix, layer)) is not None]
    assert len(caches) == len(prefix.layers)
    logits = []
    for position, token in enumerate(after, len(prefix)):
        states = forward(model, torch.tensor([[token]]), torch.tensor([[position]]), Decoding(caches, position))
        logits.append(logits_of(model, states[0])[0])
    return torch.stack(logits), caches


def followed(model: LanguageModel, memory: Memory, after: Sequence[int]) -> Tensor:
    """(T, V) logits of tokens that follow a stored prefix together."""
    positions = torch.arange(memory.tokens, memory.tokens + len(after)).unsqueeze(0)
    return logits_of(model, forward(model, torch.tensor([list(after)]), positions, Pass([memory]))[0])


def exact(model: LanguageModel, tokens: Sequence[int], after: Sequence[int]) -> Tensor:
    """(T, V) logits of the last tokens of the whole sequence, from transformers alone."""
    with torch.inference_mode():
        logits: Tensor = model.model(input_ids=torch.tensor([[*tokens, *after]]), use_cache=False).logits[0, len(tokens) :]
    return logits


def real_prefix(model: LanguageModel, tokens: Sequence[int], seed: int = 0) -> Prefix:
    """A prefix of the model; run within inference mode."""
    with ours(model.model):
        return prefilled(model, tokens, seed=seed)[0]


def check_whole_and_half(architecture: Architecture, whole: Press, half: Press) -> None:
    """Keeping all gives the logits of the full model, and keeping half of it in half the bytes does not."""
    model, tokens, after = random_model(architecture), list(range(2, 42)), [3, 50, 21]
    with torch.inference_mode(), ours(model.model):
        prefix = real_prefix(model, tokens)
        memories = [press.compress(prefix) for press in (whole, half)]
        all_kept, half_kept = (followed(model, memory, after) for memory in memories)
    full = exact(model, tokens, after)
    torch.testing.assert_close(all_kept, full, rtol=1e-5, atol=1e-5)
    assert (half_kept - full).abs().max() > 1e-3
    assert memories[0].nbytes == 2 * memories[1].nbytes == sum(2 * 4 * view.keys.numel() for view in prefix.layers)
