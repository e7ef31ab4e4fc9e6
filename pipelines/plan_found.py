"""What a run would find in the store: the pipeline itself is walked, with a store that only looks."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.cluster import InProcess
from curate.core import Artifact, Budget
from curate.data.source import Source
from curate.evaluations import TaskFileName
from curate.model import resolve
from curate.pipelines.cells import CellTask, Chosen, cell_tasks, label_of
from curate.pipelines.controls import controls_of
from curate.pipelines.evaluate import evaluation_request
from curate.pipelines.experiment import Experiment, run
from curate.pipelines.finetune import training_request
from curate.pipelines.hygiene import look_again
from curate.pipelines.session import Session, numeric_environment
from curate.recipe import Recipe
from curate.store import MakeTogether, Request, Store, read_json

ANY_ROW = Source(synthetic="pool", rows=1)  # in the place of sources that are not read again
ONE_ROW = [Budget(amount=1)]


class NotComputed(Exception):
    """The content of an artifact was asked for that is not in the store."""


class Absent(Artifact):
    """An artifact that is not there: its key is known, and so are the keys of all that hangs on it; reading it raises NotComputed."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("path", "manifest"):
            raise NotComputed(self.key)
        return super().__getattribute__(name)


def is_there(artifact: Artifact | None) -> bool:
    """Whether it can be read."""
    return artifact is not None and not isinstance(artifact, Absent)


class LookingStore(Store):
    """A store in which nothing is built, moved or locked. Files are compared by size; their hashes are the run's to check."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._known: dict[str, Artifact | None] = {}

    def find(self, key: str) -> Artifact | None:
        """The artifact under this key, if it is there with all its files."""
        if key not in self._known:
            self._known[key] = self._whole(key, self.root / key)
        return self._known[key]

    def _whole(self, key: str, path: Path) -> Artifact | None:
        if not (path / "manifest.json").is_file():
            return None
        manifest = read_json(path / "manifest.json")
        return Artifact(key, path, manifest) if all(_has(path / name, known["bytes"]) for name, known in manifest["files"].items()) else None

    def build_together(self, requests: Sequence[Request], make: MakeTogether) -> list[Artifact]:
        """What is there, and absent artifacts for the rest."""
        return [look(self, request) for request in requests]


def look(store: Store, request: Request) -> Artifact:
    """The artifact, there or absent."""
    return store.found(request) or Absent(store.key(request.stage, request.version, request.fields, request.inputs), Path(), {})


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


@dataclass
class Lookup(Session):
    """A session that notes of every artifact whether it is there. Examples that are not are replaced by those that `stand_in` gives."""

    stand_in: Callable[[str], Artifact] | None = None
    given: dict[str, Artifact] = field(default_factory=dict)  # examples by label, once they were looked for
    seen: dict[tuple[str, str], dict[str, bool]] = field(default_factory=dict)  # (stage, label): key, whether it is there

    def build_together(self, labels: Sequence[str], requests: Sequence[Request], make: MakeTogether) -> list[Artifact]:
        """What is there of these."""
        if requests and requests[0].stage == "examples" and labels[0] in self.given:
            return [self.given[label] for label in labels]
        artifacts = self.store.build_together(requests, make)
        for place, (label, request) in enumerate(zip(labels, requests, strict=True)):
            self.saw(request.stage, label, artifacts[place])
            if request.stage == "examples":
                artifacts[place] = self._examples(label, artifacts[place])
        return artifacts

    def saw(self, stage: str, label: str, artifact: Artifact) -> None:
        """Note it."""
        self.seen.setdefault((stage, label), {})[artifact.key] = is_there(artifact)

    def has(self, label: str) -> bool:
        """Whether these examples are in the store."""
        return any(self.seen.get(("examples", label), {}).values())

    def _examples(self, label: str, artifact: Artifact) -> Artifact:
        if self.stand_in is not None and not is_there(artifact):
            artifact = self.stand_in(label)
        self.given[label] = artifact
        return artifact


def only(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe without arms and baselines, but for what is given."""
    return recipe.model_copy(update={"arms": {}, "baselines": [], "controls": {}, **changes})


