"""Rows added one at a time, each the best of ten drawn at random, in the judgement of a language model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.choosing.choosers import Endpoint, LocalModel
from curate.choosing.decisions import Combine, Decisions
from curate.core import Budget, Config, Features, Integers, Selection
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.order import best_first, by_id, counts_rows
from curate.randomness import draw, row_keys
from curate.reference_facility import ReferenceFacility
from curate.similarity import unit_rows

_ASKING = ("shown", "orders", "combine", "retries", "row_characters")
Decide = Callable[[int, list[int], Integers], int]  # (step, kept rows, candidates in the order of their draw) -> the row to add


class Similarity(Config):
    """No language model: the candidate of the largest gain in facility location, as a cheap stand-in or a control."""

    kind: Literal["similarity"] = Field(default="similarity", description="Facility location over the vectors.")
    reference: int = Field(default=4096, ge=1, le=1_000_000, description="Rows, at random, that want something close to them; a smaller pool whole.")


class Choice(Selector):
    """Add-One-In (Li et al., 2025): at each step a chooser sees some of the kept rows and ten random candidates, and adds one of them.

    The chooser is a local model (`chooser: {kind: local, model: ...}`), an OpenAI-compatible endpoint (`{kind: endpoint, url: ..., model: ...}`), or by
    default `similarity`, which reads vectors and no text: the marginal gain in facility location. That default is not the paper's
    method but its surrogate. For a chooser that maximises a monotone submodular f this is stochastic greedy
    (Mirzasoleiman et al., 2015): E f >= (1 - 1/e - eps) OPT in rows, eps = exp(-candidates K / N); a language model promises nothing, and there is no
    certificate. Model and endpoint read `content`, decide in several letter orders, and write each decision into the context's
    journal (curate/choosing/decisions.py), from which a stopped run goes on. `random_start` rows come first, at random, as part of the budget. If all that
    is left fits, it is taken without a question. K decisions of `orders` questions; O(K N) beside them.
    """

    name: Literal["choice"] = Field(default="choice", description="The selector's name in a recipe.")
    heeds_target: ClassVar[bool] = False
    chooser: Similarity | LocalModel | Endpoint = Field(default=Similarity(), discriminator="kind", description="Who chooses: similarity, local or endpoint.")
    candidates: int = Field(default=10, ge=2, le=26, description="Rows that one is chosen from.")
    shown: int = Field(default=20, ge=0, le=1000, description="Kept rows that a language model sees, drawn at random for each decision.")
    random_start: int = Field(default=0, ge=0, le=1_000_000_000, description="Rows taken at random before the first decision; the paper takes 100.")
    orders: int = Field(default=1, ge=1, le=26, description="Letter orders in which a decision is asked; as many as candidates cancel a liking for a letter.")
    combine: Combine = Field(default="average", description="Orders agree by the mean weight of a candidate, or by vote. Written answers are votes.")
    retries: int = Field(default=3, ge=0, le=100, description="How often a reply that names no letter is asked for again before a random candidate is taken.")
    row_characters: int = Field(default=1000, ge=16, le=1_000_000, description="Longer rows are cut in the question.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # language models read text alone
        return frozenset({"vectors"} if isinstance(self.chooser, Similarity) else ())

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.orders > self.candidates:
            raise ValueError(f"orders: {self.orders} is more than candidates: {self.candidates}, and there are no more letter orders than that; lower it")
        idle = [name for name in _ASKING if getattr(self, name) != type(self).model_fields[name].default]
        if isinstance(self.chooser, Similarity) and idle:
            raise ValueError(f"chooser: similarity asks no questions, so {', '.join(idle)} would do nothing; remove it, or name a model")
        return self

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        if isinstance(self.chooser, Similarity):
            keys = row_keys(context.seed, "choice reference", rows.ids)
            reference = np.sort(best_first(draw(keys), self.chooser.reference))
            greedy = _Greedy(ReferenceFacility(unit_rows(rows), reference))
            kept, prefix = self._add(rows, budget, context.seed, greedy.decide)
            return Selection.of(order[kept], gains=greedy.gains_of(kept), prefix_consistent=prefix)
        decisions = self._decisions(self.chooser, rows, context)
        sample = row_keys(context.seed, "choice shown", rows.ids)

        def decide(step: int, taken: list[int], candidates: Integers) -> int:
            place = np.asarray(taken, np.int64)
            seen = place[best_first(draw(sample[place], step), self.shown)]
            return decisions.decide(step, seen.tolist(), len(taken), candidates.tolist())

        kept, prefix = self._add(rows, budget, context.seed, decide)
        return Selection.of(order[kept], curves=decisions.curves(), prefix_consistent=prefix)

    def inputs(self, folder: Path) -> Mapping[str, str]:
        return {"model": self.chooser.resolved(folder).fingerprint} if isinstance(self.chooser, LocalModel) else {}

    def _add(self, pool: Features, budget: Budget, seed: int, decide: Decide) -> tuple[Integers, bool]:
        """The rows in the order they were added, and whether those of a smaller budget would be the first of them."""
        costs, capacity = budget.costs(pool)
        start, keys = (row_keys(seed, f"choice {part}", pool.ids) for part in ("start", "candidates"))
        kept = budget.fill(best_first(draw(start)), pool)[: self.random_start].tolist()
        left = capacity - int(costs[kept].sum())
        free = np.ones(len(pool), np.bool_)
        free[kept] = False
        step, whole = 0, False
        while len(fitting := np.flatnonzero(free & (costs <= left))):
            all_fit = bool(costs[fitting].sum() <= left)
            drawn = fitting[best_first(draw(keys[fitting], len(kept)), None if all_fit else self.candidates)]
            if all_fit:
                whole = len(drawn) > 1
                kept += drawn.tolist()
                break
            row = decide(step, kept, drawn)
            step += 1
            kept.append(row)
            free[row] = False
            left -= int(costs[row])
        return np.asarray(kept, np.int64), counts_rows(budget) and not whole

    def _decisions(self, chooser: LocalModel | Endpoint, pool: Features, context: Context) -> Decisions:
        if pool.content is None:
            raise DataError(f"choice with chooser: {chooser.kind} reads what the rows say, and the features carry no content; use chooser: similarity")
        return Decisions(
            chooser.open(context.device, context.folder),
            pool.ids,
            pool.content,
            context.journal,
            orders=self.orders,
            combine=self.combine,
            retries=self.retries,
            row_characters=self.row_characters,
            settings={"seed": context.seed, **self.model_dump(mode="json", exclude={"name", "chooser", "retries"})},
        )


class _Greedy:
    """The chooser without a language model: the candidate of the largest gain, ties to the lower row."""

    def __init__(self, facility: ReferenceFacility) -> None:
        self._facility, self._gains = facility, list[float]()

    def decide(self, step: int, taken: list[int], candidates: Integers) -> int:
        self.gains_of(np.asarray(taken, np.int64))
        rows = np.sort(candidates)
        gains = np.round(self._facility.gains(rows), 9)  # sums of float32 similarities, whose rounding is not to settle a tie
        return int(rows[np.argmax(gains)])

    def gains_of(self, taken: Integers) -> NDArray[np.float64]:
        """What each of these rows, the first of which are known, added to those before it."""
        for row in taken[len(self._gains) :]:
            self._gains.append(float(self._facility.gains(np.asarray([row]))[0]))
            self._facility.add(int(row))
        return np.asarray(self._gains)
