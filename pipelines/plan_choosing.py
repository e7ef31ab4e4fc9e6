"""Measuring how long selectors take: each arm selects from pools of growing size, with features like those of a small rehearsal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curate.arm import Arm
from curate.core import Artifact, Budget
from curate.errors import CurateError
from curate.pipelines.experiment import run
from curate.pipelines.measure import Scene, resident
from curate.pipelines.plan_found import without_sources
from curate.rules import NO_RULES
from curate.selectors.choice import Choice, Similarity
from curate.store import seconds_to_build

RANDOM = "random"


@dataclass
class Choosing:
    """What one arm took of the pools it was tried on, by budget of the recipe; `unknown` says why it was not tried, or not on the largest."""

    seconds: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # (rows, seconds)
    memory: list[tuple[int, float]] = field(default_factory=list)  # (rows, bytes beyond what the process held before)
    bytes: list[tuple[int, float]] = field(default_factory=list)  # (rows taken, bytes on disk)
    held: int = 0  # bytes before
    unknown: str = ""


@dataclass(frozen=True)
class Tryout:
    """Pools of growing size with what else a selection needs."""

    scene: Scene
    given: Sequence[Mapping[str, Artifact]]
    scored: Mapping[tuple[str, str], Sequence[Artifact]]
    budgets: Mapping[str, Budget]  # of the recipe, as shares of the pool


def asks(arm: Arm) -> bool:
    """Whether it has a language model decide, which costs money or minutes for each decision and so is not tried out."""
    return any(isinstance(selector, Choice) and not isinstance(selector.chooser, Similarity) for selector in arm.selectors)


def rehearse_choosing(tryout: Tryout) -> dict[str, Choosing]:
    """Every arm on every pool, until the next one would take it too long; rules that name rows are left out, for a miniature lacks them."""
    recipe = tryout.scene.recipe
    arms = {name: arm.model_copy(update={"rules": arm.rules.model_copy(update={"force": []})}) for name, arm in recipe.arms.items()}
    found = {name: Choosing(unknown="it asks a language model for every row" if name in arms and asks(arms[name]) else "") for name in (RANDOM, *arms)}
    for name in (RANDOM, *(name for name, arm in arms.items() if not asks(arm))):
        spent, before = 0.0, 1
        for number, given in enumerate(tryout.given):
            rows = _rows(given)
            if number > 1 and spent * (rows / before) ** 2 > tryout.scene.seconds / len(found):
                break
            _try(tryout, given, {} if name == RANDOM else {name: arms[name]}, found[name])
            spent, before = max((points[-1][1] for points in found[name].seconds.values()), default=0.0), rows
    return found


def _rows(given: Mapping[str, Artifact]) -> int:
    return int(given["pool"].manifest["summary"]["used"])


def _try(tryout: Tryout, given: Mapping[str, Artifact], arms: Mapping[str, Arm], one: Choosing) -> None:
    """One arm on one pool; a quota that these rows cannot keep is left out, and what still fails has no forecast."""
    for attempt in (arms, {name: arm.model_copy(update={"rules": NO_RULES}) for name, arm in arms.items()}):
        try:
            _measure(tryout, given, attempt, one)
            return
        except CurateError as error:
            one.unknown = f"it cannot be tried on {_rows(given)} rows: {error}"


def _measure(tryout: Tryout, given: Mapping[str, Artifact], arms: Mapping[str, Arm], one: Choosing) -> None:
    session, rows, before = tryout.scene.session(given, tryout.scored), _rows(given), resident()
    budgets = {name: budget.model_copy(update={"amount": max(budget.amount, 1.001 / rows)}) for name, budget in tryout.budgets.items()}
    distinct = list({str(budget): budget for budget in budgets.values()}.values())
    baselines = [] if arms else [RANDOM]
    small = without_sources(tryout.scene.recipe, arms=dict(arms), evaluate=[], baselines=baselines, budgets=distinct, seeds=[0])
    chosen = run(small, session, "select").chosen
    for name, budget in budgets.items():
        mine = {picked.artifact.key: picked.artifact for picked in chosen if str(picked.budget) == str(budget)}
        one.seconds.setdefault(name, []).append((rows, sum(map(seconds_to_build, mine.values())) / len(mine)))
    pieces = [piece for piece in session.pieces if piece.stage == "selection"]
    one.held = before
    one.memory.append((rows, float(max(0, max(piece.memory for piece in pieces) - before))))
    one.bytes += [(piece.artifact.manifest["summary"]["rows"], float(piece.bytes)) for piece in pieces]
    one.unknown = ""
