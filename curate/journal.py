"""A journal in a file: one JSON line per decision, on disk before the next decision is made."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.errors import DiskError, IntegrityError
from curate.store import canonical


class JournalFile:
    """Implements `curate.interfaces.Journal`; a line that a crash cut short never counted, and is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = not path.is_file()

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """Every decision so far; IntegrityError for a line that is no JSON."""
        try:
            return [json.loads(line) for line in self._lines()]
        except ValueError as error:
            raise IntegrityError(f"{self._path} is damaged ({error}); remove it to decide anew, or restore it") from error

    def append(self, entry: Mapping[str, Any]) -> None:
        """One line, synced to the disk; DiskError if it cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._whole:
                os.truncate(self._path, sum(map(len, self._lines())))
            self._whole = False  # until the line is there
            with open(self._path, "ab") as file:
                file.write(canonical(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._whole = True
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {error.strerror}; the decisions so far are kept: run the same command again") from error

    def _lines(self) -> list[bytes]:
        found = self._path.read_bytes().splitlines(keepends=True) if self._path.is_file() else []
        return found[:-1] if found and not found[-1].endswith(b"\n") else found
