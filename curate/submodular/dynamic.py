"""Rows come and go: a selection that is repaired after each, and is never worth less than half of the optimum, but for epsilon."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import ceil, floor, log

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.submodular.objective import Objective

_ABSENT, _BELOW = -2, -1  # of a row that is not there, and of one whose gain alone is too small

Draw = Callable[[int], float]  # a uniform number in [0, 1) for every number


@dataclass
class Levels:
    """For one guess v of the optimum: nested sets of rows R_0 > R_1 > ..., from each of which one row, drawn uniformly, is kept.

    R_i holds the rows, other than those kept before, that add at least t = v / 2k to them; so it is enough to know the last set that a row is
    in. k rows are kept, worth t each, or no row that is there adds t to what is kept.
    """

    objective: Objective
    size: int
    threshold: float
    last: NDArray[np.int32]  # (U,) the largest i with the row in R_i, or _BELOW or _ABSENT
    draw: Draw
    kept: list[int] = field(default_factory=list)
    draws: int = 0
    queries: int = 0  # gains that were computed

    def insert(self, row: int) -> None:
        """Into every set it belongs to; in each it takes the place of the kept row with the probability that keeps the draw uniform."""
        self.objective.reset()
        self.last[row] = _BELOW
        for level in range(self.size):
            if self._gains(np.array([row]))[0] < self.threshold:
                return
            self.last[row] = level
            if level == len(self.kept) or self._random() * int(np.sum(self.last >= level)) < 1:
                self._rebuild(level, first=row)
                return
            self.objective.add(self.kept[level])

    def delete(self, row: int) -> None:
        """Out of every set; only where it was kept the sets from there on are made again."""
        level, self.last[row] = int(self.last[row]), _ABSENT
        if 0 <= level < len(self.kept) and self.kept[level] == row:
            self._restart(level)

    def fill(self, rows: Integers, single: NDArray[np.float64]) -> None:
        """Insert the first rows, of which the gains alone are known."""
        self.last[rows] = np.where(single[rows] >= self.threshold, 0, _BELOW)
        self.objective.reset()
        self._rebuild(0)

    def make_again(self) -> None:
        """Draw anew behind the rows that are kept."""
        self._restart(len(self.kept))

    def value(self) -> float:
        """f of the kept rows."""
        self.objective.reset()
        for row in self.kept:
            self.objective.add(row)
        return self.objective.value

    def _restart(self, level: int) -> None:
        self.objective.reset()
        for before in self.kept[:level]:
            self.objective.add(before)
        self._rebuild(level)

    def _rebuild(self, level: int, first: int | None = None) -> None:
        """Draw anew from R_level on, from which `first` is kept; the objective holds the rows kept before."""
        rows = np.flatnonzero(self.last >= level)
        del self.kept[level:]
        while len(rows):
            self.last[rows] = len(self.kept)
            row = int(rows[int(self._random() * len(rows))]) if first is None else first
            first = None
            self.kept.append(row)
            self.objective.add(row)
            if len(self.kept) == self.size:
                return
            rows = rows[rows != row]
            if len(rows):
                rows = rows[self._gains(rows) >= self.threshold]

    def _gains(self, rows: Integers) -> NDArray[np.float64]:
        self.queries += len(rows)
        return np.asarray(self.objective.gains(rows), np.float64)

    def _random(self) -> float:
        self.draws += 1
        return self.draw(self.draws)


class Dynamic:
    """max f(S), |S| <= k, over rows that are inserted and deleted: after each, `best` is worth at least OPT / 2 (1 + epsilon).

    For each guess of the optimum on a grid of ratio 1 + epsilon, between the best single row and k times it, `Levels` are held (the sampling of
    Banihashem et al., "Dynamic Algorithms for Matroid Submodular Maximization", 2024, for one budget in rows). The guarantee holds for every
    sequence and every draw, for monotone submodular f; the draws only make it rare that a deleted row was a kept one, if who deletes does not
    look at what is kept. A row costs gains at up to k levels of O(log(k) / epsilon) guesses, and a guess that must be made again up to |R_i| k.

    Args:
        objective: over all rows that will ever come, the universe (U,): f itself does not change.
        size: k.
        epsilon: the ratio of two guesses, less one.
        seed: of the draws.
    """

    def __init__(self, objective: Objective, size: int, epsilon: float = 0.1, seed: int = 0) -> None:
        objective.reset()
        self._objective, self.size, self._seed = objective, size, seed
        self._step = log(1 + epsilon)
        self.single = np.asarray(objective.gains(np.arange(len(objective.upper()))), np.float64)
        self.present = np.zeros(len(self.single), np.bool_)
        self.guesses: dict[int, Levels] = {}

    def insert(self, row: int) -> None:
        """The row is there from now on; ValueError where it is already."""
        if self.present[row]:
            raise ValueError(f"row {row} is there already")
        self.present[row] = True
        for guess in self._guesses_of(self.single[row]):
            self._levels(guess).insert(row)

    def insert_all(self, rows: Integers) -> None:
        """Several rows: one by one where some are there already; else every guess is made in one go, which draws as uniformly and takes fewer gains."""
        if self.present.any():
            for row in rows.tolist():
                self.insert(row)
            return
        self.present[rows] = True
        wanted: dict[int, list[int]] = {}
        for row in rows.tolist():
            for guess in self._guesses_of(self.single[row]):
                wanted.setdefault(guess, []).append(row)
        for guess, several in sorted(wanted.items()):
            self._levels(guess).fill(np.array(several, np.int64), self.single)

    def delete(self, row: int) -> None:
        """The row is gone; ValueError where it is not there."""
        if not self.present[row]:
            raise ValueError(f"row {row} is not there")
        self.present[row] = False
        for guess in self._guesses_of(self.single[row]):
            self._levels(guess).delete(row)

    def best(self) -> list[int]:
        """At most k rows that are there, in the order in which they were kept."""
        top = float(np.max(self.single, where=self.present, initial=0.0))
        if top <= 0:
            return []
        guesses = range(ceil(log(top) / self._step) - 1, floor(log(self.size * top) / self._step) + 1)
        fullest = max((self.guesses[guess] for guess in guesses if guess in self.guesses), key=lambda levels: levels.value(), default=None)
        if fullest is None or fullest.value() < top:
            return [int(np.argmax(np.where(self.present, self.single, -np.inf)))]
        return list(fullest.kept)

    @property
    def queries(self) -> int:
        """Gains that were computed so far."""
        return sum(levels.queries for levels in self.guesses.values())

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """All that `restored` needs besides the objective: of every guess, its number, its draws, what it keeps, and the last set of every row."""
        numbers = sorted(self.guesses)
        held = [self.guesses[number] for number in numbers]
        return {
            "present": self.present.astype(np.int64),
            "guess": np.array(numbers, np.int64),
            "draws": np.array([levels.draws for levels in held], np.int64),
            "kept": np.array([levels.kept + [_BELOW] * (self.size - len(levels.kept)) for levels in held], np.int64).reshape(len(held), self.size),
            "last": np.array([levels.last for levels in held], np.int64).reshape(len(held), len(self.present)),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.int64]], where: Integers) -> None:
        """Go on from where `arrays` were taken, with the same f, k, epsilon and seed, in another universe: its row u is now row `where[u]`.

        Rows with -1 there are gone: they are deleted. Rows that came since are not there yet.
        """
        stays, known = where >= 0, arrays["present"].astype(np.bool_)
        self.present[where[stays]] = known[stays]
        for place, number in enumerate(arrays["guess"].tolist()):
            levels = self._levels(number)
            levels.last[where[stays]] = arrays["last"][place][stays]
            levels.draws = int(arrays["draws"][place])
            kept = [int(where[row]) for row in arrays["kept"][place].tolist() if row >= 0]
            lost = kept.index(-1) if -1 in kept else None
            levels.kept = kept[:lost]
            if lost is not None:
                levels.make_again()

    def _guesses_of(self, single: float) -> Sequence[int]:
        """The guesses at which a row can matter: v <= 2 k f(row), or it is below the threshold; v (1 + epsilon) >= f(row), or v is below the optimum."""
        if single <= 0:
            return ()
        return range(ceil(log(single) / self._step) - 1, floor(log(2 * self.size * single) / self._step) + 1)

    def _levels(self, guess: int) -> Levels:
        if guess not in self.guesses:
            threshold = float(np.exp(guess * self._step)) / (2 * self.size)
            last = np.full(len(self.present), _ABSENT, np.int32)
            self.guesses[guess] = Levels(copy(self._objective), self.size, threshold, last, self._draw_of(guess))
        return self.guesses[guess]

    def _draw_of(self, guess: int) -> Draw:
        key = np.array([self._seed % 2**64, guess % 2**64], np.uint64)
        return lambda number: float(np.random.Generator(np.random.Philox(key=key, counter=number)).random())
