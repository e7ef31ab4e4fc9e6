"""What tests of actions share: prefixes with known keys and values, a press without a method, and attention by its definition."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from curate.compression.parts import Action, Importance
from curate.compression.prefix import LayerView, Prefix
from curate.compression.quantised import Decoding
from curate.inference.attention import ours
from curate.inference.passes import Pass, forward, logits_of
from curate.inference.prefill import CHUNK, prefilled
from curate.inference.stores import LayerStore, Memory, Plain, Ragged
from curate.model import LanguageModel
from curate.testing.random_models import random_model

MODEL = random_model("llama", layers=1)


class Given(Importance):
    """Tokens are worth what their distance to the token `best` says."""

    name: Literal["given"] = "given"
    best: int = 0

    def score(self, prefix: Prefix) -> list[Tensor]:
        row = 1 / (1 + (torch.arange(len(prefix), dtype=torch.float32) - self.best).abs())
        return [row.expand(len(view.keys), -1) for view in prefix.layers]


def made(n: int, *, heads: int = 2, groups: int = 2, width: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0) -> Prefix:
    """One layer, drawn at random; keys have channels of different sizes, values a few large numbers, as those of real models."""
    draws = torch.Generator().manual_seed(seed)
    keys = torch.randn(heads, n, width, generator=draws) * torch.logspace(-1, 1, width) + torch.linspace(-3, 3, width)
    values = torch.randn(heads, n, width, generator=draws)
    values = values * torch.where(torch.rand(heads, n, width, generator=draws) < 0.02, 10.0, 1.0)
    queries = torch.randn(heads * groups, n, width, generator=draws)
    view = LayerView(queries.to(dtype), keys.to(dtype), values.to(dtype), width**-0.5)
    return Prefix(list(range(n)), [view], MODEL, lambda tokens: [])


def with_layer(keys: Tensor, values: Tensor, queries: Tensor | None = None) -> Prefix:
    """A prefix of one layer with these (Hk, n, d)."""
    asked = queries if queries is not None else torch.ones_like(keys)
    return Prefix(list(range(keys.shape[1])), [LayerView(asked, keys, values, keys.shape[-1] ** -0.5)], MODEL, lambda tokens: [])


def everything(prefix: Prefix) -> list[Tensor]:
    """All tokens, for every head."""
    return [torch.arange(len(prefix)) for _ in range(len(prefix.layers[0].keys))]


def acted(action: Action, prefix: Prefix, kept: Sequence[Tensor] | None = None, scores: Tensor | None = None) -> LayerStore:
    """The store of the first layer."""
    weights = scores if scores is not None else torch.ones(prefix.layers[0].keys.shape[:2])
    return action.store(prefix, 0, everything(prefix) if kept is None else kept, weights)


def read(store: LayerStore) -> tuple[Tensor, Tensor]:
    """Keys and values that a store attends to; of stores of all heads together."""
    if isinstance(store, Ragged):
        raise TypeError("heads have different numbers of tokens; read them one by one")
    if isinstance(store, Plain):
        return store.keys, store.values
    assert isinstance(store, Decoding)
    return store.read()


def defined(query: Tensor, keys: Tensor, values: Tensor, scale: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(output, log normaliser) of queries (Hk, Q, d) in float64, from the definition."""
    logits = query.double() @ keys.double().transpose(1, 2) * scale + (0 if bias is None else bias.double().unsqueeze(1))
    return logits.softmax(-1) @ values.double(), logits.logsumexp(-1)


def queries(count: int, *, heads: int = 2, width: int = 16, dtype: torch.dtype = torch.float32, seed: int = 7) -> Tensor:
    """(heads, count, width)."""
    return torch.randn(heads, count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def real(model: LanguageModel, n: int, *, inputs: bool = False, chunk: int = CHUNK, seed: int = 3) -> Prefix:
    """A prefix of n random tokens; run within inference mode."""
    tokens = torch.randint(2, 97, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    with ours(model.model):
        return prefilled(model, tokens, inputs=inputs, chunk=chunk)[0]


def whole(prefix: Prefix) -> Memory:
    """The prefix as the model made it."""
    return Memory([Plain(view.keys, view.values) for view in prefix.layers], len(prefix))


def after(model: LanguageModel, memory: Memory, tokens: Sequence[int] = (5, 9, 11, 2)) -> Tensor:
    """(T, V) logits of tokens that follow what is stored; run within inference mode."""
    positions = torch.arange(memory.tokens, memory.tokens + len(tokens)).unsqueeze(0)
    with ours(model.model):
        return logits_of(model, forward(model, torch.tensor([list(tokens)]), positions, Pass([memory]))[0])


def summed(tensors: Sequence[Tensor]) -> int:
    """Bytes of their numbers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
