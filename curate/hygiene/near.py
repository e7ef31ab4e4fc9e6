"""Near-duplicates: rows whose words are almost the same, found by MinHash and LSH, each pair verified on the words themselves.

A row is the set of its 5-word shingles (all its words where it has fewer), system turns left out. 125 MinHash values (datasketch) in 25 bands of 5:
two rows become candidates if they agree in a band. At Jaccard similarity s they miss with probability (1 - s^5)^25: 5e-5 at the threshold of 0.8,
2e-10 at 0.9. Candidates are rows apart unless their true Jaccard similarity reaches the threshold, and unless at least half of the words of their last
turns agree: a passage asked twice, with different answers, is no duplicate. Verified pairs join to components; the first row of each stays.

Broder, "On the resemblance and containment of documents", 1997; Lee et al., "Deduplicating training data makes language models better", 2022.
A limit: of a bucket of more than 64 rows, only neighbours and pairs with the first are looked at; other bands see the others.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers, Turns
from curate.hygiene.normalise import Strip, words
from curate.hygiene.windows import block_hashes, word_hashes

SHINGLE = 5  # words
BANDS, DEPTH = 25, 5
THRESHOLD = 0.8
_ANSWER = 0.5  # Jaccard similarity of the words of the last turns
_BUCKET = 64
_SEED = 1
_TOP = np.uint64(32)
_PAIRS = 1 << 22  # candidates held before repeats among them are removed

Bands = NDArray[np.uint64]  # (N, BANDS)


def text_of(turns: Turns) -> str:
    """What a row says in normal form, system turns left out."""
    return " ".join(filter(None, (words(content) for role, content in turns if role != "system")))


def bands_of(texts: Sequence[str]) -> Bands:
    """(N, BANDS) the buckets of texts in normal form; zeros for one without words."""
    from datasketch import MinHash  # type: ignore[import-untyped]

    shingles = _shingle_hashes(texts)
    made = MinHash.bulk(shingles, num_perm=BANDS * DEPTH, seed=_SEED, hashfunc=_itself)
    values = np.array([sketch.hashvalues for sketch in made], np.uint64).reshape(-1, DEPTH)
    buckets = block_hashes(values.ravel(), np.arange(0, values.size, DEPTH), DEPTH).reshape(-1, BANDS)
    buckets[[not len(one) for one in shingles]] = 0
    return buckets


def _itself(value: Any) -> Any:
    return value


def _shingle_hashes(texts: Sequence[str]) -> list[list[int]]:
    """The hashes of each text's shingles, 32 bits each; repeats do not matter to MinHash."""
    strip = Strip.of(texts)
    heads, hashes = word_hashes(strip)
    edges = np.searchsorted(heads, strip.edges)
    counts = np.diff(edges) - 1  # without the zero behind
    whole = block_hashes(hashes, np.arange(max(0, len(hashes) - SHINGLE + 1)), SHINGLE) >> _TOP
    found = []
    for first, count in zip(edges[:-1].tolist(), counts.tolist(), strict=True):
        if count >= SHINGLE:
            found.append(whole[first : first + count - SHINGLE + 1].tolist())
        else:
            found.append((block_hashes(hashes, np.array([first]), count) >> _TOP).tolist() if count else [])
    return found


def candidates(columns: Iterable[Bands], rows: Integers) -> NDArray[np.int64]:
    """(P, 2) pairs of positions in `rows` that share a bucket of some band, each once; `columns` are the bands (N,), one at a time."""
    n = np.int64(max(1, len(rows)))
    known, fresh, held = np.zeros(0, np.int64), [], 0
    for column in columns:
        pairs = _bucket_pairs(column[rows])
        fresh.append(pairs[:, 0] * n + pairs[:, 1])
        held += len(pairs)
        if held > _PAIRS:
            known, fresh, held = np.unique(np.concatenate([known, *fresh])), [], 0
    known = np.unique(np.concatenate([known, *fresh]))
    return np.stack([known // n, known % n], axis=1)


def _bucket_pairs(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(P, 2) pairs with equal keys, the first row first: all of a small bucket, of a large one neighbours and those with its first."""
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] != 0]
    starts = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1]])) if len(order) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(order)))
    found = [np.zeros((0, 2), np.int64)]
    for size in np.unique(sizes[sizes > 1]).tolist():
        members = order[starts[sizes == size][:, None] + np.arange(size)]
        if size <= _BUCKET:
            one, other = np.triu_indices(size, 1)
        else:
            one, other = np.concatenate([np.arange(size - 1), np.zeros(size - 1, np.int64)]), np.tile(np.arange(1, size), 2)
        found.append(np.stack([members[:, one].ravel(), members[:, other].ravel()], axis=1))
    return np.concatenate(found)


def similarity(one: Turns, other: Turns) -> float:
    """The Jaccard similarity of two rows; 0 if less than half of the words of their last turns agree."""
    if len(one) > 1 and len(other) > 1 and _jaccard(set(words(one[-1][1]).split()), set(words(other[-1][1]).split())) < _ANSWER:
        return 0.0
    return _jaccard(shingles_of(text_of(one)), shingles_of(text_of(other)))


def shingles_of(text: str) -> set[tuple[str, ...]]:
    """The shingles of a text in normal form."""
    said = text.split()
    return {tuple(said[start : start + SHINGLE]) for start in range(max(1, len(said) - SHINGLE + 1))} if said else set()


def _jaccard(one: set[Any], other: set[Any]) -> float:
    both = len(one | other)
    return len(one & other) / both if both else 1.0


def components(pairs: Iterable[tuple[int, int]], n: int) -> Integers:
    """(n,) the first row of each row's component, joined by these pairs."""
    parent = list(range(n))

    def first(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in pairs:
        a, b = sorted((first(one), first(other)))
        parent[b] = a
    return np.array([first(row) for row in range(n)], np.int64)


def chunks(pairs: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Some pairs at a time, in order, so that rows are read near each other."""
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def probability_of_a_miss(jaccard: float) -> float:
    """That two rows of this similarity share no bucket: (1 - s^DEPTH)^BANDS."""
    return float((1 - jaccard**DEPTH) ** BANDS)