def without_sources(recipe: Recipe, **changes: Any) -> Recipe:
    """The same for a session that has its examples, so that no source is read or hashed again, and none is refused."""
    entries = [entry if isinstance(entry.task, TaskFileName) else entry.model_copy(update={"data": [ANY_ROW]}) for entry in recipe.evaluate]
    dummies: dict[str, Any] = {"pool": [ANY_ROW], "target": {name: [ANY_ROW] for name in recipe.target}, "evaluate": entries}
    lenient = recipe.hygiene.model_copy(update={"quarantine_limit": 1.0})
    return only(recipe, **{**dummies, "hygiene": lenient, **changes})


def look_up(recipe: Recipe, lookup: Lookup) -> Experiment:
    """Walk the run of this recipe; what it would find is then in `lookup.seen`.

    Returned are the examples and examinations, of the store or of stand-ins, whose keys lead to nothing that is there.
    """
    tolerant = recipe.hygiene.model_copy(update={"quarantine_limit": 1.0})
    prepared = run(only(recipe, budgets=ONE_ROW, hygiene=tolerant), lookup, "prepare")
    if not is_there(prepared.pool):
        prepared = replace(prepared, pool=prepared.cleaned.whole)
    chosen = _chosen(recipe, lookup)
    there = [one for one in chosen if is_there(one.artifact)]
    copies = [copied for one in there for copied in controls_of(lookup, recipe, prepared.pool, one)]
    _look_again(recipe, lookup, prepared, [*chosen, *copies])
    there += [copied for copied in copies if is_there(copied.artifact)]
    handle = resolve(recipe.model, lookup.folder)
    for task in cell_tasks(recipe, lookup, handle, prepared.pool, there, prepared.examinations):
        _look_at(task, lookup)
    return prepared


def _look_again(recipe: Recipe, lookup: Lookup, prepared: Experiment, chosen: Sequence[Chosen]) -> None:
    """Whether the rows taken were compared again: of all arms and their controls, where all are there; what walks of some of them looked for is nothing."""
    lookup.seen.pop(("recheck", "rows taken"), None)
    arms = {*recipe.arms, *(["random"] if "random" in recipe.baselines else [])}
    if arms <= {one.arm for one in chosen} and all(is_there(one.artifact) for one in chosen):
        look_again(lookup, recipe.hygiene, prepared.cleaned, chosen)


def _chosen(recipe: Recipe, lookup: Lookup) -> list[Chosen]:
    """The selections whose keys can be known: of all arms in one walk, or of each on its own where a walk of all comes to what is not computed."""
    random = [name for name in recipe.baselines if name == "random"]
    try:
        return _walk(without_sources(recipe, arms=recipe.arms, baselines=random), lookup)
    except NotComputed:
        alone = [without_sources(recipe, baselines=random), *(without_sources(recipe, arms={name: arm}) for name, arm in recipe.arms.items())]
    found = []
    for one in alone:
        with contextlib.suppress(NotComputed):
            found += _walk(one, lookup)
    return found


def _walk(recipe: Recipe, lookup: Lookup) -> list[Chosen]:
    if not lookup.has("pool"):  # a budget of rows can be more than a stand-in holds
        run(recipe.model_copy(update={"budgets": ONE_ROW}), lookup, "score")
        return []
    return run(recipe, lookup, "select").chosen


def _look_at(task: CellTask, lookup: Lookup) -> None:
    """The artifacts of one cell, as the run would ask for them."""
    environment, label = numeric_environment(task.device), label_of(task.arm, task.target, task.budget, task.seed)
    checkpoint = look(lookup.store, training_request(task.training, task.inputs, environment)) if task.training else None
    if checkpoint:
        lookup.saw("train", label, checkpoint)
    handle = task.training.handle if task.training else task.base
    for examination in task.examinations:
        lookup.saw("evaluate", label, look(lookup.store, evaluation_request(examination, handle, checkpoint, environment)))


def lookup_session(store: Path, runs: Path, folder: Path, device: str, processes: int, stand_in: Callable[[str], Artifact] | None) -> Lookup:
    """A session of a run with this store that builds nothing."""
    outputs = (store.absolute(), runs.absolute())
    return Lookup(LookingStore(outputs[0]), InProcess(), folder.absolute(), device, _silent, outputs, processes=processes, stand_in=stand_in)


def _silent(stage: str, label: str) -> None:
    """Hears nothing."""


def found_keys(seen: Mapping[tuple[str, str], Mapping[str, bool]], stage: str, labels: Sequence[str]) -> list[str]:
    """Keys of the artifacts of this stage and these labels that are there, each once."""
    return list(dict.fromkeys(key for label in labels for key, there in seen.get((stage, label), {}).items() if there))
