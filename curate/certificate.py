"""The scale of a certificate's gap: 0 at the bound, 1 at a random selection of the same budget."""

from curate.core import Budget, Features, Integers
from curate.order import best_first
from curate.randomness import uniform


def gap_to_bound(objective: float, bound: float, random: float) -> float:
    """(bound - objective) / (bound - random), for either sense: 0 is proven optimal, 1 is no better than random.

    Raw ratios mislead where random is already close: random facility location scores over nine tenths of greedy.
    Where the bound proves random optimal too, the gap is 0. Objectives come from float32 similarities, in the order that rows were taken or in
    another: what differs by less than a millionth is equal.
    """
    spread = bound - random
    tiny = 1e-6 * max(abs(bound), abs(random), 1e-9)
    if abs(spread) <= tiny:
        return 0.0 if abs(bound - objective) <= tiny else 1.0
    return (bound - objective) / spread


def random_control(pool: Features, budget: Budget) -> Integers:
    """The rows of the random selection that gaps are measured against: the same for every method and every seed."""
    return budget.fill(best_first(uniform(0, "random control", pool.ids)), pool)
