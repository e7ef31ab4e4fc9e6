"""Select: each arm's rows at each budget, validated before they are stored."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from curate.core import Artifact, Budget, Certificate, Examples, Features, Integers, Selection
from curate.errors import DataError
from curate.features import open_features
from curate.interfaces import Context, Selector
from curate.pipelines.session import Session
from curate.store import Workspace


def select(
    session: Session,
    arm: str,
    selector: Selector,
    budget: Budget,
    seed: int,
    pool: tuple[Artifact, Examples],
    target: tuple[Artifact, Examples],
    *,
    vectors: tuple[Artifact, Artifact] | None = None,
    scores: Artifact | None = None,
    similarity: tuple[Artifact, Integers] | None = None,
) -> Artifact:
    """One arm's selection; `vectors` are the pool's and the target's, and give way to a similarity with the target rows of its columns."""
    used = seed if selector.seeded else 0
    if similarity:
        vectors = None
    inputs = [pool[0].key, target[0].key] + [artifact.key for artifact in (*(vectors or ()), scores, similarity[0] if similarity else None) if artifact]

    def make(workspace: Workspace) -> Mapping[str, Any]:
        features, kept = open_features(pool[1], vectors[0] if vectors else None, scores, similarity[0] if similarity else None)
        wanted = open_features(target[1], vectors[1])[0] if vectors else only(target[1], similarity[1]) if similarity else None
        check_budget(budget, features, f"arm {arm}")
        chosen = selector.select(features, budget, target=wanted, context=Context(seed=used, device=session.device)).validate(features, budget)
        workspace.write("selection.parquet", selection_bytes(chosen, features, kept))
        return describe(chosen, features)

    fields = {"selector": selector.model_dump(mode="json"), "budget": str(budget), "seed": used}
    return session.build("selection", f"{arm} {budget} seed {seed}", make, fields=fields, inputs=inputs, version=selector.version)


def only(examples: Examples, rows: Integers) -> Features:
    """These rows without any numbers."""
    return Features(examples.ids[rows], examples.lengths[rows], groups=examples.groups[rows], supervised=examples.supervised[rows])


def check_budget(budget: Budget, pool: Features, name: str) -> None:
    """DataError if the budget is less than the cheapest row of the pool, or more than all of its rows."""
    costs, capacity = budget.costs(pool)
    if len(costs) and capacity < costs.min():
        raise DataError(f"{name}: budget {budget} does not reach for a single row; the cheapest costs {costs.min()}: raise the budget")
    if budget.unit != "fraction" and budget.amount > costs.sum():
        tokens = "" if budget.unit == "rows" else f"{costs.sum()} {budget.unit} of the "
        raise DataError(f"{name}: budget {budget} is more than the {tokens}{len(pool)} usable rows; lower it, or ask for 100%")


def selection_bytes(chosen: Selection, features: Features, kept: Integers) -> bytes:
    """The kept rows best first, as parquet: id, position in the pool, weight, gain and score."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = chosen.indices
    table = pa.table(
        {
            "id": [str(row) for row in features.ids[rows]],
            "row": kept[rows],
            "weight": chosen.weights,
            "gain": chosen.gains if chosen.gains is not None else pa.nulls(len(rows), pa.float64()),
            "score": features.scores[rows] if features.scores is not None else pa.nulls(len(rows), pa.float64()),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def describe(chosen: Selection, features: Features) -> dict[str, Any]:
    """What a table says of a selection."""
    rows = chosen.indices
    names, counts = np.unique(features.groups[rows], return_counts=True)
    certificate: Certificate | None = chosen.certificate
    return {
        "rows": len(rows),
        "tokens": int(features.lengths[rows].sum()),
        "supervised_tokens": int(features.supervised[rows].sum()),
        "groups": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        "prefix_consistent": chosen.prefix_consistent,
        "certificate": {
            "kind": certificate.kind,
            "sense": certificate.sense,
            **{name: _finite(getattr(certificate, name)) for name in ("objective", "bound", "gap")},
            "details": {name: _finite(value) for name, value in certificate.details.items()},
        }
        if certificate
        else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def read_selection(artifact: Artifact) -> Mapping[str, Any]:
    """The columns of a stored selection as arrays, best first."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.path / "selection.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}
