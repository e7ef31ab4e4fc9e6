"""What the three renderers show, before any formatting: comparisons by target and budget, rows taken, certificates."""

from collections.abc import Iterable, Sequence
from statistics import fmean, variance
from typing import Literal, NamedTuple

from curate.report.results import CertificateRow, Comparison, Results, SelectionRow

LEVEL = 0.05  # a p below it is a claim
REFERENCES = ("zero_shot", "random", "full")  # shown first, in this order
LOWER_IS_BETTER = ("nll", "loss", "perplexity")
_NAMED_KINDS = 8

Task = tuple[str, str]  # task, metric
Outcome = Literal["better", "worse", "unclear", ""]


class Section(NamedTuple):
    """All arms at one target and budget: which tasks, which arms in order, and their comparisons."""

    target: str
    budget: str
    tasks: list[Task]
    arms: list[str]
    entries: dict[tuple[str, Task], Comparison]


class Taken(NamedTuple):
    """What an arm took, averaged over its seeds; `counts` follow the names of the kinds."""

    rows: float
    tokens: float
    supervised_tokens: float
    train_tokens: float
    counts: list[float]


class Kinds(NamedTuple):
    """The groups of the pool that matter most to any arm, the others as one, and who took how many."""

    names: list[str]
    pool: Taken
    arms: dict[str, Taken]


class Proof(NamedTuple):
    """The certificate of an arm; with several seeds, that of the seed furthest from its bound."""

    target: str
    budget: str
    arm: str
    seeds: int
    certificate: CertificateRow


def higher_is_better(results: Results) -> dict[Task, bool]:
    """The direction of every task, as its cells say, or as its metric's name does."""
    known = {(c.task, c.metric): c.metric not in LOWER_IS_BETTER for c in results.comparisons}
    return known | {(score.task, score.metric): score.higher_is_better for cell in results.cells for score in cell.tasks}


def outcome(entry: Comparison, better_up: bool) -> Outcome:
    """Whether the difference is told from zero, and on which side, after the correction for many comparisons; empty for the baseline itself."""
    kind = alone(entry, better_up)
    return "unclear" if kind and entry.adjusted is not None and entry.adjusted >= LEVEL else kind


def word(entry: Comparison, better_up: bool) -> str:
    """The outcome; `better alone` where the interval excludes zero and the correction for many comparisons does not uphold it."""
    kind, final = alone(entry, better_up), outcome(entry, better_up)
    return kind if kind == final else f"{kind} alone"


def alone(entry: Comparison, better_up: bool) -> Outcome:
    """The same by the interval alone."""
    if entry.difference is None or entry.low is None or entry.high is None:
        return ""
    if entry.low <= 0 <= entry.high:
        return "unclear"
    return "better" if (entry.difference > 0) == better_up else "worse"


def controls(results: Results) -> set[str]:
    """Arms that only copy the lengths or sources of another."""
    return {row.arm for row in results.selections if row.matched_to} | {c.baseline for c in results.controlled}


def sections(results: Results) -> list[Section]:
    """One per target and budget, in the order of the run; references first, then arms by their first task, best first."""
    scored = [*_from_cells(results), *results.comparisons]
    budgets = list(dict.fromkeys(c.budget for c in scored if c.budget and c.arm not in ("zero_shot", "full"))) or [""]
    named = [*results.targets, *(c.target for c in scored if c.target)]
    found = {c.target for c in scored if c.target}
    targets = [target for target in dict.fromkeys(named) if target in found] or [""]
    return [made for target in targets for budget in budgets if (made := _section(results, scored, target, budget, budgets)).arms]


def ordered_tasks(parts: Sequence[Section]) -> list[Task]:
    """What people want to get better at first: every task of the sections, likelihoods and losses after the others."""
    return sorted(dict.fromkeys(task for part in parts for task in part.tasks), key=lambda task: task[1] in LOWER_IS_BETTER)


def without_controls(results: Results) -> list[Section]:
    """The same without the controls, which are compared with their own arms."""
    copies = controls(results)
    return [
        section._replace(
            arms=[arm for arm in section.arms if arm not in copies],
            entries={place: entry for place, entry in section.entries.items() if place[0] not in copies},
        )
        for section in sections(results)
    ]


def kinds(results: Results, section: Section) -> Kinds | None:
    """Rows by group for the pool and each arm of a section, averaged over seeds."""
    rows = {arm: _at(results.selections, arm, section) for arm in section.arms}
    taken = {arm: found for arm, found in rows.items() if found}
    if not taken:
        return None
    counts = {arm: {group: fmean(s.groups.get(group, 0) for s in found) for group in {g for s in found for g in s.groups}} for arm, found in taken.items()}
    everything: list[dict[str, float]] = [{g: float(n) for g, n in results.pool.groups.items()}, *counts.values()]
    share = {g: max(c.get(g, 0) / max(sum(c.values()), 1) for c in everything) for c in everything for g in c}
    named = sorted(share, key=lambda g: (-share[g], g))
    named = named if len(named) <= _NAMED_KINDS + 1 else named[:_NAMED_KINDS]
    named.sort(key=lambda g: (-results.pool.groups.get(g, 0), g))
    others = len(share) - len(named)

    def fold(count: dict[str, float]) -> list[float]:
        rest = [sum(count.values()) - sum(count.get(g, 0) for g in named)] if others else []
        return [*(count.get(g, 0) for g in named), *rest]

    pool = results.pool
    return Kinds(
        [*named, *([f"{others} others"] if others else [])],
        Taken(pool.used, pool.tokens, pool.supervised_tokens, 0, fold(everything[0])),
        {arm: _taken(found, _trained(results, arm, section), fold(counts[arm])) for arm, found in taken.items()},
    )


