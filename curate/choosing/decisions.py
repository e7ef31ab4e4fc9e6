"""Decisions of a chooser between lettered rows: asked in several letter orders, never twice, and written down one by one.

The journal holds an entry per decision: `step`, `settings` (a hash of all that the question depends on beside its rows), the ids `shown` and the
`candidates` in the order of their draw, what was `asked` (each the ids in letter order, the raw reply, the weight of each letter or null),
the `chosen` id, and whether it was the `fallback`. On resume the entries take the place of the chooser, step by step.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from curate.choosing.choosers import Chooser, Reply
from curate.choosing.prompt import prompt, row_text
from curate.core import Content, Floats, Strings
from curate.errors import IntegrityError
from curate.interfaces import Journal
from curate.store import canonical, digest

Combine = Literal["average", "vote"]
Order = list[str]  # ids, the first with the letter A


class Decisions:
    """One chooser's choices between rows of `ids` (N,) that say `content` (N,).

    A decision is asked in `orders` letter orders, the candidates moved on round the alphabet, so that with as many orders as candidates
    each stands once at every letter. Replies that name no letter are asked for again in the orders that follow, `retries` of them at
    most. The candidate of the largest mean weight, or of the most first places, is chosen, ties to the first drawn; if no reply named
    a letter it is the first drawn, a row at random, and the decision counts as a fallback.
    """

    def __init__(
        self,
        chooser: Chooser,
        ids: Strings,
        content: Sequence[Content],
        journal: Journal | None,
        *,
        orders: int,
        combine: Combine,
        retries: int,
        row_characters: int,
        settings: Mapping[str, Any],
    ) -> None:
        self._chooser, self._ids, self._content, self._journal = chooser, ids, content, journal
        self._orders, self._combine, self._retries, self._limit = orders, combine, retries, row_characters
        self._settings = digest(canonical({**settings, "chooser": dict(chooser.identity()), "prompt": prompt([], 0, [])}))
        self._held = list(journal.entries()) if journal else []
        self._place = {str(name): row for row, name in enumerate(ids)}
        self._asked: list[float] = []
        self._fallback: list[float] = []
        self._letter: list[float] = []

    def curves(self) -> dict[str, Floats]:
        """Over the decisions: questions asked, whether it was the fallback, and the place of the chosen row among the drawn."""
        return {"asked": np.asarray(self._asked), "fallback": np.asarray(self._fallback), "letter": np.asarray(self._letter)}

    def decide(self, step: int, shown: Sequence[int], chosen: int, candidates: Sequence[int]) -> int:
        """The row to add as the `step`-th decision; `shown` are some of the `chosen` rows, `candidates` two or more in the order of their draw."""
        drawn = [str(self._ids[row]) for row in candidates]
        seen = [str(self._ids[row]) for row in shown]
        question = {"step": step, "settings": self._settings, "shown": seen, "candidates": drawn}
        if step < len(self._held):
            asked = _replayed(self._held[step], question)
        else:
            texts = {name: row_text(self._content[self._place[name]], name, self._limit) for name in (*seen, *drawn)}
            asked = self._ask([texts[name] for name in seen], chosen, texts, drawn)
        winner = _winner(asked, drawn, self._combine)
        fallback = winner is None
        name = drawn[0] if winner is None else winner
        if step < len(self._held):
            _same(step, self._held[step], {"chosen": name, "fallback": fallback})
        elif self._journal:
            lines = [{"order": order, "reply": reply.raw, "weights": None if reply.weights is None else reply.weights.tolist()} for order, reply in asked]
            self._journal.append({**question, "asked": lines, "chosen": name, "fallback": fallback})
        self._asked.append(len(asked))
        self._fallback.append(float(fallback))
        self._letter.append(drawn.index(name))
        return self._place[name]

    def _ask(self, shown: Sequence[str], chosen: int, texts: Mapping[str, str], drawn: Order) -> list[tuple[Order, Reply]]:
        count = len(drawn)
        wanted = min(self._orders, count)
        first = [turn * count // wanted for turn in range(wanted)]
        turns = (first + [turn for turn in range(count) if turn not in first]) * (1 + self._retries)
        asked: list[tuple[Order, Reply]] = []
        missing = wanted
        while missing and len(asked) < wanted + self._retries:
            missing = min(missing, wanted + self._retries - len(asked))
            orders = [drawn[turn:] + drawn[:turn] for turn in turns[len(asked) : len(asked) + missing]]
            replies = self._chooser.answer([prompt(shown, chosen, [texts[name] for name in order]) for order in orders], count)
            asked += zip(orders, replies, strict=True)
            missing = wanted - sum(reply.weights is not None for _, reply in asked)
        return asked


def _winner(asked: Sequence[tuple[Order, Reply]], drawn: Order, combine: Combine) -> str | None:
    """The candidate of the largest summed weight, ties to the first drawn; None without a weight."""
    total = dict.fromkeys(drawn, 0.0)
    weighed = [(order, reply.weights) for order, reply in asked if reply.weights is not None]
    for order, weights in weighed:
        given = weights if combine == "average" else np.eye(len(weights))[np.argmax(weights)]
        for name, weight in zip(order, given.tolist(), strict=True):
            total[name] += weight
    return max(drawn, key=lambda name: total[name]) if weighed else None


def _replayed(entry: Mapping[str, Any], question: Mapping[str, Any]) -> list[tuple[Order, Reply]]:
    """What was asked and answered at this step; an IntegrityError where it was another question."""
    _same(int(question["step"]), entry, question)
    count = len(question["candidates"])
    try:
        asked = [(list(line["order"]), _reply(line)) for line in entry["asked"]]
        whole = all(sorted(order) == sorted(question["candidates"]) and (reply.weights is None or reply.weights.shape == (count,)) for order, reply in asked)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise IntegrityError(f"entry {question['step']} of the journal of decisions is damaged; restore the journal, or begin with an empty one")
    return asked


def _reply(line: Mapping[str, Any]) -> Reply:
    return Reply(str(line["reply"]), None if line["weights"] is None else np.asarray(line["weights"], np.float64))


def _same(step: int, entry: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if entry.get(name) != value:
            raise IntegrityError(
                f"entry {step} of the journal of decisions is of another run: its {name} differs; "
                "restore pool, seed, chooser and fields, or begin with an empty journal"
            )
