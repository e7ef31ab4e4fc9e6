"""Evaluate: the base model and every arm on the same items, item by item."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Examples, Integers
from curate.data.examples import conversations, open_examples
from curate.data.template import Encoder
from curate.errors import DataError, NumericError
from curate.evaluate import Graded, Plan, grade, plan
from curate.evaluations import Evaluate, TaskFileName, label_of
from curate.interfaces import Item, Task
from curate.model import LanguageModel, ModelHandle, apply_weights, cached, fresh, load_tokenizer, read_weights
from curate.pipelines.examine_file import FileExamination, examine_file
from curate.pipelines.likelihood_of_target import TargetLikelihood
from curate.pipelines.prepare import prepare
from curate.pipelines.session import Session
from curate.randomness import uniform
from curate.recipe import Hygiene
from curate.store import Request, Store, Workspace

VERSION = 2  # of the engine's numbers


@dataclass(frozen=True)
class Examination:
    """A task with its items and few-shot turns, by path: the same for every model."""

    label: str
    target: str | None  # whose models are asked; None for all
    task: Task
    items: Path  # examples
    rows: tuple[int, ...]  # which of them
    shots: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]  # artifact keys

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def higher_is_better(self) -> bool:
        return self.task.higher_is_better

    def ask(self, model: LanguageModel, handle: ModelHandle) -> Graded:
        """Every item, asked of this model and graded."""
        return grade(model, self.task, planned(self, handle), label=self.label)

    def identity(self) -> dict[str, Any]:
        """What of it decides the scores, besides the inputs."""
        return {"label": self.label, "task": self.task.model_dump(mode="json"), "rows": list(self.rows), "shots": [list(turn) for turn in self.shots]}


AnyExamination = Examination | FileExamination | TargetLikelihood


def examine(session: Session, entry: Evaluate, handle: ModelHandle, hygiene: Hygiene, targets: Mapping[str, Artifact]) -> AnyExamination:
    """One evaluation of the recipe with its items and shots; an item that does not fit is found now, not after hours of training.

    `targets` are what arms select for, by name: no row of any of them is asked, and shots are rows of the entry's own.
    """
    label = label_of(entry)
    if isinstance(entry.task, TaskFileName):
        return examine_file(entry, label, session.folder, handle)
    items = prepare(session, f"evaluation {label}", entry.data or [], handle, hygiene)
    own = targets[entry.target] if entry.target else next(iter(targets.values()))
    rows = held_out(open_examples(items.path), [open_examples(target.path) for target in targets.values()], entry, label)
    shots = shot_turns(own, open_examples(own.path), entry.shots or 0, entry.seed)
    made = Examination(label, entry.target, entry.task, items.path, tuple(rows.tolist()), shots, (items.key, own.key) if shots else (items.key,))
    planned(made, handle)
    return made


def held_out(items: Examples, targets: Sequence[Examples], entry: Evaluate, label: str) -> Integers:
    """The items to ask: drawn among those that are not also target rows, for what was selected by cannot be evaluated on."""
    drawn = draw(items, None, entry.seed, "evaluation items")
    target = np.concatenate([examples.ids for examples in targets])
    free = drawn[~np.isin(items.ids[drawn], target)][: entry.limit]
    if len(free) < 2:
        raise DataError(f"evaluation {label}: fewer than two of its {len(items)} items are not target rows; evaluate on other data than the target")
    return free


def draw(examples: Examples, count: int | None, seed: int, purpose: str) -> Integers:
    """Positions of `count` rows drawn by (seed, purpose, row id), in the order of the draw; all rows if there are fewer."""
    order = np.argsort(uniform(seed, purpose, examples.ids), kind="stable")
    return order[: len(order) if count is None else count].astype(np.int64)


def shot_turns(target: Artifact, examples: Examples, count: int, seed: int) -> tuple[tuple[str, str], ...]:
    """The turns of `count` target rows, to precede every question."""
    if count > len(examples):
        raise DataError(f"evaluate.shots is {count}, but the target has {len(examples)} rows; lower it")
    rows = draw(examples, count, seed, "few-shot examples")
    return tuple(turn for messages in conversations(target.path, rows) for turn in _turns(messages))


@lru_cache(maxsize=8)
def planned(examination: Examination, handle: ModelHandle) -> Plan:
    """The examination in the model's tokens, once per process."""
    encoder = Encoder(load_tokenizer(handle), handle.max_length)
    return plan(examination.task, items_of(examination.items, examination.rows), examination.shots, encoder)


def items_of(path: Path, rows: Sequence[int]) -> list[Item]:
    """Questions with their right answers, from conversations that end with an answer."""
    ids = open_examples(path).ids
    turns = [_turns(messages) for messages in conversations(path, rows)]
    return [Item(str(ids[int(row)]), messages[:-1], messages[-1][1]) for row, messages in zip(rows, turns, strict=True)]


def _turns(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in messages)


def evaluate(
    store: Store, examination: AnyExamination, handle: ModelHandle, checkpoint: Artifact | None, device: str, environment: Mapping[str, Any]
) -> Artifact:
    """One model on one examination: a score per item, what the model said, and their mean."""

    def make(workspace: Workspace) -> Mapping[str, Any]:
        model = _resident(handle, device) if checkpoint else cached(handle, device)
        if checkpoint:
            apply_weights(model.names, read_weights(checkpoint.path))
        try:
            graded = examination.ask(model, replace(handle, lora=None))
        except NumericError as broken_logits:
            named = f"the model trained as {checkpoint.key}" if checkpoint else f"the base model {handle.path}"
            raise NumericError(f"{named}: {broken_logits}") from broken_logits
        broken = np.flatnonzero(~np.isfinite(graded.evaluation.scores))
        if len(broken):
            item = graded.evaluation.ids[broken[0]]
            raise NumericError(f"evaluation {graded.evaluation.task}: the score of item {item} is not finite; lower the learning rate, or drop the item")
        workspace.write("items.jsonl", b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in graded.records))
        result = graded.evaluation
        error = result.standard_error
        return {
            "mean": result.mean,
            "standard_error": error if np.isfinite(error) else None,
            "n": len(result.scores),
            "metric": result.metric,
            "higher_is_better": examination.higher_is_better,
            "forward_tokens": graded.forward_tokens,
            "tokens_without_sharing": graded.asked_tokens,
            "cache_bytes": graded.peak_bytes,
            "unshared": graded.unshared,
            "lossy": graded.lossy,
        }

    return store.build_request(evaluation_request(examination, handle, checkpoint, environment), make)


def evaluation_request(examination: AnyExamination, handle: ModelHandle, checkpoint: Artifact | None, environment: Mapping[str, Any]) -> Request:
    """What the scores of a model on an examination are found by."""
    fields = {"examination": examination.identity(), "model": handle.identity(), "environment": dict(environment)}
    return Request("evaluation", fields, [*examination.inputs] + ([checkpoint.key] if checkpoint else []), VERSION)


@lru_cache(maxsize=1)
def _resident(handle: ModelHandle, device: str) -> LanguageModel:
    """The model that this process puts one checkpoint after the other into."""
    return fresh(handle, device)


def item_scores(artifact: Artifact) -> Mapping[str, float]:
    """The score of every item by its id."""
    lines = (artifact.path / "items.jsonl").read_bytes().splitlines()
    return {record["id"]: float(record["score"]) for record in map(json.loads, lines)}


