"""Pilot: a few rows scored exactly and sketched, to choose the width of a sketch and to say how faithful it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Artifact, Row
from curate.data.examples import opened
from curate.errors import NumericError
from curate.fidelity import agreement, faithful, law_of
from curate.gradient_scorer import GradientScorer
from curate.pipelines.score import micro_batch_tokens
from curate.pipelines.session import Session
from curate.pipelines.state import Inputs, StateTask, drawn, sample, target_rows
from curate.store import Workspace, canonical, read_json

POOL_ROWS, TARGET_ROWS = 400, 48
NARROWEST, WIDEST = 1024, 32768  # the widths that auto chooses from


@dataclass(frozen=True)
class PilotTask:
    """A pilot, as a worker gets it."""

    scorer: GradientScorer
    inputs: Inputs
    workspace: Path


def pilot(session: Session, label: str, scorer: GradientScorer, inputs: Inputs) -> tuple[GradientScorer, Mapping[str, Any], Artifact]:
    """The scorer with its width settled, how faithful the pilot found it, and the artifact that says so."""

    def make(workspace: Workspace) -> Mapping[str, Any]:
        return next(iter(session.cluster.map(run_pilot, [PilotTask(scorer, inputs, workspace.path)], label=f"{label} (pilot)")))

    fields = {**inputs.fields(scorer), "rows": POOL_ROWS, "targets": TARGET_ROWS, "micro_batch_tokens": micro_batch_tokens(session.device)}
    keys = [inputs.pool.key, inputs.target.key, *inputs.keys]
    artifact = session.build("pilot", f"{label} (pilot)", make, fields=fields, inputs=keys, version=scorer.version)
    found = read_json(artifact.path / "pilot.json")
    return scorer.model_copy(update={"width": int(found["width"])}), found, artifact


def run_pilot(task: PilotTask) -> dict[str, Any]:
    """Score the pilot's rows both ways in this process, and write what came of it."""
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
    context = replace(inputs.context(wide, None), target=targets)
    tokens = micro_batch_tokens(inputs.device)
    preparing = StateTask(exact_scorer, inputs, task.workspace, tokens)
    exact_context = replace(context, state=exact_scorer.prepare(sample(preparing, context), context))
    state = {key.removeprefix("of:"): value for key, value in (exact_context.state or {}).items() if key.startswith("of:")} or None
    both = [(exact_scorer, exact_context), (wide, replace(context, state=state))]  # which share their passes
    exact, ours = _in_batches(rows, tokens, lambda some: score_rows(both, some))
    kept = np.asarray((exact_context.state or {})["columns"].cpu())
    (goal,) = _in_batches(targets, tokens, lambda some: score_rows([(wide, replace(context, state=state, role="target"))], some))
    theirs = goal[kept]
    usable = np.asarray(np.isfinite(exact).all(1) & np.isfinite(ours).all(1))
    if usable.sum() < 2:
        raise NumericError(f"{scorer.name}: of {len(rows)} rows drawn for a pilot fewer than two gave finite, non-zero numbers; look at the pool's answers")
    exact, ours = exact[usable], ours[usable]
    law = law_of(exact, ours, theirs)
    widths = [1 << power for power in range(NARROWEST.bit_length() - 1, WIDEST.bit_length())] if choosing else [given]
    widths = sorted({*widths, given})
    measured = {}
    for width in widths:
        folded = [fold(torch.from_numpy(part), width).numpy() for part in (ours, theirs)] if choosing else [ours, theirs]
        measured[width] = {**agreement(exact, folded[0] @ folded[1].T), "pearson_by_law": law.pearson(width)}
    wanted = law.width()
    enough = next((width for width in widths if width >= wanted and faithful(measured[width])), None)
    chosen = (enough or widths[-1]) if scorer.width == "auto" else given
    found: dict[str, Any] = {"rows": len(exact), "targets": len(theirs), "width": chosen, "faithful": faithful(measured[chosen]), **measured[chosen]}
    found |= {"width_by_law": wanted, "width_that_would": enough or max(wanted, 2 * widths[-1]), "spread": law.spread}
    found |= {"by_width": {str(width): values for width, values in measured.items()}}
    Workspace(task.workspace).write("pilot.json", canonical(found))
    return {name: found[name] for name in ("rows", "targets", "width", "faithful")}


def _in_batches(rows: Sequence[Row], tokens: int, score: Any) -> list[NDArray[np.float64]]:
    from curate.model import micro_batches

    order = list(micro_batches(np.array([len(row.input_ids) for row in rows], np.int64), tokens))
    back = np.argsort(np.concatenate(order), kind="stable")
    found = zip(*(score([rows[int(i)] for i in batch]) for batch in order), strict=True)
    return [np.concatenate(parts).astype(np.float64)[back] for parts in found]
