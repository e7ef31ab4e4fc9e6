"""Rows from which an independent cascade over nearest neighbours reaches most of the pool."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.cascade import Coverage, ReachedFrom, neighbour_digraph, proven_range, reverse_reachable
from curate.certificate import gap_to_bound, random_control
from curate.core import Budget, Certificate, Features, Integers, Selection
from curate.greedy import lazy_greedy
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows
from curate.similarity import unit_rows
from curate.submodular.bound import recomputed
from curate.submodular.neighbours import exact_neighbours

_FEWEST_SETS = 10_000  # small pools get more rounds: they cost little, and greedy should not chase noise
_DOUBT = 0.01


class Diffusion(Selector):
    """IDEAL (2024): maximise sigma(S), the expected number of rows that a cascade from S activates.

    Each row points to its `neighbours` most similar other rows with the chance max(cos, 0) / (their sum). sigma is monotone and
    submodular; it is estimated on reverse-reachable sets (curate/cascade.py), and greedy takes the row that meets most sets not
    yet met: at least (1 - 1/e) of the best for those sets, in rows; (1 - 1/e) / 2 in tokens. The certificate's objective is the estimate on
    the sets that greedy saw, its bound what no selection passes on them. Its details give the estimate on as many fresh
    sets, which greedy did not see, with its standard error, and `proven_share`: sigma(S) is at least that share of the optimum,
    with 99 % confidence. O(N^2 D) for the neighbours, then O(edges into the sets); memory for the sets, `rounds` of each row.

    Zhang et al., "IDEAL: Influence-Driven Selective Annotations Empower In-Context Learners in Large Language Models", ICLR 2024; Borgs et al., 2014;
    Tang et al., 2018. Unlike the published code: a row is told from its copies, negative cosines carry nothing, sets instead of ten cascades.
    """

    name: Literal["diffusion"] = Field(default="diffusion", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"vectors"})
    heeds_target: ClassVar[bool] = False
    neighbours: int = Field(default=10, ge=1, le=10_000, description="How many rows each row points to.")
    rounds: int = Field(default=32, ge=1, le=1_000_000, description="Reverse-reachable sets of each row; small pools get more, so that there are 10,000 sets.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        seen, fresh = self._sets(rows, context.seed)
        greedy = lazy_greedy(Coverage(seen, len(rows)), *budget.costs(rows))
        certificate = _certificate(seen, fresh, rows, budget, greedy.order)
        return Selection.of(order[greedy.order], gains=greedy.gains, certificate=certificate, prefix_consistent=counts_rows(budget))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        """Counted anew on the sets of the context's seed."""
        order, by_ids = by_id(pool)
        place = {int(row): number for number, row in enumerate(order)}
        seen, fresh = self._sets(by_ids, context.seed)
        return _certificate(seen, fresh, by_ids, budget, np.asarray([place[int(row)] for row in rows], np.int64))

    def _sets(self, pool: Features, seed: int) -> tuple[ReachedFrom, ReachedFrom]:
        """The sets that greedy sees, and as many that it does not."""
        near, cosines = exact_neighbours(unit_rows(pool), self.neighbours + 1)
        graph = neighbour_digraph(near.astype(np.int64), cosines, self.neighbours)
        rounds = max(self.rounds, -(-_FEWEST_SETS // max(len(pool), 1)))
        return reverse_reachable(graph, pool.ids, seed, range(rounds)), reverse_reachable(graph, pool.ids, seed, range(rounds, 2 * rounds))


def _certificate(seen: ReachedFrom, fresh: ReachedFrom, pool: Features, budget: Budget, rows: Integers) -> Certificate | None:
    if len(rows) == 0:
        return None
    objective, bound = recomputed(Coverage(seen, len(pool)), rows, *budget.costs(pool))
    bound = min(bound, float(len(pool)))
    random = seen.spread(random_control(pool, budget))
    estimate = fresh.spread(rows)
    lower, upper = proven_range(estimate * fresh.rounds, bound * seen.rounds, len(seen), doubt=_DOUBT)
    details = {"random": random, "estimate": estimate, "standard_error": fresh.standard_error(estimate), "proven_share": lower / upper}
    details |= {"sets": float(len(seen)), "rounds": float(seen.rounds)}
    return Certificate("influence", "max", objective, bound, gap_to_bound(objective, bound, random), details)
