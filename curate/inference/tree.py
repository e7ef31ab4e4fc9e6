"""The prefix tree of token sequences: what begins alike is one node, so that it is computed once.

Built from the sequences in lexicographic order, so that the same set gives the same tree in whatever order it comes; O(total tokens), after sorting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[int]


@dataclass(eq=False)
class Node:
    """The tokens from depth `start` on, up to where sequences part or end."""

    start: int
    tokens: NDArray[np.int32]
    parent: "Node | None" = None
    children: "list[Node]" = field(default_factory=list)
    ended: list[int] = field(default_factory=list)  # sequences that end in it
    size: int = 0  # tokens of the node and of all below it

    @property
    def end(self) -> int:
        """Depth behind its last token."""
        return self.start + len(self.tokens)

    def below(self) -> "Iterator[Node]":
        """The node and all its descendants, parents before children, in order."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True, eq=False)
class Tree:
    """The roots of a forest, and for each sequence the node that it ends in."""

    roots: list[Node]
    ends: list[Node]

    def locate(self, sequence: int, depth: int) -> tuple[Node, int]:
        """(node, offset in it) of a sequence's token at this depth."""
        node = self.ends[sequence]
        while depth < node.start:
            if node.parent is None:
                raise IndexError(depth)
            node = node.parent
        return node, depth - node.start

    @property
    def tokens(self) -> int:
        """Of all nodes: what has to be computed."""
        return sum(root.size for root in self.roots)


def build(sequences: Sequence[Tokens]) -> Tree:
    """The prefix tree of non-empty sequences; equal ones end in the same node."""
    arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].astype(">i4").tobytes())
    top = Node(0, np.zeros(0, np.int32))
    path = [top]
    before = np.zeros(0, np.int32)
    for i in order:
        shared = _common(before, arrays[i])
        while len(path) > 1 and path[-1].start >= shared:
            path.pop()
        if path[-1].end > shared:
            _split(path[-1], shared)
        if len(arrays[i]) > shared:
            leaf = Node(shared, arrays[i][shared:], path[-1])
            path[-1].children.append(leaf)
            path.append(leaf)
        path[-1].ended.append(i)
        before = arrays[i]
    for node in top.children:
        node.parent = None
    for root in top.children:
        measure(root)
    ends = [top] * len(arrays)
    for node in top.below():
        for i in node.ended:
            ends[i] = node
    return Tree(top.children, ends)


def measure(root: Node) -> None:
    """Bring `size` up to date in the whole subtree."""
    for node in reversed(list(root.below())):
        node.size = len(node.tokens) + sum(child.size for child in node.children)


def fold(node: Node, tree: Tree) -> None:
    """Give every child a copy of the node's tokens: the node is then computed once per child."""
    for child in node.children:
        child.tokens = np.concatenate([node.tokens, child.tokens])
        child.start, child.parent = node.start, node.parent
        measure_one(child)
    for i in node.ended:
        tree.ends[i] = node.children[0]
        node.children[0].ended.append(i)


def measure_one(node: Node) -> None:
    """Bring the node's own `size` up to date, its children's being right."""
    node.size = len(node.tokens) + sum(child.size for child in node.children)


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    shortest = min(len(one), len(other))
    differing = np.flatnonzero(one[:shortest] != other[:shortest])
    return int(differing[0]) if len(differing) else shortest


def _split(node: Node, depth: int) -> None:
    """Cut a node in two at this depth; the lower part takes over its children and the sequences that end in it."""
    lower = Node(depth, node.tokens[depth - node.start :], node, node.children, node.ended)
    for child in lower.children:
        child.parent = lower
    node.tokens, node.children, node.ended = node.tokens[: depth - node.start], [lower], []
