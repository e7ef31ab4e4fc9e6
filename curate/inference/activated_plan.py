"""What of requests is the base's and what each kind of activated adapter has to compute by itself: heads before the invocation tokens, tails from them on.

All heads are in one plan with the requests that no adapter is activated in, so that what any of them share is computed once. The tails behind a head have
a plan for each kind of invocation tokens, which all variants of that kind run.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.core import Integers
from curate.inference.plan import Layout, Plan, go_on_from
from curate.inference.scoring import Lookups, ScoringPlan, plan_scoring

Tokens = Sequence[int]
Head = tuple[int, ...]  # a context's tokens before the invocation
Invocation = tuple[int, ...]
Requests = Sequence[tuple[Tokens, Sequence[Tokens]]]  # contexts, each with its continuations


@dataclass(frozen=True, eq=False)
class Tails:
    """The requests that adapters with these invocation tokens act in, from those tokens on."""

    numbers: list[int]  # of the requests, in the order of `wanted`
    wanted: ScoringPlan  # their tails, all behind heads that lie in the plan of the base
    plans: dict[Head, Plan]  # the tails behind each head; their positions go on from it

    @property
    def tokens(self) -> int:
        """How many are computed."""
        return sum(plan.tokens for plan in self.plans.values())


@dataclass(frozen=True, eq=False)
class ActivatedPlan:
    """Heads and requests of the base, and the tails of each kind of adapter."""

    numbers: list[int]  # of the requests that are the base's as a whole, for some kind of adapter
    wanted: ScoringPlan  # these requests, and then all heads
    heads: dict[Any, list[tuple[int, Head]]]  # by stage or row: heads that end in it, and the places of their last tokens
    tails: dict[Invocation, Tails]


def plan_activated(requests: Requests, invocations: Sequence[Invocation], layout: Layout) -> ActivatedPlan:
    """How to compute these requests with adapters of these invocation tokens; none of them stands for the base."""
    starts = {invocation: _starts(requests, invocation) for invocation in dict.fromkeys(invocations)}
    numbers = sorted({number for found in starts.values() for number in set(range(len(requests))) - set(found)})
    heads = sorted({tuple(requests[number][0][:start]) for found in starts.values() for number, start in found.items() if start})
    contexts = [*(requests[number][0] for number in numbers), *heads]
    wanted = plan_scoring(contexts, [*(requests[number][1] for number in numbers), *([[[]]] * len(heads))], layout)
    first = sum(len(requests[number][1]) for number in numbers)
    places: dict[Any, list[tuple[int, Head]]] = defaultdict(list)
    for sequence, head in enumerate(heads, first):
        where, place = wanted.plan.locate(sequence, len(head) - 1)
        places[where].append((place, head))
    tails = {invocation: _tails(requests, found, wanted.plan, layout) for invocation, found in starts.items() if found}
    return ActivatedPlan(numbers, wanted, dict(places), tails)


def invocation_start(context: Tokens, invocation: Invocation) -> int | None:
    """Where these tokens occur last in the context; None where they do not, or where there are none to be sought."""
    width = len(invocation)
    starts = range(len(context) - width, -1, -1) if width else ()
    return next((start for start in starts if tuple(context[start : start + width]) == invocation), None)


def _starts(requests: Requests, invocation: Invocation) -> dict[int, int]:
    """By number of the request, where its tail begins."""
    found = {number: invocation_start(context, invocation) for number, (context, continuations) in enumerate(requests) if continuations}
    return {number: start for number, start in found.items() if start is not None}


def _tails(requests: Requests, starts: Mapping[int, int], plan: Plan, layout: Layout) -> Tails:
    behind: dict[Head, list[int]] = defaultdict(list)
    for number, start in starts.items():
        behind[tuple(requests[number][0][:start])].append(number)
    plans: dict[Head, Plan] = {}
    numbers: list[int] = []
    lookups: dict[Any, Lookups] = {}
    slots: list[Integers] = []
    made = asked = 0
    for head, members in sorted(behind.items()):
        part = plan_scoring([requests[number][0][len(head) :] for number in members], [requests[number][1] for number in members], layout)
        go_on_from(part.plan, len(head))
        plans[head] = part.plan
        numbers += members
        lookups |= {where: Lookups(found.places, found.tokens, [slot + made for slot in found.slots]) for where, found in part.lookups.items()}
        slots += [first + made for first in part.starts]
        made, asked = made + part.slots, asked + part.asked_tokens
    return Tails(numbers, ScoringPlan(plan, [requests[number] for number in numbers], lookups, slots, made, asked), plans)
