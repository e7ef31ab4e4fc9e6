"""Submodular selectors that compare pool rows with one another: the whole matrix, tiles of it, or nearest neighbours only."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.facility import DenseFacility, SparseFacility, TiledFacility
from curate.submodular.graph import Graph
from curate.submodular.kernel import Tiles
from curate.submodular.neighbours import neighbour_graph
from curate.submodular.objective import Objective
from curate.submodular.selector import SubmodularSelector

Vectors = NDArray[np.float32]


class PairwiseSelector(SubmodularSelector):
    """A submodular selector over the similarities of pool rows to pool rows."""

    similarity: Literal["auto", "dense", "tiled", "neighbours"] = Field(
        default="auto",
        description="dense: the matrix is held, 4 N^2 bytes; tiled: the same rows, recomputed when read; neighbours: only each row's most similar "
        "rows count; auto: dense up to dense_limit rows, then neighbours.",
    )
    dense_limit: int = Field(default=20_000, ge=0, description="The largest pool whose full similarity matrix auto holds in memory.")
    neighbours: int = Field(default=64, ge=1, description="How many most similar rows count for each row of a larger pool.")
    exact_limit: int = Field(
        default=100_000, ge=0, description="The largest pool whose neighbours are searched exactly, N^2 D; beyond, faiss's inverted lists are used."
    )
    recall: float = Field(default=0.95, ge=0.1, le=1, description="The share of true neighbours that an approximate search must find, on a sample of rows.")

    def route(self, rows: int) -> Literal["dense", "tiled", "neighbours"]:
        """How similarities of a pool of this size are had."""
        if self.similarity == "auto":
            return "dense" if rows <= self.dense_limit else "neighbours"
        return self.similarity

    def graph(self, vectors: Vectors, device: str) -> Graph:
        """The nearest neighbours of unit rows."""
        return neighbour_graph(vectors, self.neighbours, exact_limit=self.exact_limit, recall=self.recall, device=device)

    def facility(self, vectors: Vectors, device: str, stored: bool, *, threshold: float | None = None, cap: Vectors | None = None) -> Objective:
        """Facility location over unit rows, by whichever route; with a threshold, similarities are steps."""
        route = self.route(len(vectors))
        if route == "neighbours":
            return SparseFacility(self.graph(vectors, device).reshaped(threshold, cap))
        kernel = Tiles(vectors, threshold)
        return DenseFacility(kernel.whole().alike, cap) if route == "dense" and stored else TiledFacility(kernel, cap)
