"""Pilot: a few rows scored exactly and sketched, to choose the width of a sketch and to say how faithful it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Row
from curate.data.examples import opened
from curate.errors import NumericError, about
from curate.fidelity import agreement, faithful, law_of
from curate.gradient_scorer import GradientScorer
from curate.parts import Parts
from curate.pipelines.score import micro_batch_tokens
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, drawn, target_rows
from curate.store import Workspace, canonical, read_json

POOL_ROWS, TARGET_ROWS = 400, 48
NARROWEST, WIDEST = 1024, 32768  # the widths that auto chooses from


@dataclass(frozen=True)
class PilotTask:
    """A pilot, as a worker gets it."""

    label: str
    scorer: GradientScorer
    inputs: Inputs
    state: Path | None
    workspace: Path


def pilot(session: Session, label: str, scorer: GradientScorer, inputs: Inputs, state: Artifact | None) -> tuple[GradientScorer, Mapping[str, Any]]:
    """The scorer with its width settled, and how faithful the pilot found it; `state` is the scorer's, which no width changes."""

    def make(workspace: Workspace) -> Mapping[str, Any]:
        task = PilotTask(label, scorer, inputs, state.path if state else None, workspace.path)
        return next(iter(session.cluster.map(run_pilot, [task], label=f"{label} (pilot)")))

    fields = {**inputs.fields(scorer), "rows": POOL_ROWS, "targets": TARGET_ROWS, "micro_batch_tokens": micro_batch_tokens(session.device)}
    keys = [inputs.pool.key, inputs.target.key, *inputs.keys, *([state.key] if state else [])]
    artifact = session.build("pilot", f"{label} (pilot)", make, fields=fields, inputs=keys, version=scorer.version)
    found = read_json(artifact.path / "pilot.json")
    return scorer.model_copy(update={"width": int(found["width"])}), found


def run_pilot(task: PilotTask) -> dict[str, Any]:
    """Score the pilot's rows both ways in this process, and write what came of it."""
    with about(f"feature {task.label}"):
        found = measured(task)
    Workspace(task.workspace).write("pilot.json", canonical(found))
    return {name: found[name] for name in ("rows", "targets", "width", "faithful")}


def measured(task: PilotTask) -> dict[str, Any]:
    """What a pilot finds: the width that is chosen, and how its similarities and those of other widths agree with the exact ones."""
    import torch

    from curate.exact_similarity import ExactSimilarity
    from curate.projection import fold
    from curate.rowwise import score_rows

    scorer, inputs = task.scorer, task.inputs
    pool, everything = opened(inputs.pool.path), target_rows(inputs.target.path)
    rows = [pool.rows[int(i)] for i in drawn(pool, POOL_ROWS)]
    targets = [everything[int(i)] for i in np.sort(drawn(opened(inputs.target.path), TARGET_ROWS))]
    given = scorer.numbers
    choosing = scorer.projection == "sketch" and WIDEST % given == 0  # a sketch holds those of its width's divisors
    wide = scorer.model_copy(update={"width": WIDEST}) if choosing else scorer
    exact_scorer = ExactSimilarity(of=wide)
    context = replace(inputs.context(wide, task.state), target=targets)
    within = replace(inputs.context(exact_scorer, None, task.state), target=targets)
    block = exact_scorer.prepare((), within)
    both = [(exact_scorer, replace(within, state=Parts({**(within.state or {}), **block}))), (wide, context)]  # which share their passes
    tokens = micro_batch_tokens(inputs.device)
    exact, ours = _in_batches(rows, tokens, lambda some: score_rows(both, some))
    (goal,) = _in_batches(targets, tokens, lambda some: score_rows([(wide, replace(context, role="target"))], some))
    theirs = goal[np.asarray(block["columns"].cpu())]
    usable = np.asarray(np.isfinite(exact).all(1) & np.isfinite(ours).all(1))
    if usable.sum() < 2:
        raise NumericError(f"{scorer.name}: of {len(rows)} rows drawn for a pilot fewer than two gave finite, non-zero numbers; look at the pool's answers")
    exact, ours = exact[usable], ours[usable]
    law = law_of(exact, ours, theirs)
    widths = [1 << power for power in range(NARROWEST.bit_length() - 1, WIDEST.bit_length())] if choosing else [given]
    widths = sorted({*widths, given})
    by_width = {}
    for width in widths:
        folded = [fold(torch.from_numpy(part), width).numpy() for part in (ours, theirs)] if choosing else [ours, theirs]
        by_width[width] = {**agreement(exact, folded[0] @ folded[1].T), "pearson_by_law": law.pearson(width)}
    wanted = law.width()
    enough = next((width for width in widths if width >= wanted and faithful(by_width[width])), None)
    chosen = (enough or widths[-1]) if scorer.width == "auto" else given
    found: dict[str, Any] = {"rows": len(exact), "targets": len(theirs), "width": chosen, "faithful": faithful(by_width[chosen]), **by_width[chosen]}
    found |= {"width_by_law": wanted, "width_that_would": enough or max(wanted, 2 * widths[-1]), "spread": law.spread}
    return found | {"by_width": {str(width): values for width, values in by_width.items()}}


def _in_batches(rows: Sequence[Row], tokens: int, score: Any) -> list[NDArray[np.float64]]:
    from curate.model import micro_batches

    order = list(micro_batches(np.array([len(row.input_ids) for row in rows], np.int64), tokens))
    back = np.argsort(np.concatenate(order), kind="stable")
    found = zip(*(score([rows[int(i)] for i in batch]) for batch in order), strict=True)
    return [np.concatenate(parts).astype(np.float64)[back] for parts in found]
