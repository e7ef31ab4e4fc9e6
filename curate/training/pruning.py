"""Dynamic pruning: every epoch of a run visits only a part of the rows, chosen by the losses that the run has seen so far."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.core import Config, Integers, Strings
from curate.errors import DataError, NumericError
from curate.randomness import uniform
from curate.training.clusters_1d import groups_1d


@dataclass(frozen=True)
class Visit:
    """What one epoch visits."""

    rows: Integers  # (K,) positions in the training set, ascending
    factors: NDArray[np.float32]  # (K,) what each row's loss is multiplied by


class Pruning(Config, ABC):
    """Says which rows an epoch visits, as a pure function of its arguments, so that a resumed run visits the same rows.

    Pruning by loss ends for the last `anneal` of the epochs: for every epoch whose middle lies beyond (1 - anneal) epochs, so that the
    share is met to the nearest epoch. At the default of 1/8 that is none of 2 or 3 epochs, the last one of 4 to 11, the last two of 12.
    """

    rescales: ClassVar[bool]  # whether factors keep the gradient unbiased; a step then divides by a constant, not by the tokens it holds

    name: str
    anneal: float = Field(0.125, ge=0, lt=1, description="Share of the epochs, at the end, that no longer prune by loss; to the nearest epoch.")

    @abstractmethod
    def epoch(self, number: int, epochs: float, losses: NDArray[np.float32], ids: Strings, seed: int) -> Visit:
        """What epoch `number` of 0, 1, ... visits, in a run of `epochs`, which may end within an epoch.

        Args:
            number: the epoch; those beyond `epochs` count as the last ones do.
            epochs: how many passes the run is planned for.
            losses: (N,) last seen mean loss of every row in nats per supervised token, NaN where it has not been seen yet.
            ids: (N,) that the rows' random numbers hang on.
            seed: of the run.

        Raises:
            DataError: there is not one loss per id.
            NumericError: a loss is infinite.
        """

    @abstractmethod
    def shares(self, epochs: float, losses: NDArray[np.float32]) -> NDArray[np.float64]:
        """(ceil(epochs),) the share of rows that each epoch visits in expectation, if losses once seen stay as given (N,)."""

    def expected_share(self, epochs: float, losses: NDArray[np.float32]) -> float:
        """Rows visited in `epochs` epochs over epochs times N, in expectation, if losses once seen stay as given (N,).

        One minus this is the saving in rows. The saving in tokens is the same only where length and loss have nothing to do with one another.
        """
        passes = np.arange(math.ceil(epochs))
        lasting = np.minimum(passes + 1, epochs) - passes
        return float((lasting * self.shares(epochs, losses)).sum() / epochs)

    def annealed(self, number: int, epochs: float) -> bool:
        """Whether epoch `number` no longer prunes by loss."""
        middle = (number + min(number + 1, epochs)) / 2  # of the part of the epoch that is run
        return self.anneal > 0 and middle >= epochs - self.anneal * epochs - 1e-9


class Infobatch(Pruning):
    """Rows already learned are left out at random, and those of them that stay count for the others too, so that no gradient is biased.

    A row whose last loss is below the mean of all losses seen is dropped with probability `ratio`, and else has the factor
    1 / (1 - ratio). At fixed weights the expected sum of factor times gradient over the epoch is then the sum of all rows' gradients
    exactly (Qin et al., "InfoBatch", ICLR 2024). Rows not seen yet stay, with factor 1.

    Limits: the sum is unbiased, not a mean over what happens to be visited, and its variance grows by ratio / (1 - ratio) times the
    squared gradients of the rows below the mean. Rows are dropped independently, where the paper's code drops a fixed number.
    """

    rescales: ClassVar[bool] = True

    name: Literal["infobatch"] = Field("infobatch", description="The method's name in a recipe.")
    ratio: float = Field(0.5, ge=0, lt=1, description="Probability that a row with a loss below the mean is left out of an epoch.")

    def epoch(self, number: int, epochs: float, losses: NDArray[np.float32], ids: Strings, seed: int) -> Visit:
        _check(losses, ids)
        factors = np.ones(len(ids), np.float32)
        if self.annealed(number, epochs):
            return Visit(np.arange(len(ids)), factors)
        learned = _below_mean(losses)
        factor = np.float32(1 / (1 - self.ratio))
        factors[learned] = factor
        # 1 - 1 / factor is `ratio` to a float32's precision, and makes probability times factor exactly one.
        dropped = learned & (uniform(seed, f"infobatch epoch {number}", ids) < 1 - 1 / float(factor))
        rows = np.flatnonzero(~dropped)
        return Visit(rows, factors[rows])

    def shares(self, epochs: float, losses: NDArray[np.float32]) -> NDArray[np.float64]:
        """1 - ratio * q for the epochs that prune, with q the share of rows below the mean; 1 for the first and for the annealed ones."""
        learned = _below_mean(losses).mean()
        whole = [number == 0 or self.annealed(number, epochs) for number in range(math.ceil(epochs))]
        return np.where(whole, 1.0, 1 - self.ratio * learned)


class Seta(Pruning):
    """A window over groups of rows of similar loss slides from easy to hard, an epoch at a time, and starts again (Zhou et al., "SeTa", CVPR 2025).

    Each epoch first leaves out every row with probability `drop`. The rest falls into G `groups` by exact 1-D k-means of the losses, and
    epoch t visits the W = round(G * window) groups from t mod (G - W + 1) on; epoch 0, which has seen no loss, and the annealed epochs
    visit all of them. Rows not seen yet belong to every window. Where losses take fewer than G values, there are as many groups as values.

    With drop = 0 and losses that stay, any G - W + 1 epochs in a row visit every row. Losses of rows outside the window grow stale, and a
    row whose loss moves against the window can be passed over; nothing is rescaled, so the gradient is biased towards the middle groups.
    An epoch never comes out empty: if every row were dropped, the one with the largest random number stays.
    """

    rescales: ClassVar[bool] = False

    name: Literal["seta"] = Field("seta", description="The method's name in a recipe.")
    groups: int = Field(10, ge=1, le=100, description="Groups of rows by their loss.")
    window: float = Field(0.5, gt=0, le=1, description="Share of the groups that an epoch visits.")
    drop: float = Field(0.1, ge=0, lt=1, description="Probability that a row is left out of an epoch, whatever its loss.")

    @model_validator(mode="after")
    def _visiting(self) -> Self:
        if round(self.groups * self.window) < 1:
            raise ValueError(f"a window of {self.window:g} of {self.groups} groups is less than one group; use at least {1 / self.groups:.2g}")
        return self

    def epoch(self, number: int, epochs: float, losses: NDArray[np.float32], ids: Strings, seed: int) -> Visit:
        _check(losses, ids)
        drawn = uniform(seed, f"seta epoch {number}", ids)
        kept = np.flatnonzero(drawn >= min(self.drop, drawn.max(initial=0)))
        if number > 0 and not self.annealed(number, epochs):
            kept = kept[self._in_window(number, losses[kept])]
        return Visit(kept, np.ones(len(kept), np.float32))

    def shares(self, epochs: float, losses: NDArray[np.float32]) -> NDArray[np.float64]:
        """(1 - drop) * (u + (1 - u) * w): w is the share of rows in the epoch's window, u = drop^t that of rows never drawn before epoch t.

        Groups are taken of all rows, where an epoch takes them of the rows that `drop` leaves; their edges move a little with the draw.
        """
        seen = losses[~np.isnan(losses)]
        labels = groups_1d(seen, self.groups)
        sizes = np.bincount(labels) / max(1, len(seen))
        within = np.ones(math.ceil(epochs))
        for number in range(1, len(within)):
            if len(sizes) and not self.annealed(number, epochs):
                within[number] = sizes[self._span(number, len(sizes))].sum()
        unseen = self.drop ** np.arange(len(within))
        return (1 - self.drop) * (unseen + (1 - unseen) * within)

    def _in_window(self, number: int, losses: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N,) whether each row is in the window of the epoch."""
        visited = np.isnan(losses)
        seen = np.flatnonzero(~visited)
        labels = groups_1d(losses[seen], self.groups)
        span = self._span(number, int(labels.max(initial=0)) + 1)
        visited[seen] = (labels >= span.start) & (labels < span.stop)
        return visited

    def _span(self, number: int, groups: int) -> slice:
        """The groups of the window, out of as many as there are."""
        width = max(1, round(groups * self.window))
        start = number % (groups - width + 1)
        return slice(start, start + width)


AnyPruning = Annotated[Infobatch | Seta, Field(discriminator="name")]


def _check(losses: NDArray[np.float32], ids: Strings) -> None:
    if len(losses) != len(ids):
        raise DataError(f"pruning: {len(losses)} losses for {len(ids)} rows; give one per row, NaN where it has not been seen")
    infinite = np.flatnonzero(np.isinf(losses))
    if len(infinite):
        row = infinite[0]
        raise NumericError(f"pruning: the loss of row {ids[row]} is {losses[row]}; a run whose losses are not finite has diverged, so lower the learning rate")


def _below_mean(losses: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) whether each loss is below the mean of those seen; summed without rounding, so that the order of the rows changes nothing."""
    seen = losses[~np.isnan(losses)]
    mean = math.fsum(seen.tolist()) / max(1, len(seen))
    return np.asarray(losses.astype(np.float64) < mean)
