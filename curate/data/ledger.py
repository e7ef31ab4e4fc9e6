"""The account of rows: who came in, under which id, and that none was lost or taken twice."""

from array import array
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from curate.core import Strings
from curate.data.load import Parsed
from curate.errors import DataError, IntegrityError


@dataclass
class Ledger:
    """What is remembered of every row: some fifty bytes, whatever its length."""

    keys: bytearray = field(default_factory=bytearray)  # 16 per row: hash of the content
    ties: bytearray = field(default_factory=bytearray)  # 8 per row
    own: dict[int, str] = field(default_factory=dict)  # row -> the user's id, where there is one
    files: "array[int]" = field(default_factory=lambda: array("l"))
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    names: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def enter(self, parsed: Parsed) -> int:
        """Take a row in; its ordinal."""
        name, _, number = parsed.row.origin.rpartition(":")
        self.keys += parsed.key
        self.ties += parsed.tie
        self.files.append(self.names.setdefault(name, len(self.names)))
        self.numbers.append(int(number))
        if parsed.row.id is not None:
            self.own[len(self) - 1] = parsed.row.id
        return len(self) - 1

    def key(self, ordinal: int) -> bytes:
        """The hash of a row's content."""
        return bytes(self.keys[16 * ordinal : 16 * ordinal + 16])

    def origin(self, ordinal: int) -> str:
        """Where a row was found, file:line."""
        return f"{next(islice(self.names, self.files[ordinal], None))}:{self.numbers[ordinal]}"

    def ids(self) -> Strings:
        """(N,) the user's ids, or the content's hash with -1, -2, ... for its repeats; independent of the order of rows."""
        keys = np.frombuffer(bytes(self.keys), ">u8").reshape(-1, 2)
        ties = np.frombuffer(bytes(self.ties), ">u8")
        order = np.lexsort((ties, keys[:, 1], keys[:, 0]))
        new = np.r_[True, (np.diff(keys[order], axis=0) != 0).any(axis=1)] if len(order) else np.zeros(0, np.bool_)
        starts = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
        repeats = np.empty(len(order), np.int64)
        repeats[order] = np.arange(len(order)) - starts
        made = [self.own.get(row) or self.key(row).hex() + (f"-{repeat}" if repeat else "") for row, repeat in enumerate(repeats)]
        ids = np.asarray(made, np.str_)
        self._check_unique(ids)
        return ids

    def _check_unique(self, ids: Strings) -> None:
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if len(same):
            first, second = order[same[0]], order[same[0] + 1]
            raise DataError(f"id {str(ids[first])!r} is that of {self.origin(first)} and of {self.origin(second)}; make the id column unique, or leave out id")


def reconcile(ids: Strings, used: Strings, aside: Strings) -> None:
    """IntegrityError unless every id that came in is used or set aside, exactly once: in = used + quarantined, by id."""
    out = np.sort(np.concatenate([used, aside]))
    expected = np.sort(ids)
    if not np.array_equal(out, expected):
        odd = sorted((set(expected.tolist()) ^ set(out.tolist())) or {str(one) for one in out[1:][out[1:] == out[:-1]]})
        counts = f"{len(ids)} came in, {len(used)} were used and {len(aside)} set aside"
        raise IntegrityError(f"rows do not reconcile: {counts}; first odd id {odd[0]!r}; this is a fault of curate, please report it")
