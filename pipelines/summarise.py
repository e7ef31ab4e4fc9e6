"""Summarise: what a run found, as the one document that every report is rendered from."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from curate import __version__
from curate.core import Artifact, Strings
from curate.data.examples import opened
from curate.data.examples import quarantined as set_aside
from curate.features import quarantined
from curate.fidelity import OVERLAP, SPEARMAN
from curate.pipelines.cells import Chosen, Outcome
from curate.pipelines.compare import compare
from curate.pipelines.describe import describe_experiment
from curate.pipelines.describe_churn import churn_of
from curate.pipelines.describe_length import length_alarms
from curate.pipelines.evaluate import AnyExamination
from curate.pipelines.examine_file import FileExamination
from curate.pipelines.experiment import Experiment
from curate.pipelines.features import Scored
from curate.pipelines.likelihood_of_target import TargetLikelihood
from curate.pipelines.plan_file import read_plan
from curate.pipelines.session import Session
from curate.pipelines.summarise_hygiene import hygiene_of
from curate.recipe import Recipe
from curate.report.leak_tables import leak_warnings
from curate.report.results import Cell, CertificateRow, DataSummary, FeatureRow, QuarantinedRow, Results, SelectionRow, Stage, TaskScore
from curate.store import seconds_to_build
from curate.strict_yaml import dump

FEW_ITEMS = 30
_UNTRAINED = {"tokens": 0, "steps": 0, "planned_tokens": 0, "best_step": None}
FIDELITY = ("spearman", "overlap", "overlap_per_target", "pearson_by_law", "width_by_law", "rows", "targets")


def summarise(recipe: Recipe, session: Session, experiment: Experiment, *, seconds: float, command: str) -> Results:
    """The results of a run; comparisons are over the same items, each arm against random."""
    compared, described, plan = compare(recipe, experiment), describe_experiment(session, experiment), read_plan(session.run_folder, recipe)
    found = hygiene_of(experiment.cleaned, experiment.chosen)
    return Results(
        name=recipe.name,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        command=command,
        hardware=hardware(session.device),
        recipe=recipe_text(recipe),
        pool=_data(experiment.pool),
        targets={aim.name or ", ".join(recipe.target): _data(aim.target) for aim in experiment.aims},
        hygiene=found,
        features=_features(session, experiment),
        churn=churn_of(session.store, experiment),
        selections=[_selection(chosen, described.longer[chosen.artifact.key]) for chosen in experiment.chosen],
        cells=[_cell(outcome) for outcome in experiment.outcomes],
        **vars(compared),
        **{name: value for name, value in vars(described).items() if name != "longer"},
        stages=[Stage(**stage) for stage in session.stages],
        planned=plan.planned if plan else [],
        paying=plan.sentences if plan else [],
        warnings=[*leak_warnings(found, recipe.hygiene.decontaminate), *_warnings(recipe, experiment), *length_alarms(recipe, experiment, described.longer)],
        quarantined=_quarantined(experiment),
    )


def recipe_text(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every default written out."""
    return dump(recipe.model_dump(mode="json", exclude_none=True))


