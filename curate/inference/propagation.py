"""A prefill in which all tokens run through the first layers and only chosen ones through the rest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curate.compression.prefix import LayerView
from curate.errors import ModelError
from curate.inference.attention import attention, grouped, merge
from curate.inference.passes import attention_modules, forward
from curate.inference.stores import LayerStore, Memory
from curate.model import LanguageModel, decoder_of

BLOCK = 2048  # queries per product: bounds the memory of a long prefill's attention


@dataclass
class Narrowing:
    """One pass over a whole prefix: all tokens run through the layers up to number `after`, those that `choose` names through the others.

    `choose` gets what that layer's attention saw and returns their places, ascending and with the last token among them; `store` turns what each layer's
    attention saw into what is kept of it. The layer `after` itself finishes with all tokens. A token goes on at its own position.
    """

    after: int
    choose: Callable[[LayerView], Tensor]
    store: Callable[[LayerView], LayerStore]
    stores: list[LayerStore] = field(default_factory=list, init=False)
    places: Tensor | None = field(default=None, init=False)  # (r,) of those that go on

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        view = LayerView(query[0], key[0], value[0], scale)
        self.stores.append(self.store(view))
        if layer == self.after:
            self.places = self.choose(view)
        return causal(query, key, value, scale)


def narrowed(model: LanguageModel, tokens: Sequence[int], step: Narrowing) -> tuple[Memory, Tensor]:
    """(what is stored of the tokens, hidden states (r, H) of those that ran through all layers); run within `ours(model.model)`.

    Unlike `prefill` it holds all tokens' hidden states of a layer at once; its attention is formed in blocks of queries.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    with _passing_on(model, step):
        hidden = forward(model, ids, torch.arange(len(tokens), device=ids.device).unsqueeze(0), step)[0]
    return Memory(step.stores, len(tokens)), hidden


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float, block: int = BLOCK) -> Tensor:
    """(B, Hq, T, d): attention of query (B, Hq, T, d) to those of key and value (B, Hk, T, d) that are not after it."""
    rows, own, tokens, _ = query.shape
    heads = key.shape[1]
    found = []
    for start in range(0, tokens, block):
        end = min(start + block, tokens)
        asked = grouped(query[:, :, start:end], heads)
        later = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device).triu(1).repeat(own // heads, 1)
        bias = torch.zeros(later.shape, dtype=query.dtype, device=query.device).masked_fill(later, float("-inf"))
        parts = [attention(asked, key[:, :, :start], value[:, :, :start], scale)] if start else []
        parts.append(attention(asked, key[:, :, start:end], value[:, :, start:end], scale, bias[None, None]))
        found.append(merge(parts)[0].reshape(rows, own, end - start, -1))
    return torch.cat(found, 2)


@contextmanager
def _passing_on(model: LanguageModel, step: Narrowing) -> Iterator[None]:
    """Within it, layers after `step.after` get the hidden states, rotary angles and positions of the chosen tokens alone."""
    layers = getattr(decoder_of(model.model), "layers", ())
    if len(layers) != len(attention_modules(model)) or not len(layers):
        raise ModelError(f"{type(model.model).__name__} is no plain stack of layers with an attention each; use a press that leaves the prefill as it is")

    def pick(module: Any, given: tuple[Any, ...], named: dict[str, Any], *, first: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        places = step.places
        if places is None or named.get("position_embeddings") is None:
            raise ModelError(f"{type(module).__name__} is not given its rotary angles with its hidden states; use a press that leaves the prefill as it is")
        changed = {"position_embeddings": tuple(angles[:, places] for angles in named["position_embeddings"]), "attention_mask": None}
        if named.get("position_ids") is not None:
            changed["position_ids"] = named["position_ids"][:, places]
        if not first:
            return given, named | changed
        if given:
            return (given[0][:, places], *given[1:]), named | changed
        return given, named | changed | {"hidden_states": named["hidden_states"][:, places]}

    def hook(first: bool) -> Callable[..., Any]:
        return lambda module, given, named: pick(module, given, named, first=first)

    handles = [layer.register_forward_pre_hook(hook(i == 0), with_kwargs=True) for i, layer in enumerate(layers[step.after + 1 :])]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
