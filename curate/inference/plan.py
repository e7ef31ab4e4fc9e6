"""How requests are computed: each node of their prefix tree once, long shared stretches ahead and alone, the rest packed many to a row.

A stretch that much follows (more than `subtree` tokens with itself) is prefilled once and stored; everything below attends to it where it lies. What is
left below is cut into subtrees, which are laid out in rows side by side: tokens of a row see their ancestors in the tree and nobody else.
A plan depends on tokens and settings alone, so that every variant of a model runs the same shapes; its hash says so.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.inference.tree import Node, Tokens, Tree, build, fold

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """Sizes in tokens; none changes a result beyond rounding."""

    row: int = 256  # of a packed row; a larger subtree has a row of its own
    subtree: int = 1024  # above it, a shared stretch is stored and what follows it is packed apart
    batch: int = 8192  # of the rows of one pass together
    floor: int = 32  # a stored stretch must save as many, or it is computed with each of its children
    apart: bool = False  # whether what several requests begin with is stored even if all of them would fit a row


DEFAULT = Layout()


@dataclass(frozen=True)
class Span:
    """A node's place in a row: its tokens, and the span that they follow (-1: the stored stretches)."""

    start: int
    end: int
    parent: int


@dataclass(eq=False)
class PackedRow:
    """Subtrees side by side."""

    tokens: Ints
    positions: Ints
    spans: list[Span]

    def __len__(self) -> int:
        return len(self.tokens)

    def mask(self) -> NDArray[np.bool_]:
        """(T, T) who sees whom: each token itself, those before it in its node, and all its ancestors."""
        seen = np.zeros((len(self), len(self)), bool)
        for span in self.spans:
            seen[span.start : span.end, span.start : span.end] = np.tri(span.end - span.start, dtype=bool)
            above = span.parent
            while above >= 0:
                ancestor = self.spans[above]
                seen[span.start : span.end, ancestor.start : ancestor.end] = True
                above = ancestor.parent
        return seen

    def ancestry(self, offset: int) -> Integers:
        """The places in the row of all tokens up to `offset` on its path, in order."""
        number = next(i for i, span in enumerate(self.spans) if span.start <= offset < span.end)
        parts = [np.arange(self.spans[number].start, offset + 1)]
        while self.spans[number].parent >= 0:
            number = self.spans[number].parent
            parts.append(np.arange(self.spans[number].start, self.spans[number].end))
        return np.concatenate(parts[::-1]).astype(np.int64)


@dataclass(eq=False)
class Stage:
    """A stored stretch with all that follows it: first the packed rows, in batches, then longer stretches."""

    stretch: Ints  # empty at the top
    start: int  # its position
    batches: list[list[PackedRow]] = field(default_factory=list)
    stages: "list[Stage]" = field(default_factory=list)

    def below(self) -> "Iterator[Stage]":
        """The stage and all in it."""
        yield self
        for stage in self.stages:
            yield from stage.below()


@dataclass(frozen=True, eq=False)
class Plan:
    """The stages of all requests, and where each sequence's tokens are computed."""

    top: Stage
    tree: Tree
    places: dict[Node, tuple[Stage | PackedRow, int]]  # where a node lies: in a stage's stretch, or in a row from a place on

    def locate(self, sequence: int, depth: int) -> tuple[Stage | PackedRow, int]:
        """(stage or row, place in it) of a sequence's token at this depth."""
        node, offset = self.tree.locate(sequence, depth)
        where, start = self.places[node]
        return where, start + offset

    @property
    def tokens(self) -> int:
        """How many are computed."""
        return sum(len(stage.stretch) + sum(len(row) for batch in stage.batches for row in batch) for stage in self.top.below())

    def digest(self) -> str:
        """Of everything that decides what is computed, and in which shapes."""
        found = hashlib.blake2b(digest_size=16)
        for stage in self.top.below():
            found.update(b"stage" + np.asarray([stage.start, len(stage.batches), len(stage.stages)], np.int64).tobytes() + stage.stretch.tobytes())
            for batch in stage.batches:
                found.update(b"batch")
                for row in batch:
                    spans = np.asarray([(span.start, span.end, span.parent) for span in row.spans], np.int64)
                    found.update(b"row" + row.tokens.tobytes() + row.positions.tobytes() + spans.tobytes())
        return found.hexdigest()


