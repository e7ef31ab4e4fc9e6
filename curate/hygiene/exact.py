"""Exact duplicates: rows that say the same but for Unicode form, letter case and white space."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers, Turns
from curate.hygiene.normalise import plain

Keys = NDArray[np.uint64]  # (N, 2)


def key_of(turns: Turns) -> bytes:
    """The 128-bit hash of who says what, in the form of `plain`: signs count, for `3 + 5` is not `3 - 5`."""
    state = blake2b(digest_size=16)
    for role, content in turns:
        state.update(f"{role}\n{plain(content)}\0".encode("utf-8", "surrogatepass"))
    return state.digest()


def keys_of(rows: Sequence[Turns]) -> Keys:
    """(N, 2) the keys of rows; of rows without text (token ids), zeros."""
    return np.frombuffer(b"".join(key_of(turns) if turns else bytes(16) for turns in rows), ">u8").astype(np.uint64).reshape(-1, 2)


def firsts(keys: Keys) -> Integers:
    """(N,) the first row that has the same key; a row whose key is zero has no duplicates. O(N log N)."""
    n = len(keys)
    order = np.lexsort((np.arange(n), keys[:, 1], keys[:, 0]))
    fresh = np.ones(n, np.bool_)
    fresh[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    leader = np.maximum.accumulate(np.where(fresh, np.arange(n), 0)) if n else np.zeros(0, np.int64)
    found = np.arange(n)
    found[order] = order[leader]
    unread = ~keys.any(axis=1)
    found[unread] = np.flatnonzero(unread)
    return found
