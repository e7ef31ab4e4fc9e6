"""What became of every task: RUNS/<name>/logs/tasks.jsonl, a line for each that ended, with its worker, its seconds and what it printed."""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TaskLog:
    """Appends to a log that people read and no stage does: where it cannot be written the run goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, event: Mapping[str, Any]) -> None:
        """One line, with the time."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(json.dumps({"time": round(time.time(), 3), **event}) + "\n")
