"""A journal in a file: one JSON line per decision, on disk before the next decision is made."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate import fault
from curate.errors import IntegrityError, SafetyError
from curate.folders import is_plain_file, refusals, sync_folder
from curate.store import atomic_write, canonical


class JournalFile:
    """Implements `curate.interfaces.Journal`; a line that a crash cut short never counted, and is dropped.

    Its folder has to be there. SafetyError where a link, a pipe or a device lies in the file's place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = not self._there()

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """Every decision so far; IntegrityError for a line that is no JSON."""
        try:
            return [json.loads(line) for line in self._lines()]
        except ValueError as error:
            raise IntegrityError(f"{self._path} is damaged ({error}); remove it to decide anew, or restore it") from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """One line, on the disk when this returns, and with the first one the name of the file; DiskError if it cannot be written."""
        if not self._whole:
            atomic_write(self._path, b"".join(self._lines()), below=self._path.parent)
        new, line = not self._there(), canonical(entry) + b"\n"
        self._whole = False  # until the line is there
        with refusals(self._path):
            fault.point("open", self._path)
            with open(self._path, "ab", opener=_own) as file:
                fault.point("write", self._path, line)
                file.write(line)
                file.flush()
                fault.point("fsync", self._path)
                os.fsync(file.fileno())
            if new:
                sync_folder(self._path.parent)
        self._whole = True

    def _there(self) -> bool:
        if os.path.lexists(self._path) and not is_plain_file(self._path):
            raise SafetyError(f"{self._path} is no regular file (a link, a pipe or a device); remove it and run the same command again")
        return os.path.lexists(self._path)

    def _lines(self) -> list[bytes]:
        with refusals(self._path, "read"):
            found = self._path.read_bytes().splitlines(keepends=True) if self._there() else []
        return found[:-1] if found and not found[-1].endswith(b"\n") else found


def _own(path: str, flags: int) -> int:
    """Open this file, and not another that a link planted meanwhile leads to."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
