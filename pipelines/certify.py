"""Certify: every certificate of a finished run, computed again from the stored features and held against what the run said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_json

from curate.arm import Arm
from curate.composition import certify
from curate.core import Artifact, Budget
from curate.errors import IntegrityError
from curate.interfaces import Context
from curate.pipelines.check import stages_of
from curate.pipelines.select import certificate_fields, read_selection, recorded
from curate.store import Store

_CLOSE = 1e-6


@dataclass
class Certified:
    """What came of it, by the labels of the selections."""

    equal: list[str] = field(default_factory=list)
    without: dict[str, str] = field(default_factory=dict)  # selections that have no certificate, and their selector
    other_version: list[str] = field(default_factory=list)


def certify_run(directory: Path, store: Path) -> Certified:
    """Recompute all certificates of the run; IntegrityError with every one that differs."""
    found, wrong = Certified(), []
    place = Store(store)
    for label, key in _selections(stages_of(directory)):
        artifact = place.find(key)
        if artifact is None:
            raise IntegrityError(f"{store / key} is missing or damaged; run the recipe again to compute it")
        arm = arm_of(artifact.manifest["fields"])
        if arm is None or artifact.manifest["version"] != arm.selector.version or "given" not in artifact.manifest["summary"]:
            found.other_version.append(label)
            continue
        claimed = artifact.manifest["summary"]["certificate"]
        again = recertified(place, artifact, arm)
        if difference := difference_of(claimed, again):
            wrong.append(f"{label}: {difference}")
        elif claimed is None:
            found.without[label] = arm.selector.name
        else:
            found.equal.append(label)
    if wrong:
        raise IntegrityError("\n".join(wrong) + "\nthese certificates are not those of the rows: the stored selection or its record was changed")
    return found


def _selections(stages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(label, key) of every selection, each once: of a grown run an arm has two under one label, for the pool before its last step and after it."""
    last = {stage["label"]: stage["key"] for stage in stages if stage["stage"] == "selection"}
    for label, key in dict.fromkeys((stage["label"], stage["key"]) for stage in stages if stage["stage"] == "selection"):
        yield label if last[label] == key else f"{label} (before the last step of growth)", key


def arm_of(fields: Mapping[str, Any]) -> Arm | None:
    """The arm that a stored selection was made by; None if it has fields that there are no more."""
    steps = [{"selector": step["selector"], "keep": step["keep"]} for step in fields.get("filters", [])]
    try:
        return Arm.model_validate_json(to_json({"selector": fields["selector"], "filters": steps, "rules": fields.get("rules", {})}))
    except ValueError:
        return None


def recertified(store: Store, artifact: Artifact, arm: Arm) -> dict[str, Any] | None:
    """The certificate of a stored selection as its features give it; None where the method proves nothing."""
    pool, positions, target = recorded(store, artifact.manifest["summary"]["given"]).features()
    rows = np.searchsorted(positions, read_selection(artifact)["row"])
    fields = artifact.manifest["fields"]
    budget, context = Budget.parse(fields["budget"]), Context(seed=fields["seed"])
    found = certify(arm.selector, pool, budget, rows, rules=arm.rules, filters=arm.filters, target=target, context=context)
    return certificate_fields(found) if found else None


def difference_of(claimed: Mapping[str, Any] | None, again: Mapping[str, Any] | None) -> str:
    """What is other in two certificates, in words; empty where they agree."""
    if claimed is None or again is None:
        return "" if claimed is again else f"the run has {'no' if claimed is None else 'a'} certificate, the features give {'none' if again is None else 'one'}"
    if claimed["kind"] != again["kind"]:
        return f"a {claimed['kind']} is claimed, the features give a {again['kind']}"
    for name in ("objective", "bound", "gap"):
        one, other = claimed[name], again[name]
        if (one is None) != (other is None) or (one is not None and abs(one - other) > _CLOSE * max(1.0, abs(one), abs(other))):
            return f"{name} {one} is claimed, the features give {other}"
    return ""