def hardware(device: str) -> dict[str, str]:
    """The machine, as far as a reader of figures needs it."""
    import torch

    gpu = {"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        **gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _data(artifact: Artifact) -> DataSummary:
    summary = artifact.manifest["summary"]
    return DataSummary(**{name: summary[name] for name in DataSummary.model_fields if name in summary})


def _features(session: Session, experiment: Experiment) -> list[FeatureRow]:
    """Every feature once; one that depends on the target once for each, with the target's name."""
    rows: dict[str, FeatureRow] = {}
    for aim in experiment.aims:
        for name, scored in aim.features.items():
            for artifact in scored.artifacts():
                if artifact.key not in rows:
                    own = f"{name} ({aim.name})" if aim.name and scored.similarity and artifact is scored.similarity[0] else name
                    rows[artifact.key] = _feature(session, own, scored, artifact)
    return list(rows.values())


def _feature(session: Session, name: str, scored: Scored, artifact: Artifact) -> FeatureRow:
    summary = artifact.manifest["summary"]
    cached = any(stage["key"] == artifact.key and stage["cached"] for stage in session.stages)
    compared = scored.similarity is not None and artifact is scored.similarity[0]
    exact = compared and scored.scorer.output == "vectors"
    return FeatureRow(
        name=name,
        scorer=scored.scorer.name,
        output="similarity, exact" if exact else "similarity" if compared else scored.scorer.output,
        width=summary["width"],
        rows=summary["rows"],
        seconds=seconds_to_build(artifact),
        cached=cached,
        stored=summary["stored"],
        bytes=summary["bytes"],
        storage_error=summary["storage_error"],
        fidelity={} if exact else {key: float(scored.pilot[key]) for key in FIDELITY if key in scored.pilot},
    )


def _selection(chosen: Chosen, longer: float) -> SelectionRow:
    summary = chosen.artifact.manifest["summary"]
    certificate = CertificateRow(**summary["certificate"]) if summary["certificate"] else None
    return SelectionRow(
        arm=chosen.arm,
        target=chosen.target or None,
        budget=str(chosen.budget),
        seed=chosen.seed,
        certificate=certificate,
        longer=longer,
        matched_to=chosen.matched_to,
        key=chosen.artifact.key,
        seconds=seconds_to_build(chosen.artifact),
        **{name: summary[name] for name in ("rows", "tokens", "supervised_tokens", "groups")},
    )


def _cell(outcome: Outcome) -> Cell:
    trained: Mapping[str, Any] = outcome.checkpoint.manifest["summary"] if outcome.checkpoint else _UNTRAINED
    metrics = ("metric", "mean", "standard_error", "n", "higher_is_better")
    tasks = [TaskScore(task=label, **{name: artifact.manifest["summary"][name] for name in metrics}) for label, artifact in outcome.evaluations.items()]
    seconds = sum(seconds_to_build(artifact) for artifact in (outcome.checkpoint, *outcome.evaluations.values()) if artifact)
    return Cell(
        arm=outcome.arm,
        budget=outcome.budget,
        seed=outcome.seed,
        target=outcome.target or None,
        tasks=tasks,
        train_tokens=trained["tokens"],
        planned_tokens=trained["planned_tokens"],
        steps=trained["steps"],
        stopped_at=trained["best_step"],
        failed=outcome.failed,
        seconds=round(seconds, 3),
        key=outcome.checkpoint.key if outcome.checkpoint else "",
    )


def _shared(few: Strings, many: Strings) -> int:
    """How many of `few` are among `many`, which are sorted; without a set of a million strings."""
    place = np.searchsorted(many, few).clip(max=max(0, len(many) - 1))
    return int((many[place] == few).sum()) if len(many) else 0


def _unfaithful(name: str, pilot: Mapping[str, Any]) -> list[str]:
    """What to say of a sketch that ranks otherwise than the exact similarities."""
    if not pilot or pilot["faithful"]:
        return []
    return [
        f"feature {name}: at width {pilot['width']} the sketch ranks the pilot's {pilot['rows']} rows at Spearman {pilot['spearman']:.2f} to the exact "
        f"similarities, and {pilot['overlap']:.0%} of the top 5% agree (wanted: {SPEARMAN} and {OVERLAP:.0%}); width {pilot['width_that_would']} "
        "would do. Arms that only compare with the target can read exact similarities instead"
    ]


def _quarantined(experiment: Experiment) -> list[QuarantinedRow]:
    parts = [("pool", experiment.pool), *((f"target {aim.name}".strip(), aim.target) for aim in experiment.aims)]
    unread = [QuarantinedRow(part=part, **row) for part, artifact in parts for row in set_aside(artifact.path)]
    for aim in experiment.aims:
        for name, scored in aim.features.items():
            unread += [QuarantinedRow(part=name, id=row, reason=reason) for artifact in scored.artifacts() for row, reason in quarantined(artifact)]
            unread += [QuarantinedRow(part=f"{name} (target {aim.name})".replace(" )", ")"), id=row, reason=reason) for row, reason in _target_aside(scored)]
    return list(dict.fromkeys(unread))


def _target_aside(scored: Scored) -> list[tuple[str, str]]:
    """(id, reason) of the target rows that the feature has no number for."""
    return scored.aside + (quarantined(scored.vectors[1]) if scored.vectors else [])


def _unshared(experiment: Experiment) -> list[str]:
    """Why evaluations ran without sharing prefixes, each reason once."""
    reasons = {artifact.manifest["summary"]["unshared"] for outcome in experiment.outcomes for artifact in outcome.evaluations.values()}
    return [f"evaluation without shared prefixes, one request at a time: {reason}" for reason in sorted(reasons) if reason]


def _lossy(experiment: Experiment) -> list[str]:
    """What is to be known of scores that went through a press, for every model."""
    found = [(outcome.label, label, artifact) for outcome in experiment.outcomes for label, artifact in outcome.evaluations.items()]
    said = [(model, label, artifact.manifest["summary"].get("lossy")) for model, label, artifact in found]
    return [f"{label} of {model} is not exact: {lossy}" for model, label, lossy in said if lossy]


def _warnings(recipe: Recipe, experiment: Experiment) -> list[str]:
    warnings = [f"{outcome.label} has no model: {outcome.failed}" for outcome in experiment.outcomes if outcome.failed]
    pool = opened(experiment.pool.path).ids
    for examination in experiment.examinations:
        warnings += _about_items(examination, pool, [opened(aim.target.path).ids for aim in experiment.aims])
    warnings += _unshared(experiment)
    warnings += _lossy(experiment)
    for aim in experiment.aims:
        for name, scored in aim.features.items():
            warnings += _about_feature(f"{name} for {aim.name}" if aim.name else name, scored)
    if recipe.model.dtype == "bfloat16" and recipe.model.lora is None:
        warnings.append("all weights were trained in bfloat16, which loses small updates: model.dtype: float32 with train.precision: bfloat16 keeps them")
    if len(recipe.seeds) == 1:
        warnings.append("one seed: intervals cover the choice of items only, not the luck of training")
    if "random" not in recipe.baselines:
        warnings.append("no random baseline: nothing says whether selection helped")
    return list(dict.fromkeys(warnings))


def _about_items(examination: AnyExamination, pool: Strings, targets: Sequence[Strings]) -> list[str]:
    """What is doubtful about the items of an evaluation."""
    if isinstance(examination, TargetLikelihood | FileExamination):  # the gate compares items of task files with pool and targets
        return []
    everything = opened(examination.items).ids
    items = everything[list(examination.rows)]
    found = []
    if shared := _shared(items, pool):
        found.append(f"{shared} of {len(items)} items of {examination.label} are also in the pool, word for word: scores on them measure memory")
    if left := sum(_shared(target, everything) for target in targets):
        found.append(f"{left} rows of {examination.label}'s data are target rows and were left out of the evaluation")
    if len(items) < FEW_ITEMS:
        found.append(f"{examination.label} asks {len(items)} items, too few for most claims: a difference must be very large to show; give it more data")
    return found


def _about_feature(name: str, scored: Scored) -> list[str]:
    """What is doubtful about the numbers of a feature."""
    found = [*scored.notes, *_unfaithful(name, scored.pilot)]
    for artifact in scored.artifacts():
        if aside := quarantined(artifact):
            found.append(f"feature {name}: {len(aside)} rows had no usable number and were set aside")
    if aside := _target_aside(scored):
        found.append(f"feature {name}: {len(aside)} target rows had no usable number and were not compared with")
    return found
