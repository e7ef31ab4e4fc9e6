"""A file system as a power cut leaves it: what a run did, of which some is on the disk for certain and the rest is a matter of luck.

The model is the least that POSIX promises, and what every journaling file system keeps:

    data of a file       on the disk once the file was flushed (fsync); before that any first part of what was written since, or that part and then
                         zeros up to the full length, or nothing
    a name               on the disk once the folder that holds it was flushed; before that each change (a file or folder made, renamed, removed) may be
                         there or not, whatever became of other changes: no order between them
    changes of one file  come in order: where a later one is there, so are the earlier ones of the same file or folder, and of the same name
    a rename             is there as a whole or not at all, also from one folder to another; flushing either folder makes it certain

What was there before the run is on the disk. Other things are not modelled: bytes that rot, sectors that are torn within, disks that lie about a flush.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(eq=False)
class Node:
    """A file with its bytes, those that were flushed first, or a folder with its names."""

    folder: bool = False
    data: bytes = b""
    flushed: int = 0  # how many of the bytes are on the disk
    names: dict[str, "Node"] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Change:
    """Something that happened to names: `node` got the name `to` (folder, name), lost the name `of`, or both at once."""

    node: Node
    of: tuple[Node, str] | None
    to: tuple[Node, str] | None

    @property
    def folders(self) -> list[Node]:
        return [place[0] for place in (self.of, self.to) if place]

    def follows(self, other: "Change") -> bool:
        """Whether this one, which came later, cannot be on the disk without the other."""
        same = any(mine and theirs and mine[0] is theirs[0] and mine[1] == theirs[1] for mine in (self.of, self.to) for theirs in (other.of, other.to))
        return self.node is other.node or same


Luck = Callable[[int], Sequence[bool]]  # which of so many changes survive
Cut = Callable[[Node], bytes]  # what is on the disk of a file


class Disk:
    """The names and bytes that a process sees, and the changes of names that are not on the disk yet."""

    def __init__(self, start: Path, root: Path) -> None:
        """What lies in `start` is on the disk; the operations will tell of paths below `root`."""
        self.root, self.top = root, _read(start)
        self.pending: list[Change] = []
        self._certain = dict(_folders(self.top))  # the names in each folder that are on the disk

    def apply(self, operation: Mapping[str, Any], data: bytes | None) -> None:
        """Do what a noted operation did."""
        name, path = operation["name"], Path(operation["path"])
        if name in ("open", "lock") and self._at(path) is None:
            self._change(Node(), None, self._place(path))
        elif name == "mkdir" and self._at(path) is None:
            self._change(Node(folder=True), None, self._place(path))
        elif name == "write" and data is not None and (file := self._at(path)):
            file.data += data
        elif name == "fsync" and (file := self._at(path)):
            file.flushed = len(file.data)
        elif name == "fsync folder" and (folder := self._at(path)):
            self._settle(folder)
        elif name in ("unlink", "rmdir", "unlock") and (gone := self._at(path)):
            self._change(gone, self._place(path), None)
        elif name == "rename" and (moved := self._at(Path(operation["source"]))):
            self._change(moved, self._place(Path(operation["source"])), self._place(path))

    def _change(self, node: Node, of: tuple[Node, str] | None, to: tuple[Node, str] | None) -> None:
        change = Change(node, of, to)
        _do(change, lambda folder: folder.names)
        self.pending.append(change)

    def _settle(self, folder: Node) -> None:
        """Put the changes of this folder's names on the disk, and those that they follow."""
        wanted = [folder in change.folders for change in self.pending]
        kept = _closed(self.pending, wanted)
        for change, on_disk in zip(self.pending, kept, strict=True):
            if on_disk:
                _do(change, lambda folder: self._certain.setdefault(folder, {}))
        self.pending = [change for change, on_disk in zip(self.pending, kept, strict=True) if not on_disk]

    def _place(self, path: Path) -> tuple[Node, str]:
        folder = self._at(path.parent)
        if folder is None:
            raise FileNotFoundError(f"{path.parent} was never made, as far as was noted")
        return folder, path.name

    def _at(self, path: Path) -> Node | None:
        node: Node | None = self.top
        for part in path.relative_to(self.root).parts:
            node = node.names.get(part) if node else None
        return node

    def left(self, luck: Luck, cut: Cut) -> dict[str, bytes | None]:
        """What a power cut leaves: every file with its bytes, every folder with None, by path."""
        names = {folder: dict(found) for folder, found in self._certain.items()}
        for change, there in zip(self.pending, _closed(self.pending, luck(len(self.pending))), strict=True):
            if there:
                _do(change, lambda folder: names.setdefault(folder, {}))
        return dict(_walk(self.top, "", lambda folder: names.get(folder, {}), cut))

    def seen(self) -> dict[str, bytes | None]:
        """What the process itself sees."""
        return dict(_walk(self.top, "", lambda folder: folder.names, lambda file: file.data))


def _do(change: Change, names: Callable[[Node], dict[str, Node]]) -> None:
    if change.of and names(change.of[0]).get(change.of[1]) is change.node:
        del names(change.of[0])[change.of[1]]
    if change.to:
        names(change.to[0])[change.to[1]] = change.node


def _closed(changes: Sequence[Change], wanted: Sequence[bool]) -> list[bool]:
    """The wanted changes and all earlier ones that they follow."""
    kept = list(wanted)
    for later in range(len(changes) - 1, -1, -1):
        if kept[later]:
            for earlier in range(later):
                kept[earlier] = kept[earlier] or changes[later].follows(changes[earlier])
    return kept


def _read(path: Path) -> Node:
    if not path.is_dir():
        data = path.read_bytes()
        return Node(data=data, flushed=len(data))
    return Node(folder=True, names={entry.name: _read(entry) for entry in path.iterdir()})


def _folders(node: Node) -> Iterator[tuple[Node, dict[str, Node]]]:
    if node.folder:
        yield node, dict(node.names)
        for child in node.names.values():
            yield from _folders(child)


def _walk(folder: Node, prefix: str, names: Callable[[Node], dict[str, Node]], cut: Cut) -> Iterator[tuple[str, bytes | None]]:
    for name, node in sorted(names(folder).items()):
        if node.folder:
            yield prefix + name, None
            yield from _walk(node, f"{prefix}{name}/", names, cut)
        else:
            yield prefix + name, cut(node)


def draws(count: int, generator: np.random.Generator) -> Iterator[tuple[str, Luck, Cut]]:
    """Ways in which a power cut may turn out: three that are always looked at, and others by chance."""
    yield "nothing that was not flushed", lambda changes: [False] * changes, lambda file: file.data[: file.flushed]
    yield "all names, no bytes", lambda changes: [True] * changes, lambda file: file.data[: file.flushed]
    yield "all bytes, no names", lambda changes: [False] * changes, lambda file: file.data
    for number in range(count):
        odds = generator.uniform()

        def some(changes: int, odds: float = odds) -> Sequence[bool]:
            return [bool(there) for there in generator.uniform(size=changes) < odds]

        def part(file: Node) -> bytes:
            length = int(generator.integers(file.flushed, len(file.data) + 1))
            zeros = bytes(len(file.data) - length) if generator.uniform() < 0.5 else b""
            return file.data[:length] + zeros

        yield f"by chance, {number + 1}", some, part
