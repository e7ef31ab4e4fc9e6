"""The plan that lies in a run's folder, from when it was made until the run's report holds it against what happened."""

from pathlib import Path

from curate.recipe import Recipe
from curate.report.planned import PLAN, Plan
from curate.store import atomic_write, canonical, digest


def recipe_digest(recipe: Recipe) -> str:
    """What tells a plan of this recipe from one of another."""
    return digest(canonical(recipe.model_dump(mode="json")))


def write_plan(directory: Path, plan: Plan) -> None:
    """Keep the plan for the report; one that has nothing left to compute would foretell nothing, and leaves an earlier one in its place."""
    if any(line.missing for line in plan.planned):
        atomic_write(directory / PLAN, plan.model_dump_json(indent=1).encode())


def read_plan(directory: Path, recipe: Recipe) -> Plan | None:
    """The plan that was made of exactly this recipe; None where there is none, or it is of another version of curate."""
    file = directory / PLAN
    if not file.is_file():
        return None
    try:
        plan = Plan.model_validate_json(file.read_bytes())
    except ValueError:
        return None
    return plan if plan.digest == recipe_digest(recipe) else None
