"""Small sets of rows to train on."""

import numpy as np

from curate.core import Row
from curate.train import TrainingSet


def training_set(count: int = 10, weights: np.ndarray | None = None, first: int = 0) -> TrainingSet:
    """Random rows of 5 to 19 tokens, the second half of each with loss; `first` draws others, and numbers them on from there."""
    generator = np.random.default_rng(first)
    rows = []
    for _ in range(count):
        length = int(generator.integers(5, 20))
        supervised = np.zeros(length, bool)
        supervised[length // 2 :] = True
        rows.append(Row(generator.integers(3, 900, length).astype(np.int32), supervised))
    lengths = np.array([len(row.input_ids) for row in rows])
    ids = np.array([f"row-{first + i}" for i in range(count)])
    return TrainingSet(ids, rows, lengths, np.ones(count, np.float32) if weights is None else weights)