def proofs(results: Results) -> list[Proof]:
    """Every certified arm, in the order of the run."""
    groups: dict[tuple[str, str, str, str], list[CertificateRow]] = {}
    for row in results.selections:
        if row.certificate is not None:
            groups.setdefault((row.target or "", row.budget, row.arm, row.certificate.kind), []).append(row.certificate)
    return [
        Proof(target, budget, arm, len(found), max(found, key=lambda c: float("inf") if c.gap is None else c.gap))
        for (target, budget, arm, _), found in groups.items()
    ]


def _section(results: Results, scored: list[Comparison], target: str, budget: str, budgets: list[str]) -> Section:
    entries: dict[tuple[str, Task], Comparison] = {}
    fit: dict[tuple[str, Task], int] = {}
    for entry in scored:
        # A reference without a budget of this table (zero_shot; full at 100%) stands in every table.
        general = not entry.budget or (entry.arm in REFERENCES and entry.budget not in budgets)
        if (entry.target or target) != target or (entry.budget != budget and not general):
            continue
        at, precision = (entry.arm, (entry.task, entry.metric)), 2 * (entry.budget == budget) + bool(entry.target)
        if precision >= fit.get(at, 0):
            entries[at], fit[at] = entry, precision
    # What only references and arms that heed no target were tested on belongs to another target's arms.
    ours = {at: entry for at, entry in entries.items() if at[0] not in REFERENCES}
    own = {task for (_, task), entry in ours.items() if (entry.target or "") == target} or {task for _, task in ours}
    entries = {at: entry for at, entry in entries.items() if not own or at[1] in own}
    tasks = list(dict.fromkeys((c.task, c.metric) for c in [*results.comparisons, *scored] if (c.arm, (c.task, c.metric)) in entries))
    arms = list(dict.fromkeys(arm for arm, _ in entries))
    better_up = higher_is_better(results)

    def place(arm: str) -> tuple[int, float, str]:
        if arm in REFERENCES:
            return REFERENCES.index(arm), 0.0, arm
        first = entries.get((arm, tasks[0]))
        return (len(REFERENCES), -first.mean if better_up[tasks[0]] else first.mean, arm) if first else (len(REFERENCES) + 1, 0.0, arm)

    return Section(target, budget, tasks, sorted(arms, key=place), entries)


def _from_cells(results: Results) -> Iterable[Comparison]:
    """Scores of arms that no comparison covers (a run that was cut short), over the seeds that there are."""
    covered = {(c.arm, c.budget, c.target, c.task, c.metric) for c in results.comparisons}
    groups: dict[tuple[str, str, str | None, str, str], list[tuple[float, float | None, int]]] = {}
    for cell in results.cells:
        for s in cell.tasks:
            groups.setdefault((cell.arm, cell.budget, cell.target, s.task, s.metric), []).append((s.mean, s.standard_error, s.n))
    for (arm, budget, target, task, metric), found in groups.items():
        if (arm, budget, target, task, metric) in covered:
            continue
        means, errors = [mean for mean, _, _ in found], [error**2 for _, error, _ in found if error is not None]
        # Seeds and items both vary; their sum counts what they share twice, which errs on the safe side.
        spread = (variance(means) / len(means) if len(means) > 1 else 0.0) + (fmean(errors) if errors else 0.0)
        error = spread**0.5 if errors or len(means) > 1 else None
        yield Comparison(
            task=task, metric=metric, budget=budget, arm=arm, target=target, mean=fmean(means), standard_error=error, seeds=len(found), n=found[0][2]
        )


def _at(rows: list[SelectionRow], arm: str, section: Section) -> list[SelectionRow]:
    mine = [row for row in rows if row.arm == arm and (row.target or section.target) == section.target]
    exact = [row for row in mine if row.budget == section.budget]
    return exact or [row for row in mine if not row.budget or arm in ("zero_shot", "full")]


def _trained(results: Results, arm: str, section: Section) -> float:
    cells = [c for c in results.cells if c.arm == arm and (c.target or section.target) == section.target and c.budget in ("", section.budget)]
    return fmean(c.train_tokens for c in cells) if cells else 0.0


def _taken(found: list[SelectionRow], trained: float, counts: list[float]) -> Taken:
    return Taken(fmean(s.rows for s in found), fmean(s.tokens for s in found), fmean(s.supervised_tokens for s in found), trained, counts)
