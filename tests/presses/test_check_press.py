"""The suite for presses notices those that break a promise, one by one, and passes those that do not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor

from curate.compression.prefix import LayerView, Prefix
from curate.compression.rotary import rotary_of, rotate, unrotate
from curate.inference.attention import Part
from curate.inference.stores import DecodeCache, LayerStore, Memory, Plain
from curate.interfaces import Press, State
from curate.model import LanguageModel
from curate.testing import Nonconforming, check_press


class _Newest(Press):
    """Keeps the last tokens."""

    name: Literal["newest"] = Field(default="newest", description="Its name.")
    keep: float = Field(0.25, gt=0, le=1, description="Share of the tokens.")

    def compress(self, prefix: Prefix) -> Memory:
        return Memory([self.kept(view, self.budget(prefix)) for view in prefix.layers], len(prefix))

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return Plain(view.keys[:, -count:].clone(), view.values[:, -count:].clone())

    def budget(self, prefix: Prefix) -> int:
        """Tokens per layer and head."""
        return math.ceil(self.keep * len(prefix))


class _Masking(_Newest):
    """Masks the others without saying so."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        bias = torch.full(view.keys.shape[:2], float("-inf"))
        bias[:, -count:] = 0
        return Plain(view.keys, view.values, bias)

    def budget(self, prefix: Prefix) -> int:
        return len(prefix)

    def compress(self, prefix: Prefix) -> Memory:
        return Memory([self.kept(view, super(_Masking, self).budget(prefix)) for view in prefix.layers], len(prefix))


class _Simulated(_Masking):
    """Masks the others, and says so."""

    simulated: ClassVar[bool] = True


class _Spendthrift(_Newest):
    """Keeps one token more where it can."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return super().kept(view, count + 1)


class _Views(_Newest):
    """Holds on to all tokens through a view of some."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return Plain(view.keys[:, -count:], view.values[:, -count:])


@dataclass(frozen=True)
class _Silent(Plain):
    @property
    def tensors(self) -> Sequence[Tensor]:
        return [self.keys]


class _Hiding(_Newest):
    """Reports keys alone."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return _Silent(view.keys[:, -count:].clone(), view.values[:, -count:].clone())


class _Backwards(_Newest):
    """Leaves tokens in another order."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return Plain(view.keys[:, -count:].flip(1), view.values[:, -count:].flip(1))


class _Renumbered(_Newest):
    """Gives the kept tokens the positions of the last places before the next, or of the first ones."""

    def compress(self, prefix: Prefix) -> Memory:
        rotary, n = rotary_of(prefix.model), len(prefix)
        kept = torch.arange(n - self.budget(prefix), n)
        stores = [
            Plain(rotate(unrotate(view.keys[:, kept], kept, rotary), kept - kept[0], rotary).to(view.keys.dtype), view.values[:, kept])
            for view in prefix.layers
        ]
        return Memory(stores, n)


class _Meddling(_Newest):
    """Writes into the prefix."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        store = super().kept(view, count)
        view.values[:, 0] = 0
        return store


class _Forgetful(_Newest):
    """Never keeps the first token."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return super().kept(view, max(1, min(count, view.keys.shape[1] - 1)))


class _Moody(_Newest):
    """Draws from the generator of the process."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        rows = torch.randperm(view.keys.shape[1])[:count].sort().values
        return Plain(view.keys[:, rows], view.values[:, rows])


class _Narrow(_Newest):
    """Looks at the fifth token."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        assert view.keys[:, 4].isfinite().all()
        return super().kept(view, count)


class _Wide(_Newest):
    """Stores float32."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return _Casting(view.keys[:, -count:].clone().float(), view.values[:, -count:].clone().float())


@dataclass(frozen=True)
class _Casting(Plain):
    def attend(self, query: Tensor, scale: float) -> Part:
        return Plain(self.keys.to(query.dtype), self.values.to(query.dtype)).attend(query, scale)


@dataclass(frozen=True)
class _Averaging(Plain):
    """Lets queries of all rows see each other."""

    def attend(self, query: Tensor, scale: float) -> Part:
        return super().attend(query + 0.01 * query.mean(1, keepdim=True) * (query.shape[1] > 16), scale)


class _Mixing(_Newest):
    """Its store attends differently with many rows."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return (_Averaging if count < view.keys.shape[1] else Plain)(view.keys[:, -count:].clone(), view.values[:, -count:].clone())


@dataclass(frozen=True)
class _Wearing(Plain):
    def attend(self, query: Tensor, scale: float) -> Part:
        found = super().attend(query, scale)
        self.values.mul_(1 + 1e-7)
        return found


class _Worn(_Newest):
    """Its store changes as it is read."""

    def kept(self, view: LayerView, count: int) -> LayerStore:
        return _Wearing(view.keys[:, -count:].clone(), view.values[:, -count:].clone())


