"""Rotary positions taken out of queries and keys and put back in, for models whose channel c turns together with channel c + m.

At position p the model turns the pair (c, c + m) by the angle p w_c, c < m, and multiplies it by a constant a (1 except for some long-context
variants, whose attention factor it is); channels from 2m on stay as they are (GPT-NeoX turns only a quarter of them).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

CHANGING = ("dynamic", "longrope")  # their angles depend on the length of the sequence that a key was made in
_CLOSE = 0.05  # the rounding of bfloat16 leaves a hundredth


@dataclass(frozen=True)
class Rotary:
    """How a model turns queries and keys."""

    frequencies: "Tensor"  # (m,) float32, radians per position
    scaling: float  # of what is turned

    def weights(self, width: int) -> "Tensor":
        """(m + width - 2m,) by how much each pair, and each channel that is not turned, is scaled."""
        import torch

        pairs = len(self.frequencies)
        return torch.cat([torch.full((pairs,), self.scaling), torch.ones(width - 2 * pairs)]).to(self.frequencies.device)


def rotary_of(model: "LanguageModel") -> Rotary:
    """How this model turns queries and keys; ModelError for one whose angles are not those of a position alone."""
    import torch

    from curate.model import decoder_of

    module = getattr(decoder_of(model.model), "rotary_emb", None)
    frequencies, kind = getattr(module, "inv_freq", None), getattr(module, "rope_type", "default")
    if not isinstance(frequencies, torch.Tensor):
        raise ModelError(f"{type(model.model).__name__} has no rotary embedding that all of its layers share; use a press that does not read rotary angles")
    if kind in CHANGING:
        raise ModelError(f"the rotary embedding of {type(model.model).__name__} is {kind!r}: its angles change with the length; use another press")
    return Rotary(frequencies.float(), float(getattr(module, "attention_scaling", 1.0)))


def rotate(states: "Tensor", positions: "Tensor", rotary: Rotary) -> "Tensor":
    """(..., n, d) float32 (float64 stays): states (..., n, d) turned to positions (n,), or (..., n)."""
    return _turned(states, positions, rotary, 1.0, rotary.scaling)


def unrotate(states: "Tensor", positions: "Tensor", rotary: Rotary) -> "Tensor":
    """(..., n, d) float32 (float64 stays): states (..., n, d) before they were turned to positions (n,), or (..., n)."""
    return _turned(states, positions, rotary, -1.0, 1 / rotary.scaling)


def turned_on(states: "Tensor", shifts: "Tensor", rotary: Rotary) -> "Tensor":
    """(..., n, d) in their own type: states (..., n, d) that were turned to some positions, now turned to those plus shifts (n,), or (..., n).

    A shift of 0 leaves the very numbers; the constant a is in the states already. Angles are float32, as the model's own, and float64 for such states.
    """
    wide = _wide(states)
    return _by(wide, shifts.unsqueeze(-1).to(wide.dtype) * rotary.frequencies.to(wide.dtype), 1.0, 1.0).to(states.dtype)


def _turned(states: "Tensor", positions: "Tensor", rotary: Rotary, sign: float, scaling: float) -> "Tensor":
    wide = _wide(states)
    return _by(wide, (positions.unsqueeze(-1).float() * rotary.frequencies).to(wide.dtype), sign, scaling)


def _wide(states: "Tensor") -> "Tensor":
    import torch

    return states if states.dtype == torch.float64 else states.float()


def _by(wide: "Tensor", angles: "Tensor", sign: float, scaling: float) -> "Tensor":
    """(..., n, d): pairs of states (..., n, d) turned by angles (..., n, m)."""
    import torch

    pairs = angles.shape[-1]
    cosine, sine = angles.cos() * scaling, angles.sin() * scaling * sign
    first, second = wide[..., :pairs], wide[..., pairs : 2 * pairs]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, wide[..., 2 * pairs :]], -1)


def paired(states: "Tensor", rotary: Rotary) -> "Tensor":
    """(..., m + d - 2m) complex: the pairs of states (..., d) as c + i (c + m); a channel that is not turned is a number without imaginary part."""
    import torch

    pairs = len(rotary.frequencies)
    rest = states[..., 2 * pairs :].float()
    turned = torch.complex(states[..., :pairs].float(), states[..., pairs : 2 * pairs].float())
    return torch.cat([turned, torch.complex(rest, torch.zeros_like(rest))], -1)


def check_rotary(model: "LanguageModel", queries: "Tensor", rotary: Rotary) -> None:
    """ModelError unless a layer's queries (Hq, n, d) of one token at positions 0 to n - 1 are equal once they are turned back."""
    import torch

    back = unrotate(queries, torch.arange(queries.shape[1], device=queries.device), rotary)
    apart = (back - back[:, :1]).norm(dim=(0, 2)) / back[:, 0].norm().clamp(min=1e-12)
    if float(apart.max()) > _CLOSE:
        raise ModelError(f"{type(model.model).__name__} turns queries otherwise than by pairs of channels half the width apart; use another press")
