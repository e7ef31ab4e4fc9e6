"""Scoring many rows: batches cut by tokens, several scorers at once, memory that runs out, rows that give no number."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curate.batches import micro_batches, padded
from curate.core import Integers, Row
from curate.errors import ModelError
from curate.interfaces import Batch, Output, Scorer, ScoringContext
from curate.model import LanguageModel
from curate.one_task import out_of_memory
from curate.passes import PassScorer, read

Job = tuple[Scorer, ScoringContext]
Numbers = NDArray[np.float32]
_TEXT_ROWS = 256  # rows of a batch that no model reads


def batches(lengths: Integers, model: LanguageModel | None, tokens: int) -> Iterator[Integers]:
    """Row numbers of each batch: at most `tokens` padded tokens for a model, a fixed number of rows for text."""
    if model is not None:
        yield from micro_batches(lengths, tokens)
        return
    for start in range(0, len(lengths), _TEXT_ROWS):
        yield np.arange(start, min(start + _TEXT_ROWS, len(lengths)))


def batch_of(rows: Sequence[Row], model: LanguageModel | None) -> Batch:
    """The rows as scorers get them: on the model's device, or on the CPU where no model reads them."""
    return model.batch(rows) if model is not None else padded(rows, 0, "cpu")


def score_rows(jobs: Sequence[Job], rows: Sequence[Row], ids: Sequence[str] = ()) -> list[Numbers]:
    """Each scorer's numbers for these rows; a row without finite numbers is scored again alone, so that neighbours keep theirs.

    When memory runs out the batch is halved, down to a single row, which is then a ModelError that says which (of `ids`), and how long.
    """
    found = _scored_if_it_fits(jobs, rows, ids)
    if found is not None:
        return [_mended(job, rows, values) for job, values in zip(jobs, found, strict=True)]
    torch.cuda.empty_cache()  # after the error is gone, whose frames held what did not fit
    half = len(rows) // 2
    return [np.concatenate(parts) for parts in zip(score_rows(jobs, rows[:half], ids[:half]), score_rows(jobs, rows[half:], ids[half:]), strict=True)]


def _scored_if_it_fits(jobs: Sequence[Job], rows: Sequence[Row], ids: Sequence[str]) -> list[Numbers] | None:
    try:
        return _scored(jobs, rows)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if len(rows) == 1:
            raise ModelError(
                f"row {' '.join([*ids, 'of'])} {len(rows[0].input_ids)} tokens does not fit in the memory of the device or machine, alone as it is; "
                "lower model.max_length, use --workers 1 or another device, and run the same command again: finished shards are kept"
            ) from error
    return None


def _mended(job: Job, rows: Sequence[Row], values: Numbers) -> Numbers:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if len(rows) == 1 or not bad.any():
        return values
    values = values.copy()
    for i in np.flatnonzero(bad):
        values[i] = _scored([job], [rows[int(i)]])[0][0]
    return values


def _scored(jobs: Sequence[Job], rows: Sequence[Row]) -> list[Numbers]:
    batch = batch_of(rows, jobs[0][1].model)
    shared = [(scorer, context) for scorer, context in jobs if isinstance(scorer, PassScorer)]
    passed = iter(read(shared, batch) if shared else [])
    outputs = [next(passed) if isinstance(scorer, PassScorer) else scorer.score(batch, context) for scorer, context in jobs]
    return [_as_numbers(output) for output in outputs]


def _as_numbers(output: Any) -> Numbers:
    numbers: Numbers = output.float().cpu().numpy()
    return numbers


def faults(values: Sequence[Numbers], output: Output) -> dict[int, str]:
    """Why the numbers of some rows cannot be used, by the rows' places: not finite, or a vector of zeros."""
    return {i: reason for i, value in enumerate(values) if (reason := fault(value, output))}


def fault(value: Any, output: Output) -> str:
    """Why a row's numbers cannot be used; empty if they can."""
    if not np.isfinite(value).all():
        return "not_finite"
    return "zero_norm" if output == "vectors" and np.ndim(value) and not np.any(value) else ""
