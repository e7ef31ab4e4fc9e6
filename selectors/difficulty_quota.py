"""More answers to the questions that the model fails more often."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Certificate, Content, Features, Floats, Integers, Selection
from curate.interfaces import Context, Selector
from curate.order import by_id, counts_rows, oriented_scores
from curate.randomness import uniform

_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Questions:
    """Which question a row answers (N,), each question's share of the largest quota (Q,) in [0, 1], and how late a row may come (N,)."""

    of: Integers
    share: Floats
    phase: Integers  # 0 counts towards a quota; the others follow when no quota can grow any more


class DifficultyQuota(Selector):
    """DART's allocation (Tong et al., 2024) over answers that exist: a quota for each question, a group, by its fail rate f.

        quota_q = max(1, ceil(k_p f_q / max f)),   or one k_p for all (`uniform`)

    f_q is the mean score of the question's rows, and below zero counts as zero. k_p is the largest whose quotas fit the budget:
    the j-th answer to q is due at k_p > (j - 1) max f / f_q, and answers are taken as they fall due, at random within a question, harder
    questions first among those due together. A question that runs out leaves its share to the others. Within a question,
    rows of the same words, white space apart, are copies, and come when all others are taken. The certificate, for rows
    only, compares the k_p that the kept rows honour with the largest that any allocation can. O(N log N), and reads
    every row's text once where the features carry it.
    """

    name: Literal["difficulty_quota"] = Field(default="difficulty_quota", description="The selector's name in a recipe.")
    needs: ClassVar[frozenset[str]] = frozenset({"scores"})
    heeds_target: ClassVar[bool] = False
    quota: Literal["difficulty", "uniform"] = Field(default="difficulty", description="Quotas in proportion to the fail rate (Prop2Diff), or equal ones.")
    score_is: Literal["fail_rate", "wrong"] = Field(
        default="fail_rate",
        description="What a row's score says: how often its question is failed, or, at 0.5 and above, that its own answer is wrong; wrong rows come last.",
    )
    unsolved: Literal["kept", "last"] = Field(
        default="kept", description="Questions whose fail rate is one: the hardest of all, or, as likely mislabelled, only after the quotas of the others."
    )

    @property
    def diverse(self) -> bool:  # type: ignore[override]  # a right answer twice is still better than a wrong one
        return self.score_is == "fail_rate"

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        order, rows = by_id(pool)
        random = uniform(context.seed, "difficulty_quota", rows.ids)
        questions = self._questions(rows, random)
        place = _places(questions, random)
        share = questions.share[questions.of]
        due = np.where(place == 0, 0.0, np.divide(place, share, out=np.full(len(rows), np.inf), where=share > 0))
        kept = budget.fill(np.lexsort((random, -share, place, due, questions.phase)), rows)
        return Selection.of(order[kept], certificate=_certificate(questions, rows, budget, kept), prefix_consistent=counts_rows(budget))

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        order, held = by_id(pool)
        questions = self._questions(held, uniform(context.seed, "difficulty_quota", held.ids))
        return _certificate(questions, held, budget, np.flatnonzero(np.isin(order, rows)))

    def _questions(self, rows: Features, random: Floats) -> _Questions:
        scores = oriented_scores(rows, largest=True)
        names, of = np.unique(rows.groups if len(rows.groups) else np.full(len(rows), "all"), return_inverse=True)
        wrong = (scores >= 0.5) & (self.score_is == "wrong")
        verdicts = wrong.astype(np.float64) if self.score_is == "wrong" else scores
        fails = np.bincount(of, verdicts, len(names)) / np.bincount(of, minlength=len(names))
        last = (fails >= 1) & (self.unsolved == "last")
        hard = np.where(last, 0.0, np.maximum(fails, 0.0))
        top = float(hard.max(initial=0.0))
        share = hard / top if self.quota == "difficulty" and top > 0 else np.ones(len(names))
        copies = _copies(rows.content, of, np.lexsort((random, wrong)))
        return _Questions(of, share, np.where(wrong, 3, np.where(copies, 2, last[of].astype(np.int64))))


def _copies(content: Sequence[Content] | None, of: Integers, order: Integers) -> NDArray[np.bool_]:
    """(N,) whether an earlier row of `order` answers the same question in the same words; a row without words is no copy."""
    copies = np.zeros(len(of), np.bool_)
    if content is None:
        return copies
    seen: set[tuple[int, bytes]] = set()
    for row in order.tolist():
        turns = content[row].turns
        said = blake2b(repr([(role, text.split()) for role, text in turns]).encode("utf-8", "backslashreplace"), digest_size=16).digest()
        copies[row] = bool(turns) and (int(of[row]), said) in seen
        seen.add((int(of[row]), said))
    return copies


def _places(questions: _Questions, random: Floats) -> Integers:
    """(N,) how many rows of the same question and phase come before each row, in random order."""
    order = np.lexsort((random, questions.of, questions.phase))
    kind = questions.phase[order] * max(len(questions.share), 1) + questions.of[order]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(kind, kind)
    return place


def _certificate(questions: _Questions, rows: Features, budget: Budget, kept: Integers) -> Certificate | None:
    if not counts_rows(budget) or len(kept) == 0:
        return None
    counted, size = questions.phase == 0, len(questions.share)
    there, taken = np.bincount(questions.of[counted], minlength=size), np.bincount(questions.of[kept[counted[kept]]], minlength=size)
    asked = there > 0
    objective, bound = _honoured(questions.share[asked], there[asked], taken[asked], budget.costs(rows)[1])
    gap = (bound - objective) / bound if bound > 0 else 0.0
    return Certificate("difficulty_quota", "max", objective, bound, gap, {"questions": float(asked.sum())})


def _honoured(share: Floats, there: Integers, taken: Integers, capacity: int) -> tuple[float, float]:
    """(the largest k_p whose quotas these counts honour, the largest that any counts of this sum could); none is above the level at which all is taken."""
    if len(share) == 0:
        return 0.0, 0.0
    graded = share > 0
    top = float((there[graded] / share[graded]).max(initial=0.0))
    reached = np.divide(taken, share, out=np.where(taken > 0, np.inf, 0.0), where=graded)
    objective = min(top, float(reached[taken < there].min(initial=np.inf)))
    levels = np.unique(np.concatenate([[0.0, top], *(np.arange(count) / part for count, part in zip(there, share, strict=True) if part > 0)]))
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        quotas = np.minimum(there, np.maximum(np.ceil(levels[middle] * share - _ROUNDING), 1))
        low, high = (middle, high) if quotas.sum() <= capacity else (low, middle - 1)
    return objective, float(levels[low])
