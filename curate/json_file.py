"""JSON that others wrote: what a file holds, or one line that says what is wrong with it."""

import json
from pathlib import Path
from typing import Any, TypeVar

from curate.errors import ModelError

K = TypeVar("K", dict[str, Any], list[Any])


def read_foreign(file: Path, kind: type[K], mend: str) -> K:
    """The mapping or list in a file; ModelError where it is unreadable or holds something else, with how to `mend` that."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({error}); {mend}") from error
    if not isinstance(value, kind):
        raise ModelError(f"{file} holds a {type(value).__name__}, not a {'mapping' if kind is dict else 'list'}; {mend}")
    return value
