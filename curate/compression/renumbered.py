"""What is kept, at new positions: as if it were a text of its own without gaps, right before what follows it.

Of c tokens at increasing positions, the one in slot s (0 to c - 1, in the order of time) counts as c - 1 - s tokens before the newest. Rotary attention
reads differences of positions alone, so queries stay where the model put them, the newest at P, and the key in slot s, made at position p, is turned on
by P - (c - 1 - s) - p. Where nothing was evicted that is 0, and nothing changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

from curate.compression.actions.evict import Evict
from curate.compression.rotary import Rotary, check_rotary, rotary_of, turned_on
from curate.compression.slots import Slots, slots_of
from curate.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from curate.compression.prefix import LayerView, Prefix
    from curate.inference.attention import Part
    from curate.inference.stores import LayerStore, Plain

_PROBE = 64  # positions at which one token's queries are compared

_sound: "WeakSet[nn.Module]" = WeakSet()  # decoders whose layers all passed


@dataclass
class RenumberedSlots(Slots):
    """Slots that are attended to at positions of their own order; keys are held where they were made, so that no rounding adds up over steps."""

    rotary: Rotary

    @classmethod
    def of(cls, slots: Slots, prefix: "Prefix") -> "RenumberedSlots":
        """Slots of a prefix's tokens, numbered anew from here on; ModelError as `renumbering`."""
        return cls(slots.keys, slots.values, slots.positions, renumbering(prefix))

    def attend(self, query: "Tensor", scale: float) -> "tuple[Tensor, Tensor]":
        """As `Slots.attend`, for queries of the newest token; all slots hold tokens."""
        ranks = self.positions.argsort(1).argsort(1)
        first = self.positions.amax(1, keepdim=True) - (self.positions.shape[1] - 1)
        keys = turned_on(self.keys, first + ranks - self.positions, self.rotary)
        return Slots(keys, self.values, self.positions).attend(query, scale)


@dataclass(frozen=True)
class Renumbered:
    """Keys and values of some of a prefix's tokens, whose keys were turned to other positions than the tokens had."""

    kept: "Plain"

    def attend(self, query: "Tensor", scale: float) -> "Part":
        return self.kept.attend(query, scale)

    @property
    def tensors(self) -> "Sequence[Tensor]":
        return self.kept.tensors


class EvictRenumbered(Evict):
    """As `evict`, but the c tokens that a head keeps of n stand at positions n - c to n - 1, right before what follows the prefix."""

    def store(self, prefix: "Prefix", layer: int, kept: "Sequence[Tensor]", scores: "Tensor") -> "LayerStore":
        import torch

        from curate.inference.stores import Ragged

        view, rotary = prefix.layers[layer], renumbering(prefix)
        if len({len(tokens) for tokens in kept}) == 1:
            return closed_up(slots_of(view, torch.stack(list(kept))), len(prefix), rotary)
        return Ragged([closed_up(_head(view, head, tokens), len(prefix), rotary) for head, tokens in enumerate(kept)])


def closed_up(slots: Slots, n: int, rotary: Rotary) -> Renumbered:
    """Slots in the order of time, at the last positions before n; turned once, for what follows moves none of them."""
    import torch

    from curate.inference.stores import Plain

    count = slots.positions.shape[1]
    shifts = torch.arange(n - count, n, device=slots.positions.device) - slots.positions
    return Renumbered(Plain(turned_on(slots.keys, shifts, rotary), slots.values))


def renumbering(prefix: "Prefix") -> Rotary:
    """How keys of the prefix's model are turned on; ModelError where that cannot be done in all of its layers alike. Each model is probed once.

    The probe is a text of one token again and again: every layer's values are all the same, so its queries differ by their positions alone.
    """
    import torch

    from curate.inference.attention import ours
    from curate.inference.prefill import prefill
    from curate.model import decoder_of

    model = prefix.model
    try:
        rotary, decoder = rotary_of(model), decoder_of(model.model)
        if decoder not in _sound:
            text = [int(prefix.tokens[-1])] * _PROBE
            with torch.inference_mode(), ours(model.model):
                prefill(model, text, watch=lambda layer, query, key, value, scale: check_rotary(model, query[0], rotary))
            _sound.add(decoder)
    except ModelError as error:
        raise ModelError(f"{error}, or leave `renumber` off") from error
    return rotary


def _head(view: "LayerView", head: int, tokens: "Tensor") -> Slots:
    return Slots(view.keys[head : head + 1, tokens], view.values[head : head + 1, tokens], tokens.unsqueeze(0))
