"""Rows of words, and scorers of text run over them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from curate.core import Row, Written
from curate.interfaces import Batch, Scorer, ScoringContext


def row(*turns: tuple[str, str]) -> Row:
    return Row(np.arange(3 + len(turns), dtype=np.int32), np.ones(3 + len(turns), bool), Written(turns))


def plain(texts: Sequence[str]) -> list[Row]:
    return [row(("", text)) for text in texts]


def batch_of(rows: Sequence[Row]) -> Batch:
    blank = torch.zeros((len(rows), 1))
    return Batch(blank.long(), blank.bool(), blank.bool(), [one.content for one in rows])


def scored(scorer: Scorer, pool: Sequence[Row], target: Sequence[Row], size: int = 3) -> torch.Tensor:
    """The pool's rows, prepared from and scored in batches of `size`."""
    batches = [batch_of(pool[start : start + size]) for start in range(0, len(pool), size)]
    context = ScoringContext(target=target)
    context = replace(context, state=scorer.prepare(iter(batches), context))
    return torch.cat([scorer.score(batch, context) for batch in batches])