def plan(sequences: Sequence[Tokens], layout: Layout = DEFAULT) -> Plan:
    """How to compute the tokens of all sequences, each prefix once."""
    tree = build(sequences)
    places: dict[Node, tuple[Stage | PackedRow, int]] = {}
    top = Stage(np.zeros(0, np.int32), 0)
    _fill(top, tree.roots, tree, layout, places)
    return Plan(top, tree, places)


def go_on_from(plan: Plan, position: int) -> None:
    """Move all tokens of a plan so many positions on."""
    for stage in plan.top.below():
        stage.start += position
        for batch in stage.batches:
            for row in batch:
                row.positions += position


def _fill(stage: Stage, nodes: Sequence[Node], tree: Tree, layout: Layout, places: dict[Node, tuple[Stage | PackedRow, int]]) -> None:
    """Share out nodes that follow the stage's stretch: small subtrees to rows, the others to stages of their own."""
    small: list[Node] = []
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        beginning = layout.apart and node.start == 0 and bool(node.children) and len(node.children) + len(node.ended) > 1
        if node.size <= layout.subtree and not beginning:
            small.append(node)
        elif not beginning and node.children and (len(node.children) - 1) * len(node.tokens) < layout.floor:
            fold(node, tree)
            waiting.extend(reversed(node.children))
        else:
            inner = Stage(node.tokens, node.start)
            places[node] = (inner, 0)
            stage.stages.append(inner)
            _fill(inner, node.children, tree, layout, places)
    rows = [_row(group, places) for group in _packed(small, layout.row)]
    stage.batches = list(_batched(rows, layout.batch))


def _packed(nodes: Sequence[Node], capacity: int) -> list[list[Node]]:
    """Subtrees in rows of this many tokens, best fit, the largest first."""
    rows: list[list[Node]] = []
    room: dict[int, list[int]] = {}  # rows by what is free in them
    for node in sorted(nodes, key=lambda node: -node.size):  # stable: the order of the tree decides among equals
        fitting = min((free for free in room if free >= node.size), default=None)
        if fitting is None:
            rows.append([node])
            number, free = len(rows) - 1, capacity - node.size
        else:
            number = room[fitting].pop()
            if not room[fitting]:
                del room[fitting]
            rows[number].append(node)
            free = fitting - node.size
        if free > 0:
            room.setdefault(free, []).append(number)
    return rows


def _row(nodes: Sequence[Node], places: dict[Node, tuple[Stage | PackedRow, int]]) -> PackedRow:
    row = PackedRow(np.zeros(0, np.int32), np.zeros(0, np.int32), [])
    numbers: dict[Node, int] = {}
    at = 0
    tokens, positions = [], []
    for top in nodes:
        for node in top.below():
            parent = numbers.get(node.parent, -1) if node.parent is not None and node is not top else -1
            numbers[node] = len(row.spans)
            row.spans.append(Span(at, at + len(node.tokens), parent))
            places[node] = (row, at)
            tokens.append(node.tokens)
            positions.append(np.arange(node.start, node.end, dtype=np.int32))
            at += len(node.tokens)
    row.tokens, row.positions = np.concatenate(tokens), np.concatenate(positions)
    return row


def _batched(rows: Sequence[PackedRow], most: int) -> Iterator[list[PackedRow]]:
    """Rows of like length together, the longest first, at most so many padded tokens, a quarter of them padding; a longer row goes alone."""
    batch: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: -len(row)):
        if batch and ((len(batch) + 1) * len(batch[0]) > most or 4 * len(row) < 3 * len(batch[0])):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
