"""Controls: random rows that share with an arm's selection what could explain its success without any skill, its lengths or its sources."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from curate.core import Artifact
from curate.data.examples import opened
from curate.features import open_features
from curate.matched import length_matched, source_matched
from curate.pipelines.cells import Chosen, label_of
from curate.pipelines.select import describe, read_selection, selection_bytes
from curate.pipelines.session import Session
from curate.recipe import Control, Recipe
from curate.store import Workspace

_DRAWS = {"length_matched_random": length_matched, "source_matched_random": source_matched}


def controls_of(session: Session, recipe: Recipe, pool: Artifact, one: Chosen) -> list[Chosen]:
    """The controls that the recipe wants of this selection."""
    return [_control(session, control, pool, one) for control in recipe.controls if one.arm in recipe.controlled(control)]


def _control(session: Session, control: Control, pool: Artifact, one: Chosen) -> Chosen:
    name = f"{control}:{one.arm}"

    def make(workspace: Workspace) -> Mapping[str, Any]:
        features, kept = open_features(opened(pool.path))
        rows = np.searchsorted(kept, read_selection(one.artifact)["row"])
        drawn = _DRAWS[control](features, rows, one.budget, one.seed)
        workspace.write("selection.parquet", selection_bytes(drawn, features, kept))
        return describe(drawn, features)

    label = label_of(name, one.target, str(one.budget), one.seed)
    fields = {"control": control, "budget": str(one.budget), "seed": one.seed}
    artifact = session.build("control", label, make, fields=fields, inputs=[pool.key, one.artifact.key])
    return Chosen(name, one.budget, one.seed, artifact, one.target, matched_to=one.arm)
