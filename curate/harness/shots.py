"""Which documents are the few-shot examples of which question, drawn as lm-eval 0.4.13 draws them.

One generator, random.Random(1234), serves a task from its first document to its last, so a document's examples depend on how many came before
it (a limit keeps the first ones, and so their examples). For each document n examples are drawn without replacement from the pool; where the
pool is the test split (fewshot_split equals test_split, or both are unset) n + 1 are drawn and the document itself is struck out. If copies of it
leave fewer than n, n are drawn again from the pool without them. `first_n` takes the first n, without the document itself under the same condition.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import DataError
from curate.harness.documents import HarnessDocument, read_documents
from curate.harness.reading import LocalTask

SEED = 1234


@dataclass(frozen=True)
class Pool:
    """The documents that examples come from; `exclude` strikes out the one that is asked."""

    documents: Sequence[HarnessDocument]
    name: str
    exclude: bool


def pool_of(task: LocalTask, splits: dict[str, list[Path]], asked: Sequence[HarnessDocument], *, limited: bool) -> Pool:
    """The pool by lm-eval's rule: the split that is named, the samples written out, training, validation, or the test split itself."""
    file = task.file
    exclude = file.shot_split == file.test_split if file.asked_split else file.shot_split in (None, "test")
    samples = file.fewshot_config.samples
    if file.shot_split is None and samples:
        return Pool([HarnessDocument(f"sample-{number}", number, fields) for number, fields in enumerate(samples)], "fewshot_config.samples", exclude)
    asked_split = file.asked_split or "test"
    split = file.shot_split or file.training_split or file.validation_split or asked_split
    if split == asked_split and not limited:
        return Pool(asked, split, exclude)
    return Pool(read_documents(files_of(task, splits, split)), split, exclude)


def files_of(task: LocalTask, splits: dict[str, list[Path]], split: str) -> list[Path]:
    """The files of a split; DataError names those that there are."""
    if split not in splits:
        keys = ("fewshot_split", "test_split", "validation_split", "training_split")
        place = task.place(next((key for key in keys if getattr(task.file, key) == split), "task"))
        raise DataError(f"{place}: there is no data for split {split!r}, only for {', '.join(sorted(splits))}; give data: {{{split}: FILE, ...}}")
    return splits[split]


def drawn(task: LocalTask, asked: Sequence[HarnessDocument], pool: Pool, seed: int = SEED) -> Iterator[list[HarnessDocument]]:
    """The examples of each document, in the order of the documents."""
    first, n = task.file.fewshot_config.sampler == "first_n", task.file.shots
    generator = random.Random(seed)
    for document in asked:
        found = _first(document, pool, n) if first else _sampled(generator, document, pool, n)
        if len(found) < n:
            raise DataError(
                f"{task.place('num_fewshot')} is {n}, but split {pool.name!r} has {len(pool.documents)} documents"
                f"{', without the one that is asked' if pool.exclude else ''}; lower it, or name a larger fewshot_split"
            )
        yield found


def _first(document: HarnessDocument, pool: Pool, n: int) -> list[HarnessDocument]:
    found: list[HarnessDocument] = []
    for other in pool.documents:
        if len(found) == n:
            break
        if not (pool.exclude and other.fields == document.fields):
            found.append(other)
    return found


def _sampled(generator: random.Random, document: HarnessDocument, pool: Pool, n: int) -> list[HarnessDocument]:
    size = n + pool.exclude
    if size > len(pool.documents):
        return []
    found = generator.sample(pool.documents, size)
    if not pool.exclude:
        return found
    found = [other for other in found if other.fields != document.fields][:n]
    if len(found) == n:
        return found
    others = [other for other in pool.documents if other.fields != document.fields]
    return generator.sample(others, n) if n <= len(others) else []
