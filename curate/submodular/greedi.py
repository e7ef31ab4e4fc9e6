"""GreeDi: greedy within parts of the pool, on as many machines as there are, then greedy among what the parts kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from curate.core import Features, Integers
from curate.greedy import climb
from curate.order import subset
from curate.randomness import row_keys
from curate.submodular.objective import Objective


def partitions(features: Features, count: int, seed: int) -> list[Integers]:
    """The rows of each part, by the hash of their ids; parts without a row are left out."""
    part = row_keys(seed, "partition", features.ids) % np.uint64(count)
    return [rows for number in range(count) if len(rows := np.flatnonzero(part == number))]


def rows_of(features: Features, rows: Integers) -> Features:
    """These rows alone, without what they say, for a worker; vectors on disk stay there."""
    return subset(replace(features, content=None), rows)


def merged(objective: Objective, costs: Integers, capacity: int, kept: Sequence[Integers]) -> Integers:
    """Greedy on the whole objective among all rows that a part kept, or the rows of one part if they are worth more.

    With parts at random and parts that see all of f, f >= (1 - 1/e) / 2 OPT in expectation (Barbosa et al., 2015); where a part
    sees only its own rows of f it is near that for parts that resemble the pool (Mirzasoleiman et al., 2013).
    """
    among = np.zeros(len(costs), np.bool_)
    for rows in kept:
        among[rows] = True
    both = climb(objective, costs, capacity, among=among)
    best = max(kept, key=objective.value_of)
    return best if objective.value_of(best) > both.value else both.order
