"""Random numbers that belong to rows: a function of (seed, purpose, row id) and of nothing else.

Permuting the pool permutes the numbers, adding a row leaves the others' numbers alone, and any worker can
draw those of its own rows.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_STEP = 0x9E3779B97F4A7C15


def row_keys(seed: int, purpose: str, ids: Iterable[str]) -> NDArray[np.uint64]:
    """(N,) 64-bit keys: blake2b of each id under the key (seed, purpose); about a microsecond a row."""
    key = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=32).digest()
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8, key=key).digest() for name in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def draw(keys: NDArray[np.uint64], index: int = 0) -> NDArray[np.float64]:
    """(N,) the `index`-th uniform number in (0, 1) of every key: splitmix64 (Steele et al., 2014) as a counter-based generator."""
    z = keys + np.uint64((index + 1) * _STEP & (2**64 - 1))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def uniform(seed: int, purpose: str, ids: Iterable[str]) -> NDArray[np.float64]:
    """(N,) one uniform number in (0, 1) for every row."""
    return draw(row_keys(seed, purpose, ids))
