"""Select: each arm's rows at each budget, validated before they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.arm import Arm
from curate.composition import compose
from curate.core import Artifact, Budget, Certificate, Features, Integers, Selection
from curate.data.examples import opened
from curate.errors import DataError, about
from curate.features import features_of, map_tensors, open_features
from curate.interfaces import Context
from curate.journal import JournalFile
from curate.pipelines.session import Session
from curate.store import Store, Workspace

STATE = "state.safetensors"


@dataclass(frozen=True)
class Given:
    """The artifacts that a selection reads: examples, and the pool's and the target's numbers, or similarities and the target rows of their columns."""

    pool: Artifact
    target: Artifact
    vectors: tuple[Artifact, Artifact] | None = None
    scores: Artifact | None = None
    similarity: tuple[Artifact, Integers] | None = None
    metric: Literal["cosine", "inner"] = "cosine"  # how the vectors are meant to be compared
    previous: Artifact | None = None  # the selection of the pool before its last step of growth

    def keys(self) -> list[str]:
        """Of all of them, pool and target first."""
        numbers = (*(self.vectors or ()), self.scores, self.similarity[0] if self.similarity else None)
        return [self.pool.key, self.target.key] + [artifact.key for artifact in numbers if artifact]

    def features(self) -> tuple[Features, Integers, Features | None]:
        """The pool's rows that have all numbers, their positions in the pool, and the target."""
        compared = self.similarity[0] if self.similarity else None
        pool, kept = open_features(opened(self.pool.path), self.vectors[0] if self.vectors else None, self.scores, compared)
        pool, target = replace(pool, metric=self.metric), opened(self.target.path)
        if self.vectors:
            return pool, kept, open_features(target, self.vectors[1])[0]
        return pool, kept, features_of(target, self.similarity[1]) if self.similarity else None

    def record(self) -> dict[str, Any]:
        """What `recorded` finds them by."""
        compared = {"key": self.similarity[0].key, "columns": [int(row) for row in self.similarity[1]]} if self.similarity else None
        return {
            "pool": self.pool.key,
            "target": self.target.key,
            "vectors": [artifact.key for artifact in self.vectors] if self.vectors else None,
            "scores": self.scores.key if self.scores else None,
            "similarity": compared,
            "metric": self.metric,
        }


def recorded(store: Store, record: Mapping[str, Any]) -> Given:
    """What a stored selection was made from; DataError if something is not in the store."""

    def find(key: str) -> Artifact:
        found = store.find(key)
        if found is None:
            raise DataError(f"{store.root / key} is missing or damaged; run the recipe again to compute it")
        return found

    vectors, similarity = record["vectors"], record["similarity"]
    return Given(
        find(record["pool"]),
        find(record["target"]),
        (find(vectors[0]), find(vectors[1])) if vectors else None,
        find(record["scores"]) if record["scores"] else None,
        (find(similarity["key"]), np.asarray(similarity["columns"], np.int64)) if similarity else None,
        record["metric"],
    )


def select(session: Session, name: str, arm: Arm, budget: Budget, seed: int, given: Given) -> Artifact:
    """One arm's selection; decisions that are dear to repeat are kept beside it as they are made."""
    used, previous = seed if arm.seeded else 0, given.previous if given.previous and (given.previous.path / STATE).is_file() else None

    def make(workspace: Workspace) -> Mapping[str, Any]:
        features, kept, target = given.features()
        check_budget(budget, features, f"arm {name}")
        journal = JournalFile(workspace.path / "decisions.jsonl")
        context = Context(seed=used, device=session.device, cluster=session.cluster, journal=journal, folder=session.folder)
        context = replace(context, previous=read_state(previous)) if previous else context
        with about(f"arm {name}"):
            chosen = compose(arm.selector, features, budget, rules=arm.rules, filters=arm.filters, target=target, context=context).validate(features, budget)
        workspace.write("selection.parquet", selection_bytes(chosen, features, kept))
        if chosen.state:
            workspace.write(STATE, state_bytes(chosen.state))
        return {**describe(chosen, features), "given": given.record()}

    files = {selector.name: dict(found) for selector in arm.selectors if (found := selector.inputs(session.folder))}
    fields = {**arm.fields(), "budget": str(budget), "seed": used, **({"files": files} if files else {})}
    inputs = given.keys() + ([previous.key] if previous else [])
    return session.build("selection", f"{name} {budget} seed {seed}", make, fields=fields, inputs=inputs, version=arm.selector.version)


def state_bytes(state: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays of numbers as safetensors; text (N,) as rows of UTF-8, padded with zeros."""
    from safetensors.numpy import save

    def plain(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind != "U":
            return np.ascontiguousarray(array)
        coded = np.char.encode(array, "utf-8")
        return np.frombuffer(coded.tobytes(), np.uint8).reshape(len(coded), coded.dtype.itemsize)

    return save({name: plain(array) for name, array in state.items()})


def read_state(artifact: Artifact) -> dict[str, NDArray[Any]]:
    """What `state_bytes` wrote; `ids` are text again."""
    tensors = {name: np.array(tensor) for name, tensor in map_tensors(artifact.path / STATE).items()}
    coded = tensors["ids"]
    return tensors | {"ids": np.char.decode(np.frombuffer(coded.tobytes(), f"S{coded.shape[1]}"), "utf-8")}


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
        "curves": {name: [float(value) for value in values] for name, values in chosen.curves.items()},
        "certificate": certificate_fields(certificate) if certificate else None,
    }


def certificate_fields(certificate: Certificate) -> dict[str, Any]:
    """A certificate as it is stored; a number that is not finite is null."""
    numbers = {name: _finite(getattr(certificate, name)) for name in ("objective", "bound", "gap")}
    return {"kind": certificate.kind, "sense": certificate.sense, **numbers, "details": {name: _finite(value) for name, value in certificate.details.items()}}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def read_selection(artifact: Artifact) -> Mapping[str, Any]:
    """The columns of a stored selection as arrays, best first."""
    import pyarrow.parquet as pq

    table = pq.read_table(artifact.path / "selection.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}
