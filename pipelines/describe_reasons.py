"""Reasons: why a row was taken or left, in numbers that were computed and in words for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from pydantic_core import to_json

from curate.core import Content, Examples, Floats, Integers
from curate.order import best_first
from curate.pipelines.describe_likeness import Likeness, Narrow
from curate.pipelines.describe_taken import Numbers, Taken
from curate.pipelines.experiment import Aim
from curate.registry import load, names
from curate.rules import Rules

SHORT_ID = 12


def words(content: Content, limit: int) -> str:
    """What a row says, turn by turn, cut where it is long; empty for a row that came as token ids."""
    text = "\n".join(f"{role}: {said}" if role else said for role, said in content.turns)
    return text if len(text) <= limit else text[:limit].rstrip() + " ..."


@dataclass(frozen=True)
class Near:
    """A target row, and how alike the row in question is to it."""

    place: int
    value: float
    content: Content


@dataclass(frozen=True)
class Sight:
    """One selection, and the numbers that it was made by."""

    taken: Taken
    examples: Examples  # of the pool
    likeness: Likeness | None
    scores: Floats | None  # (N,) NaN where a row has none

    @classmethod
    def of(cls, taken: Taken, numbers: Numbers, aim: Aim | None = None) -> "Sight":
        """The selection with what it was made from, beside the target of `aim` where it heeds none."""
        given = numbers.given(taken, aim)
        return cls(taken, numbers.examples, numbers.likeness(given), numbers.scores(given.scores) if given else None)

    @cached_property
    def rules(self) -> Rules:
        """Which rows the arm may keep."""
        return Rules.model_validate_json(to_json(self.taken.manifest["fields"].get("rules", {})))

    @cached_property
    def heeds_target(self) -> bool:
        """Whether the arm's own selector, or a filter before it, goes by the target."""
        return any(map(_heeds_target, [*self.filters, self.taken.manifest["fields"].get("selector", {}).get("name", "random")]))

    @property
    def filters(self) -> list[str]:
        """The selectors that ran before the arm's own."""
        return [step["selector"]["name"] for step in self.taken.manifest["fields"].get("filters", [])]

    @cached_property
    def served(self) -> tuple[Narrow, Integers]:
        """For every target row its similarity to the nearest row taken, and which that is."""
        if self.likeness is None:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        return self.likeness.served(self.taken.rows)

    def nearest(self, row: int, count: int = 3) -> list[Near]:
        """The target rows that are most alike to a row, most first; none without a comparison."""
        if self.likeness is None or not len(held := self.likeness.having(np.array([row]))):
            return []
        alike, target = self.likeness.to_target(held)[0], self.likeness.target
        contents: Sequence[Content] = target.content or []
        return [Near(int(place), float(alike[place]), contents[int(place)]) for place in best_first(alike, count)]

    def almost(self, count: int = 3) -> Integers:
        """The rows left that are most alike to some target row, or of the best score where the arm goes by scores only; none where it reads no number."""
        value: Floats
        if self.likeness is not None and (self.heeds_target or self.scores is None):
            value = self.likeness.reach[0]
        elif self.scores is not None:
            value = self.scores if self.taken.manifest["fields"]["selector"].get("largest", True) else -self.scores
        else:
            return np.zeros(0, np.int64)
        open_to = np.isfinite(value) & (True if self.scores is None else np.isfinite(self.scores))
        open_to[self.taken.rows] = False
        rows = np.flatnonzero(open_to)
        return rows[best_first(value[rows], count)]

    def instead(self, row: int) -> tuple[int, float] | None:
        """The row taken that is most like a row left, and how much: like the row itself, or where rows cannot be compared, like its nearest target row."""
        if self.likeness is None:
            return None
        if self.likeness.has_vectors:
            return self.likeness.nearest_of(row, self.taken.rows)
        near = self.nearest(row, 1)
        best, who = self.served
        return (int(who[near[0].place]), float(best[near[0].place])) if near and who[near[0].place] >= 0 else None

    def why_taken(self, row: int) -> str:
        """`rank 1 of 120, gain 0.31; nearest target row at cosine 0.921; score 2.1, above 98% of the pool`."""
        rank = int(np.flatnonzero(self.taken.rows == row)[0])
        gain = self.taken.gains[rank]
        place = f"rank {rank + 1} of {len(self.taken.rows)}"
        first = place + (f", gain {gain:.3g}" if np.isfinite(gain) else "") + (", drawn at random" if self.taken.random else "")
        near = self.nearest(row, 1) if self.heeds_target else []
        return "; ".join([first, *(f"nearest target row at {self._alike(one.value)}" for one in near), *self._score(row)])

    def why_left(self, row: int, *, other: bool = True) -> str:
        """What the numbers say of a row that was not taken: a rule; who is near its target row, and with `other` who is like it; its score beside others."""
        if ruled := self._ruled_out(row):
            return ruled
        if self.likeness is None and self.scores is None:
            return "not drawn" if self.taken.random else "the selector reads no feature, so there is no number to compare"
        found = self._beside_target(row) if self.heeds_target else []
        if other and self.likeness and (twin := self.likeness.nearest_of(row, self.taken.rows)):
            found.append(f"of the rows taken {self._named(twin[0])} is most like it (cosine {_figure(twin[1])})")
        found += self._beside_scores(row)
        if not found:
            known = self.likeness is not None and len(self.likeness.having(np.array([row])))
            found = ["others were chosen" if known else "it has no usable number in the features that the arm reads"]
        limits = [f"before it the filters {', '.join(self.filters)} left out rows"] if self.filters else []
        limits += ["quotas leave room for so many rows of a kind only"] if self.rules.quotas else []
        return "; ".join(found + limits)

    def _beside_target(self, row: int) -> list[str]:
        near = self.nearest(row, 1)
        if not near or self.likeness is None:
            return []
        best, who = self.served
        place, own = near[0].place, near[0].value
        if who[place] < 0:
            return []
        return [f"nearest target row at {self._alike(own)}, where {self._named(int(who[place]))}, the nearest row taken, is at {_figure(best[place])}"]

    def _beside_scores(self, row: int) -> list[str]:
        if self.scores is None or not np.isfinite(self.scores[row]):
            return []
        own = self.scores[row]
        held = self.scores[self.taken.rows][np.isfinite(self.scores[self.taken.rows])]
        if not len(held):
            return self._score(row)
        low, high = held.min(), held.max()
        relation = "is below those of all" if own < low else "is above those of all" if own > high else "lies among those of the"
        return [f"score {own:.3g} {relation} rows taken ({low:.3g} to {high:.3g}; the last has {self.scores[self.taken.rows[-1]]:.3g})"]

    def _score(self, row: int) -> list[str]:
        if self.scores is None or not np.isfinite(self.scores[row]):
            return []
        return [f"score {self.scores[row]:.3g}, above {percentile(self.scores, row):.0%} of the pool"]

    def _ruled_out(self, row: int) -> str:
        rules, name = self.rules, str(self.examples.ids[row])
        if name in rules.forbid:
            return "the arm's rules forbid it"
        tokens = int(self.examples.lengths[row])
        if rules.tokens and not rules.tokens[0] <= tokens <= rules.tokens[1]:
            return f"it has {tokens} tokens, and the arm's rules allow {rules.tokens[0]} to {rules.tokens[1]}"
        for by, wanted in rules.where.items():
            said = str(self.examples.groups[row]) if by == "group" else str(self.examples.rows[row].content.fields.get(by))
            if said not in wanted:
                return f"its {by} is {said}, and the arm's rules allow {', '.join(wanted)}"
        return ""

    def _alike(self, value: float) -> str:
        return f"{self.likeness.word if self.likeness else ''} {_figure(value)}"

    def _named(self, row: int) -> str:
        return str(self.examples.ids[row])[:SHORT_ID]


@lru_cache
def _heeds_target(name: str) -> bool:
    """Whether the selector of this name goes by the target, as one may that is no longer installed."""
    return name not in names("selectors") or bool(getattr(load("selectors", name), "heeds_target", True))


def _figure(value: float) -> str:
    """A likeness: three decimals, or as many digits where they would all be zero."""
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def percentile(scores: Floats, row: int) -> float:
    """The share of rows with a score that score less than this one."""
    held = scores[np.isfinite(scores)]
    return float((held < scores[row]).mean())
