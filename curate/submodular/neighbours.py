"""The graph of nearest neighbours of unit rows: exact up to some size, by faiss's inverted lists beyond it, with the recall measured.

Exact: float32 search, cosines taken again in float64, and a row whose list could differ by rounding searched once more, so that
every backend gives the same answer. Approximate: rows are put into about 4 sqrt(N) cells by k-means and each row is compared
with the rows of the nearest cells only; cells are doubled until a sample of rows finds the wanted share of its true neighbours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.errors import ConfigError
from curate.order import best_first
from curate.submodular.graph import Graph

Unit = NDArray[np.float32]
Search = Callable[[Unit, int], Integers]  # (rows (B, D), count) -> (B, count) the most alike pool rows, in any order
Products = Callable[[Integers, Unit], NDArray[np.float64]]  # (pool rows (B, m), rows (B, D)) -> (B, m) their inner products
Backend = tuple[Search, Products]

_BLOCK = 4096  # rows searched at a time: smaller blocks search slower
_PART = 256  # rows refined at a time
_SPARE = 8  # neighbours fetched beyond those asked for, so that float32 noise cannot push a true one out
_NOISE = 1e-5  # larger than the error of a float32 dot product of unit rows
_POINTS = 32  # rows per cell that k-means sees
_SAMPLE = 256  # rows whose true neighbours are searched for, to measure recall


def neighbour_graph(vectors: Unit, depth: int, *, exact_limit: int, recall: float, device: str = "cpu") -> Graph:
    """The min(depth, N) most alike rows of each row, itself among them, with s = (1 + cos) / 2.

    Args:
        exact_limit: the largest pool that is searched exactly: O(N^2 D).
        recall: the share of true neighbours that an approximate search must find.
        device: where an exact search runs; it never changes the answer.
    """
    depth = min(depth, len(vectors))
    if len(vectors) <= exact_limit:
        near, cosines = exact_neighbours(vectors, depth, _on_device(vectors, device) if device != "cpu" else _on_cpu(vectors))
        return Graph(near, np.clip((1 + cosines) / 2, 0, 1))
    return _approximate(vectors, depth, recall)


def exact_neighbours(vectors: Unit, depth: int, backend: Backend | None = None) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(N, min(depth, N)) the most alike rows, ties by the lower row, and their cosines in float64; on the CPU unless a backend is given."""
    search, products = backend or _on_cpu(vectors)
    n = len(vectors)
    depth = min(depth, n)
    fetched = min(depth + _SPARE, n)
    found, cosines = np.empty((n, depth), np.int32), np.empty((n, depth))
    for start in range(0, n, _BLOCK):
        candidates = np.sort(search(vectors[start : start + _BLOCK], fetched), axis=1)
        for first in range(0, len(candidates), _PART):
            part = slice(start + first, start + min(first + _PART, len(candidates)))
            found[part], cosines[part] = _refined(vectors, part, candidates[first : first + _PART], depth, products)
    return found, cosines


def _refined(vectors: Unit, part: slice, near: Integers, depth: int, products: Products) -> tuple[Integers, NDArray[np.float64]]:
    """The most alike of the candidates (B, m > depth unless they are the whole pool), in float64."""
    block = vectors[part]
    exact = products(near, block)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :depth]
    found, cosines = np.take_along_axis(near, order, 1), np.take_along_axis(exact, order, 1)
    if near.shape[1] < len(vectors):
        for row in np.flatnonzero(cosines[:, -1] - exact.min(axis=1) < _NOISE):
            whole = _cosines(vectors, block[row])
            found[row] = best_first(whole, depth)
            cosines[row] = whole[found[row]]
    return found, cosines


def _cosines(vectors: Unit, row: Unit) -> NDArray[np.float64]:
    wide = row.astype(np.float64)
    return np.concatenate([np.einsum("md,d->m", vectors[start : start + 4096].astype(np.float64), wide) for start in range(0, len(vectors), 4096)])


def _on_cpu(vectors: Unit) -> Backend:
    faiss = _faiss()

    def search(block: Unit, count: int) -> Integers:
        if faiss is None:
            return _largest(block @ vectors.T, count)
        return np.asarray(faiss.knn(block, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)[1])

    return search, lambda near, block: np.asarray(np.einsum("bmd,bd->bm", vectors[near], block, dtype=np.float64))


def _largest(alike: Unit, count: int) -> Integers:
    n = alike.shape[1]
    return np.argpartition(alike, n - count, axis=1)[:, n - count :]


def _on_device(vectors: Unit, device: str) -> Backend:
    import torch

    held = torch.from_numpy(vectors).to(device)

    def products(near: Integers, block: Unit) -> NDArray[np.float64]:
        candidates = held[torch.from_numpy(near).to(device)].double()
        found: NDArray[np.float64] = torch.bmm(candidates, torch.from_numpy(block).to(device).double().unsqueeze(2)).squeeze(2).cpu().numpy()
        return found

    def search(block: Unit, count: int) -> Integers:
        near: Integers = torch.topk(torch.from_numpy(block).to(device) @ held.T, count, dim=1).indices.cpu().numpy()
        return near

    return search, products


def _faiss() -> Any:
    from importlib.util import find_spec

    if not find_spec("faiss"):
        return None
    import faiss

    return faiss


def _approximate(vectors: Unit, depth: int, recall: float) -> Graph:
    faiss = _faiss()
    if faiss is None:
        raise ConfigError(f"{len(vectors)} rows need an approximate search, and so faiss; install curate[cpu], or raise exact_limit (its cost is N^2 D)")
    n, width = vectors.shape
    cells = int(min(4 * np.sqrt(n), n // 39 + 1))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.seed = _POINTS, 0
    index.train(vectors)
    index.add(vectors)
    reached = _probe(index, vectors, depth, recall)
    near, alike = np.empty((n, depth), np.int32), np.empty((n, depth))
    for start in range(0, n, _BLOCK):
        cosines, rows = index.search(vectors[start : start + _BLOCK], depth)
        near[start : start + len(rows)] = np.maximum(rows, 0)  # -1 where the cells hold fewer rows than were asked for
        alike[start : start + len(rows)] = np.where(rows < 0, 0.0, np.clip((1 + cosines) / 2, 0, 1))
    return Graph(near, alike, reached)


def _probe(index: Any, vectors: Unit, depth: int, recall: float) -> float:
    """Set how many cells a search looks into: as few as reach the recall on a sample of rows, which is returned."""
    sample = vectors[np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))]
    true = _on_cpu(vectors)[0](sample, depth)
    index.nprobe = min(4, index.nlist)
    while True:
        found = index.search(sample, depth)[1]
        reached = float(np.mean([len(np.intersect1d(*pair)) / depth for pair in zip(found, true, strict=True)]))
        if reached >= recall or index.nprobe == index.nlist:
            return reached
        index.nprobe = min(2 * index.nprobe, index.nlist)
