"""The processes that train one model together: each takes its share of a step's parts, and gradients are summed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`; alone unless a subclass says how sums are taken."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all of them share."""
        return self.rank == 0

    def add(self, tensors: Sequence["Tensor"]) -> None:
        """Replace every tensor by its sum over the processes."""

    def wait(self) -> None:
        """Until every process has come here."""


ALONE = Ranks()
