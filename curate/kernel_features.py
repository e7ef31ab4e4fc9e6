"""TRAK's features: one sketch for each set of weights, weighed by 1 - p for the pool, solved by the kernel for the target."""

from collections.abc import Iterable

import torch
from torch import Tensor

from curate.curvature import FeatureKernel, KernelSum
from curate.errors import ConfigError
from curate.gradient_features import SketchReader
from curate.gradient_scorer import GradientScorer
from curate.interfaces import Batch, ScoringContext, State
from curate.model import LanguageModel
from curate.passes import Forward, show


class KernelReader(SketchReader):
    """(B, C width) the sketches of C sets of weights side by side."""

    def __init__(self, scorer: GradientScorer, batch: Batch, context: ScoringContext) -> None:
        super().__init__(scorer, batch, context)
        self.doubt: dict[int, Tensor] = {}  # (B,) mean of 1 - p over a row's answer tokens

    def see(self, seen: Forward, number: int) -> None:
        self.doubt[number] = seen.row_means(-torch.expm1(-seen.losses))

    def sketches(self) -> list[Tensor]:
        """(B, width) phi for each set of weights."""
        return [part / self.lengths(number) for number, part in enumerate(self.parts)]

    def result(self) -> Tensor:
        if self.context.role == "pool":
            parts = [phi * self.doubt[number].unsqueeze(1) for number, phi in enumerate(self.sketches())]
        else:
            parts = [kernel_of(self.context.state, number).solve(phi) for number, phi in enumerate(self.sketches())]
        return torch.cat([share**0.5 * part for share, part in zip(self.shares, parts, strict=True)], 1)


def kernel_of(state: State | None, number: int) -> FeatureKernel:
    """The stored kernel under weights `number`."""
    if not state:
        raise ConfigError("trak needs the kernel that its `prepare` makes of a sample of the pool, and none was given")
    root = torch.as_tensor(state[f"{number}|root"])
    return FeatureKernel(root)


def fit_kernels(scorer: GradientScorer, model: LanguageModel, batches: Iterable[Batch], context: ScoringContext) -> State:
    """The kernel of the batches' rows under every set of weights, as `number|root`."""
    sums = [KernelSum() for _ in scorer.shares(context)]
    damping = float(getattr(scorer, "damping", 0.0))
    for batch in batches:
        reader = KernelReader(scorer, batch, context)
        show(model, batch, [reader])
        for total, phi in zip(sums, reader.sketches(), strict=True):
            total.add(phi)
    return {f"{number}|{name}": value for number, total in enumerate(sums) for name, value in total.kernel(damping).state().items()}
