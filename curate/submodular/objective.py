"""What a set function over the pool's rows has to offer to be maximised and certified."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from curate.core import Floats, Integers


class Objective(ABC):
    """A set function with f(empty) = 0 that remembers the set S of the rows added so far.

    A copy made by `copy.copy` and then reset has a set of its own and shares what does not change.
    """

    submodular: ClassVar[bool] = True  # no row adds more to a larger set; where not, f must still be monotone

    @abstractmethod
    def reset(self) -> None:
        """Empty S; nothing that a copy still uses is written to."""

    @property
    @abstractmethod
    def value(self) -> float:
        """f(S) of the rows added so far."""

    @abstractmethod
    def upper(self, rows: Integers | None = None) -> Floats:
        """(B,) numbers not below the current gains of these rows, or of all; those of the empty set will do."""

    @abstractmethod
    def gains(self, rows: Integers) -> Floats:
        """(B,) exactly f(S + row) - f(S) for these rows, none of them in S."""

    @abstractmethod
    def add(self, row: int) -> None:
        """Put a row into S."""

    @abstractmethod
    def drop(self, row: int) -> None:
        """Take a row out of S."""

    @abstractmethod
    def after(self, sets: Sequence[Integers]) -> Sequence[tuple[float, Floats]]:
        """f of each set and the gain (N,) of every row beyond it, 0 for its own, by the definition and not from what `add` remembers."""

    def value_of(self, rows: Integers) -> float:
        """f of any set of rows, whatever has been added."""
        return self.after([rows])[0][0]

    def monotone(self, size: int) -> bool:
        """Whether no row lowers f on sets of up to this many rows."""
        return True

    @property
    def details(self) -> Mapping[str, float]:
        """What a certificate should say of the function itself."""
        return {}
