"""The tokens of one layer and one sequence that a press still keeps while it decodes, in slots that are filled again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import LayerView


@dataclass
class Slots:
    """As many tokens for every key-value head, in no order of their own; the slot of an evicted token takes the next one, so nothing is moved."""

    keys: "Tensor"  # (Hk, s, d) with the positions in that the tokens had
    values: "Tensor"  # (Hk, s, d)
    positions: "Tensor"  # (Hk, s) int64

    def append(self, key: "Tensor", value: "Tensor", position: int) -> None:
        """One more slot per head, for key and value (Hk, 1, d)."""
        import torch

        self.keys = torch.cat([self.keys, key], 1)
        self.values = torch.cat([self.values, value], 1)
        self.positions = torch.nn.functional.pad(self.positions, (0, 1), value=position)

    def put(self, slots: "Tensor", key: "Tensor", value: "Tensor", position: int) -> None:
        """Key and value (Hk, 1, d) in the place of what was in slot (Hk,) of each head."""
        import torch

        heads = torch.arange(len(slots), device=slots.device)
        self.keys[heads, slots], self.values[heads, slots], self.positions[heads, slots] = key[:, 0], value[:, 0], position

    def attend(self, query: "Tensor", scale: float) -> "tuple[Tensor, Tensor]":
        """(Hk, G, d) and (Hk, G, s) float32: attention of queries (Hk, G, d) over all slots, and what each slot got of it."""
        import torch

        logits = (query @ self.keys.transpose(-1, -2)) * scale
        weights = logits.softmax(-1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        return weights.to(self.values.dtype) @ self.values, weights.float()


def slots_of(view: "LayerView", kept: "Tensor") -> Slots:
    """The tokens `kept` (Hk, s) of a layer, in tensors of their own."""
    rows = kept.unsqueeze(-1).expand(-1, -1, view.keys.shape[-1])
    return Slots(view.keys.gather(1, rows), view.values.gather(1, rows), kept.clone())
