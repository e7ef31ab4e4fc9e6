"""A press at work on a small random model: what it stores, what comes out of the tokens that follow, and what it leaves behind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.interfaces import Press, State
from curate.testing.component import require
from curate.testing.random_models import VOCABULARY, Architecture, random_model

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import Memory
    from curate.model import LanguageModel

FOLLOWERS = ([5, 60, 17, 33], [44, 9, 90, 21], [71, 71, 3, 58])


def random_tokens(count: int, seed: int) -> list[int]:
    """Ordinary tokens of the random models."""
    drawn: list[int] = np.random.Generator(np.random.Philox(seed)).integers(2, VOCABULARY, count).tolist()
    return drawn


@dataclass(frozen=True)
class Pressed:
    """One press, one model and one exactly prefilled prefix."""

    press: Press
    place: str  # what sentences about it begin with
    prefix: "Prefix"
    last: "Tensor"  # (1, H) the exact hidden state of the prefix's last token

    @classmethod
    def on(cls, press: Press, architecture: Architecture, tokens: int, *, device: str = "cpu", half: bool = False) -> "Pressed":
        """The press, calibrated, and `tokens` random tokens on a random model, in bfloat16 if `half`."""
        import torch

        model = random_model(architecture, device=device)
        if half:
            model.model.to(torch.bfloat16)
        place = f"{press.name} ({architecture}{', bfloat16' if half else ''})"
        with running(model):
            prefix, last = _prefilled(model, random_tokens(tokens, 1), calibration(press, model))
        return cls(press, place, prefix, last)

    @property
    def model(self) -> "LanguageModel":
        return self.prefix.model

    def shortened(self, tokens: int) -> "Pressed":
        """The same press before a prefix of its first tokens."""
        with running(self.model):
            prefix, last = _prefilled(self.model, self.prefix.tokens[:tokens], self.prefix.state)
        return replace(self, prefix=prefix, last=last)

    def by(self, press: Press) -> "Pressed":
        """Another press in its place, which has the same calibration if it is of the same kind."""
        return replace(self, press=press)

    def memory(self) -> "Memory":
        """What the press stores, for which it must not touch the prefix."""
        before = self.snapshot()
        with running(self.model):
            memory = self.press.compress(self.prefix)
        self.require_unchanged(before)
        require(memory.tokens == len(self.prefix), f"{self.place}: says that its memory stands for {memory.tokens} tokens, not {len(self.prefix)}")
        require(len(memory.layers) == len(self.prefix.layers), f"{self.place}: stores {len(memory.layers)} layers of {len(self.prefix.layers)}")
        return memory

    def whole(self) -> "Memory":
        """The full cache."""
        from curate.inference.stores import Memory, Plain

        return Memory([Plain(view.keys, view.values) for view in self.prefix.layers], len(self.prefix))

    def logits(self, memory: "Memory", followers: Sequence[Sequence[int]] = FOLLOWERS) -> "Tensor":
        """(B, T, V) float32 after the memory, the followers (B, T) in one batch."""
        import torch

        from curate.inference.passes import Pass, forward, logits_of

        ids = torch.tensor([list(row) for row in followers], device=self.model.device)
        positions = torch.arange(memory.tokens, memory.tokens + ids.shape[1], device=ids.device).expand(len(ids), -1)
        with running(self.model):
            states = forward(self.model, ids, positions, Pass([memory]))
            logits = logits_of(self.model, states.flatten(0, 1)).reshape(*ids.shape, -1)
        require(bool(torch.isfinite(logits).all()), f"{self.place}: logits after its memory are not finite")
        return logits

    def snapshot(self) -> "list[Tensor]":
        """Copies of everything that it was given."""
        return [tensor.clone() for view in self.prefix.layers for tensor in _given(view)]

    def require_unchanged(self, before: "Sequence[Tensor]") -> None:
        """Nonconforming unless what it was given is, to the bit, what the snapshot holds."""
        now = [tensor for view in self.prefix.layers for tensor in _given(view)]
        require(all(one.equal(other) for one, other in zip(now, before, strict=True)), f"{self.place}: changes the prefix that it is given")


class running:  # noqa: N801, reads as what holds within it
    """Within it, the model attends through the engine, and nothing is kept for gradients."""

    def __init__(self, model: "LanguageModel") -> None:
        self._model = model

    def __enter__(self) -> None:
        from contextlib import ExitStack

        import torch

        from curate.inference.attention import ours

        self._stack = ExitStack()
        self._stack.enter_context(torch.inference_mode())
        self._stack.enter_context(ours(self._model.model))

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def calibration(press: Press, model: "LanguageModel", seed: int = 0) -> State | None:
    """What the press measures on texts of random tokens, one of them with a passage that comes again."""
    texts = [random_tokens(90, 11), random_tokens(50, 12) * 2, random_tokens(70, 13)]
    with running(model):
        return press.calibrate(model, texts, seed)


def apart(found: "Tensor", wanted: "Tensor") -> float:
    """The largest difference of logits, in standard deviations of those that are wanted."""
    return float((found - wanted).abs().max() / wanted.std().clamp(min=1e-12))


def same_tensors(one: "Memory", other: "Memory") -> bool:
    """Whether two memories hold equal tensors, to the bit."""
    mine, theirs = ([tensor for layer in memory.layers for tensor in layer.tensors] for memory in (one, other))
    return len(mine) == len(theirs) and all(a.dtype == b.dtype and a.equal(b) for a, b in zip(mine, theirs, strict=True))


def reached(start: object, model: "LanguageModel") -> "list[Tensor]":
    """Every tensor that an object holds on to, however deep, except those that the model has anyway."""
    import torch

    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.model.parameters(), *model.model.buffers())}
    found, seen, ahead = [], set(), [start]
    while ahead:
        value = ahead.pop()
        if id(value) in seen or isinstance(value, torch.nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        else:
            ahead += _within(value)
    return [tensor for tensor in found if tensor.untyped_storage().data_ptr() not in own]


def _within(value: Any) -> "Iterator[object]":
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif callable(value) and getattr(value, "__closure__", None):
        yield from (cell.cell_contents for cell in value.__closure__)
    elif not isinstance(value, type):
        yield from getattr(value, "__dict__", {}).values()


def _given(view: Any) -> "list[Tensor]":
    return [tensor for tensor in (view.queries, view.keys, view.values, view.inputs) if tensor is not None]


def _prefilled(model: "LanguageModel", tokens: Sequence[int], state: State | None) -> "tuple[Prefix, Tensor]":
    from curate.inference.prefill import prefilled

    prefix, hidden = prefilled(model, tokens, inputs=True, state=state, seed=5)
    return prefix, hidden[-1:]