class _Measured(_Newest):
    """Reads a calibration that it does not ask for politely."""

    def calibrate(self, model: LanguageModel, texts: Sequence[Sequence[int]], seed: int) -> State | None:
        return {"lengths": torch.tensor([len(text) for text in texts])}

    def compress(self, prefix: Prefix) -> Memory:
        assert prefix.state is not None
        return super().compress(prefix)


class _Listed(_Newest):
    """Measures in numbers of Python."""

    def calibrate(self, model: LanguageModel, texts: Sequence[Sequence[int]], seed: int) -> State | None:
        return {"lengths": [len(text) for text in texts]}


_KEPT: "dict[int, _Growing]" = {}


class _Shared(_Newest):
    """All sequences grow in one cache."""

    def decoder(self, prefix: Prefix, layer: int) -> DecodeCache | None:
        return _KEPT.setdefault(id(prefix), _Growing(prefix.layers[layer]))


class _Growing:
    def __init__(self, view: LayerView) -> None:
        self.kept = (view.keys, view.values)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, position: int, scale: float) -> Tensor:
        self.kept = torch.cat([self.kept[0], key], 1), torch.cat([self.kept[1], value], 1)
        return Plain(*self.kept).attend(query, scale)[0]

    @property
    def tensors(self) -> Sequence[Tensor]:
        return self.kept


class _Unlike(_Newest):
    """Its own prefill stores other numbers."""

    def prefill(self, model: LanguageModel, tokens: Sequence[int]) -> tuple[Memory, Tensor]:
        from curate.inference.prefill import prefilled

        prefix, hidden = prefilled(model, tokens)
        return Memory([Plain(view.keys[:, :1], view.values[:, :1]) for view in prefix.layers], len(prefix)), hidden[-1:]


class _Careless(_Newest):
    """Leaves a hook on the model."""

    def compress(self, prefix: Prefix) -> Memory:
        prefix.model.model.get_input_embeddings().register_forward_hook(lambda module, given, output: output * 1.001)
        return super().compress(prefix)


class _Bare(Press):
    """Cannot be told to keep everything."""

    name: Literal["bare"] = Field(default="bare", description="Its name.")

    def compress(self, prefix: Prefix) -> Memory:
        return Memory([Plain(view.keys, view.values) for view in prefix.layers], len(prefix))


class _Told(_Bare):
    """Says how to."""

    whole: ClassVar[dict[str, Any]] = {}


@pytest.mark.parametrize("press", [_Newest(), _Simulated(), _Told()], ids=lambda press: type(press).__name__)
def test_presses_that_keep_their_promises_pass(press: Press) -> None:
    check_press(press)


@pytest.mark.parametrize(
    ("press", "promise"),
    [
        (_Masking(), r"calls itself no simulation, but keep 0.25, 0.6, 1 take \[\d+, \d+, \d+\] bytes"),
        (_Spendthrift(), "keeps 150 tokens over all layers and heads, more than its budget of 144"),
        (_Views(), "calls itself no simulation"),
        (_Hiding(), "reports 9216 bytes, but its memory holds on to 18432"),
        (_Backwards(), "not those of the prefix's tokens at their own positions, in order"),
        (_Renumbered(), "not those of the prefix's tokens at their own positions, in order"),
        (_Meddling(), "changes the prefix that it is given"),
        (_Forgetful(), "with everything kept, logits are .* deviations from those of the full cache"),
        (_Moody(), "the same prefix twice gives different bits"),
        (_Narrow(), "fails on a prefix of 1 tokens: IndexError"),
        (_Wide(), "stores keys or values in torch.float32, wider than the model's"),
        (_Mixing(), "a sequence in a batch differs from the same sequence alone"),
        (_Worn(), "its memory changes when tokens attend to it"),
        (_Measured(), "must refuse a prefix without its calibration with a CurateError of one line, not AssertionError"),
        (_Listed(), "calibrate must return a mapping of names to tensors"),
        (_Shared(), "generating one sequence changes what another gets"),
        (_Unlike(), "its prefill stores other numbers than it makes of an exact prefix"),
        (_Careless(), "with everything kept|leaves the model such that a prefill gives other numbers"),
        (_Bare(), "needs a field `keep`, or a class attribute `whole`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Press) else "",
)
def test_a_broken_promise_is_noticed(press: Press, promise: str) -> None:
    with pytest.raises(Nonconforming, match=promise):
        check_press(press)


def test_a_stated_error_is_allowed_and_no_more() -> None:
    with pytest.raises(Nonconforming, match="with everything kept"):
        check_press(_Forgetful(), error=0.001)
    check_press(_Forgetful(), error=100.0)
