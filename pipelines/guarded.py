"""Guarded: the sets of an experiment whose items must not be trained on, as benchmarks for the leak gate."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from curate.core import Artifact, Turns
from curate.data.examples import opened
from curate.hygiene.benchmark import Benchmark, Item
from curate.pipelines.evaluate import AnyExamination, Examination
from curate.pipelines.examine_file import FileExamination

Role = Literal["target", "evaluation"]


@dataclass(frozen=True)
class Guarded:
    """One set, by what its items are determined by; they are read when they are asked for."""

    name: str
    role: Role
    key: str  # of the examples, or the digest of what a task file asks
    examples: Artifact | None = None
    questions: FileExamination | None = None

    def items(self) -> Iterator[Item]:
        """Every item of the set, also those that are not asked."""
        if self.examples is not None:
            yield from items_of(self.examples.path)
        elif self.questions is not None:
            yield from _asked(self.questions)

    def identity(self) -> dict[str, str]:
        """What of it decides what is found."""
        return {"name": self.name, "role": self.role, "key": self.key}


def guarded_sets(targets: Mapping[str, Artifact], named: str, examinations: Sequence[AnyExamination], items: Mapping[str, Artifact]) -> list[Guarded]:
    """Targets and evaluations; evaluations of the same data are one. `named` stands for a target without a name, `items` are examples by evaluation."""
    found = [Guarded(name or named, "target", artifact.key, examples=artifact) for name, artifact in targets.items()]
    asked: dict[str, Guarded] = {}
    for one in examinations:
        if isinstance(one, Examination):
            made = Guarded(one.label, "evaluation", items[one.label].key, examples=items[one.label])
        elif isinstance(one, FileExamination):
            made = Guarded(one.label, "evaluation", one.asked, questions=one)
        else:
            continue
        known = asked.get(made.key)
        asked[made.key] = replace(known, name=f"{known.name}, {made.name}") if known else made
    return [*found, *asked.values()]


def items_of(path: Path) -> Iterator[Item]:
    """The items of examples: all but the last turn asks, the last one answers; plain text asks."""
    examples = opened(path)
    for number in range(len(examples)):
        yield item_of(str(examples.ids[number]), examples.rows[number].content.turns)


def item_of(name: str, turns: Turns) -> Item:
    """The item that a row is."""
    said = [content for role, content in turns if role != "system"]
    return Item(name, "\n".join(said[:-1]), said[-1]) if len(said) > 1 else Item(name, said[0] if said else "")


def _asked(examination: FileExamination) -> Iterator[Item]:
    """What a task file asks, without its examples."""
    from curate.harness.questions import build_questions

    task = examination.origin.task()
    bare = replace(task, file=task.file.model_copy(update={"num_fewshot": 0}))
    for question in build_questions(bare, examination.origin.data, limit=examination.origin.limit).questions:
        context, continuation = question.requests[0]
        right = " ".join([*question.choices, *(str(target) for target in question.targets)])
        yield Item(question.id, context or continuation, right if context else "")


def written(sets: Sequence[Guarded]) -> bytes:
    """The items of all sets, a line each, for workers and for later."""
    lines = [json.dumps([number, *item]) for number, one in enumerate(sets) for item in one.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def read_written(path: Path, named: Sequence[Mapping[str, Any]]) -> list[Benchmark]:
    """The benchmarks of a file that `written` made, by their identities."""
    items: list[list[Item]] = [[] for _ in named]
    with open(path, encoding="utf-8") as file:
        for line in file:
            number, *fields = json.loads(line)
            items[number].append(Item(*fields))
    return [Benchmark(str(identity["name"]), held) for identity, held in zip(named, items, strict=True)]
