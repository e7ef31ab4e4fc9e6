"""Keys and values made again from what the attention layer was given, by the layer itself: its projections, norms, adapters and rotary embedding."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from curate.compression.quantised import Decoding
from curate.errors import ModelError
from curate.inference.attention import NAME, ours, running
from curate.inference.passes import attention_modules
from curate.inference.prefill import CHUNK
from curate.inference.stores import Plain
from curate.model import LanguageModel, decoder_of


@dataclass(frozen=True)
class Recomputed(Decoding):
    """The normed inputs of the first n tokens of a sequence, and the layer that made keys and values of them.

    The layer is the model's own: adapters that are attached when the store is attended to take part, so they have to be those of the prefill.
    """

    inputs: Tensor  # (n, H)
    model: Any  # of transformers
    module: Any  # its attention layer
    rotary: Any
    recomputed: ClassVar[bool] = True

    @classmethod
    def of(cls, inputs: Tensor, model: LanguageModel, layer: int) -> "Recomputed":
        """Of inputs (n, H), in memory of their own."""
        rotary = getattr(decoder_of(model.model), "rotary_emb", None)
        if rotary is None:
            name = type(decoder_of(model.model)).__name__
            raise ModelError(f"keys of {name} cannot be recomputed: it has no rotary_emb that gives all layers their positions; use a press that stores keys")
        return cls(inputs.clone(), model.model, attention_modules(model)[layer], rotary)

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values (Hk, n, d), in the chunks of the prefill: the same products of the same shapes, so the same bits."""
        found = [self._chunk(first) for first in range(0, len(self.inputs), CHUNK)]
        return torch.cat([keys for keys, _ in found], 1), torch.cat([values for _, values in found], 1)

    def _chunk(self, first: int) -> tuple[Tensor, Tensor]:
        states = self.inputs[first : first + CHUNK].unsqueeze(0)
        positions = torch.arange(first, first + states.shape[1], device=states.device).unsqueeze(0)
        step = _Taken()
        with torch.no_grad(), running(step), _only_keys_and_values(self.model, self.module):
            turns = self.rotary(states, position_ids=positions, **self._kind)
            self.module(hidden_states=states, position_embeddings=turns, attention_mask=None)
        return step.made[0]

    @property
    def _kind(self) -> dict[str, str]:
        """For models whose layers turn by different frequencies, which of them."""
        return {"layer_type": self.module.layer_type} if "layer_type" in signature(self.rotary.forward).parameters else {}

    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.inputs]


@dataclass(frozen=True)
class NotRecomputed(Plain):
    """Keys and values as they are, where the inputs would take more bytes."""

    recomputed: ClassVar[bool] = False


class _Taken:
    """A pass in which nothing attends: it takes the keys and values of the one sequence that runs."""

    def __init__(self) -> None:
        self.made: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        self.made.append((key[0], value[0]))
        return torch.zeros_like(query)


@contextmanager
def _only_keys_and_values(model: Any, module: Any) -> Iterator[None]:
    """Within it, the attention layer asks the pass that is running, and computes no queries and no output where its projections have names of their own."""
    with ExitStack() as stack:
        if module.config._attn_implementation != NAME:
            stack.enter_context(ours(model))
        for name in ("q_proj", "o_proj"):
            if hasattr(module, name):
                stack.enter_context(_zeros(getattr(module, name)))
        yield


@contextmanager
def _zeros(projection: Any) -> Iterator[None]:
    projection.forward = lambda states, *_, **__: states.new_zeros(*states.shape[:-1], projection.out_features)
    try:
        yield
    finally:
        del projection.forward
