"""How a pool grows: rows that come and rows that go, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from curate.core import Config, Strings
from curate.data.source import Source
from curate.errors import DataError


class Step(Config):
    """Rows that come into the pool and rows that leave it, after the warm-up and what scorers prepare have been settled on the pool before."""

    add: list[Source] = Field(default_factory=list, description="Sources of the rows that come; a row that is there already is not there twice.")
    remove: str | None = Field(None, description="A file with the ids of the rows that go, one a line; relative to the recipe.")

    @model_validator(mode="after")
    def _moves(self) -> "Step":
        if not self.add and self.remove is None:
            raise ValueError("a step of growth adds rows, removes rows, or both; give add: or remove:")
        return self


def read_ids(file: Path) -> list[str]:
    """The ids in a file, one a line, empty lines left out. DataError where it cannot be read, or says one twice."""
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the ids in {file} ({getattr(error, 'strerror', None) or error}); give a text file with an id on each line") from error
    twice = next((one for number, one in enumerate(sorted(found)) if number and one == sorted(found)[number - 1]), None)
    if twice is not None:
        raise DataError(f"{file}: the id {twice} is there twice; keep one")
    return found


def leaving(ids: Strings, gone: Sequence[str], file: str) -> Any:
    """(N,) which of the rows `ids` go. DataError for an id that none of them has."""
    mask = np.isin(ids, np.asarray(gone, np.str_) if gone else np.zeros(0, np.str_))
    if int(mask.sum()) != len(gone):
        unknown = sorted(set(gone) - set(ids[mask].tolist()))
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(f"{file}: no row of the pool has the id {unknown[0]}{more}; `selection.parquet` and --json have the ids")
    return mask
