"""Adam's state at a checkpoint, and the step it would take for a gradient.

With moments m, v after t steps and a new gradient g, the next step of AdamW without its decay is

    m' / (1 - beta1^(t+1)) / (sqrt(v' / (1 - beta2^(t+1))) + epsilon),   m' = beta1 m + (1 - beta1) g,
                                                                         v' = beta2 v + (1 - beta2) g^2

(Kingma and Ba, 2015). LESS as published leaves out both corrections and puts epsilon inside the root.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from curate.errors import ModelError
from curate.kept import kept
from curate.own_gpu import numbered
from curate.tensor_file import read_tensors


@dataclass(frozen=True)
class Moments:
    """First and second moments by parameter name, flattened, with the constants of their optimizer."""

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    step: int
    beta1: float
    beta2: float
    epsilon: float

    def direction(self, name: str, gradients: Tensor, *, published: bool = False) -> Tensor:
        """The step for each row's gradient (B, P); `published` gives the formula of LESS's code."""
        m, v = self._of(name, gradients.shape[1])
        first, second = (1.0, 1.0) if published else (1 - self.beta1 ** (self.step + 1), 1 - self.beta2 ** (self.step + 1))
        inside, outside = (self.epsilon, 0.0) if published else (0.0, self.epsilon)
        # (B, P) is passed over as few times as the formula allows: this is most of what scoring adds to the gradients.
        ahead = torch.add(m * (self.beta1 / first), gradients, alpha=(1 - self.beta1) / first)
        spread = torch.addcmul(v * (self.beta2 / second) + inside, gradients, gradients, value=(1 - self.beta2) / second)
        return ahead.div_(spread.sqrt_().add_(outside))

    def quarter_scale(self, name: str) -> Tensor:
        """v^(1/4) of each coordinate, floored so that a coordinate without history stays finite."""
        v = self.second[name] / (1 - self.beta2**self.step)
        return (v + 1e-3 * v.mean() + 1e-24).pow(0.25)

    def _of(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        if name not in self.first or self.first[name].numel() != size:
            raise ModelError(f"the optimizer state does not belong to this model: {name} is missing or has another shape")
        return self.first[name], self.second[name]


@kept(most_bytes=2**30, most_values=64)  # on a CPU mapped, unless in half precision, so that worker processes share them
def load_moments(path: Path, device: str = "cpu") -> Moments:
    """The moments of a checkpoint folder, checked to be complete."""
    try:
        state = json.loads((path / "state.json").read_bytes())
        tensors = read_tensors(path / "moments.safetensors", numbered(device))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} holds no optimizer state ({error}); use direction: sgd, or a checkpoint that kept its optimizer") from error
    split: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
    for key, tensor in tensors.items():
        kind, name = key.split(".", 1)
        split[kind][name] = tensor.flatten().float()
    if set(split["first"]) != set(split["second"]) or not split["first"]:
        raise ModelError(f"{path}/moments.safetensors is incomplete: first and second moments name different parameters")
    if not all(torch.isfinite(t).all() for part in split.values() for t in part.values()):
        raise ModelError(f"{path}/moments.safetensors holds NaN or infinity; the warm-up diverged: lower warmup.learning_rate")
    return Moments(split["first"], split["second"], int(state["step"]), float(state["beta1"]), float(state["beta2"]), float(state["epsilon"]))
