"""One forward pass through the engine: new tokens that attend to stored prefixes and, by a mask, to each other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from curate.beat import beat
from curate.inference.attention import Attends, Part, attention, folded, grouped, merge, running, unfolded
from curate.inference.stores import Memory, Plain
from curate.model import LanguageModel, decoder_of

# (layer, query (B, Hq, T, d), key (B, Hk, T, d), value, scale)
Watch = Callable[[int, Tensor, Tensor, Tensor, float], None]


@dataclass
class Pass:
    """All rows attend to all of `path`; among the new tokens, `mask` (B, T, T) says who sees whom, by default each those before it."""

    path: Sequence[Memory] = ()
    mask: Tensor | None = None
    keep: bool = False  # whether keys and values of the new tokens are needed afterwards
    watch: Watch | None = None
    made: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False)  # (keys, values) (B, Hk, T, d) by layer
    asked: set[int] = field(default_factory=set, init=False)  # layers that attended through this pass
    _bias: dict[int, Tensor] = field(default_factory=dict, init=False)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        self.asked.add(layer)
        if self.watch is not None:
            self.watch(layer, query, key, value, scale)
        if self.keep:
            self.made.append((key, value))
        parts = [*attend_path(self.path, layer, query, key.shape[1], scale), self._among(query, key, value, scale)]
        return merge(parts)[0]

    def _among(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
        rows, own, tokens, _ = query.shape
        groups = own // key.shape[1]
        if groups not in self._bias:
            mask = self.mask if self.mask is not None else torch.ones(1, tokens, tokens, dtype=torch.bool, device=query.device).tril()
            bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, float("-inf"))
            self._bias[groups] = bias.repeat(1, groups, 1).unsqueeze(1)
        output, normaliser = attention(grouped(query, key.shape[1]), key, value, scale, self._bias[groups])
        return output.reshape(rows, own, tokens, -1), normaliser.reshape(rows, own, tokens)


def attend_path(path: Sequence[Memory], layer: int, query: Tensor, heads: int, scale: float) -> list[Part]:
    """Attention of all rows to every stored stretch; its keys are read where they lie."""
    if not path:
        return []
    rows, _, tokens, _ = query.shape
    together = folded(query, heads)
    return [unfolded(memory.layers[layer].attend(together, scale), rows, tokens) for memory in path]


def forward(model: LanguageModel, ids: Tensor, positions: Tensor, step: Attends) -> Tensor:
    """(B, T, H) the decoder's last hidden states of tokens (B, T) at explicit positions (B, T)."""
    beat()
    with running(step):
        states: Tensor = decoder_of(model.model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    return states


def logits_of(model: LanguageModel, hidden: Tensor) -> Tensor:
    """(S, V) float32 logits of hidden states (S, H) that came out of the decoder: the head alone, with whatever the model does after it."""
    decoder = decoder_of(model.model)
    causal = model.model.get_base_model() if hasattr(model.model, "get_base_model") else model.model
    with _giving(decoder, hidden.unsqueeze(0)):
        logits: Tensor = causal(input_ids=torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device), use_cache=False).logits[0]
    return logits.float() if logits.dtype != torch.float64 else logits


@contextmanager
def _giving(decoder: Any, hidden: Tensor) -> Iterator[None]:
    """Within it, the decoder computes nothing and gives these states."""
    given = _states_alone()
    decoder.forward = lambda *_, **__: given(last_hidden_state=hidden)
    try:
        yield
    finally:
        del decoder.forward


@lru_cache(maxsize=1)
def _states_alone() -> Any:
    """What a decoder returns that gives states only. One class for all calls: transformers registers each, and none is ever let go."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Given(BaseModelOutputWithPast):
        """States alone; whatever else a model's decoder gives, and its head passes on, is absent."""

        def __getattr__(self, name: str) -> None:
            return None

    return Given


def store_rows(step: Pass, lengths: Sequence[int]) -> list[Memory]:
    """A memory for each row of a pass that kept its keys and values: its first `lengths` tokens, in tensors of their own."""
    return [
        Memory([Plain(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in step.made], length)
        for row, length in enumerate(lengths)
    ]


def attention_modules(model: LanguageModel) -> list[nn.Module]:
    """The attention layers, in order."""
    found = [module for module in decoder_of(model.model).modules() if hasattr(module, "layer_idx") and type(module).__name__.endswith("Attention")]
    return sorted(found, key=lambda module: int(module.layer_idx))
