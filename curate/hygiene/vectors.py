"""Near-copies by vectors: paraphrases and translations that share no window of words, as far as an encoder sees them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def near_by_vectors(pool: NDArray[np.float32], items: NDArray[np.float32], threshold: float = 0.95, block: int = 1024) -> Iterator[tuple[int, int, float]]:
    """(row, item, cosine) of every pair of vectors (N, D) and (M, D) at or above the threshold: near-copies that share no window. O(N M D)."""
    unit = _unit(items)
    for start in range(0, len(pool), block):
        cosines = _unit(pool[start : start + block]) @ unit.T
        for row, item in zip(*np.nonzero(cosines >= threshold), strict=True):
            yield start + int(row), int(item), float(cosines[row, item])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return np.asarray(wide / np.where(lengths > 0, lengths, 1.0)[:, None])
