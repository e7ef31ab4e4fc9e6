"""Memory that is free again goes back to the system: glibc keeps what lies between pieces that are still in use, ever more of it in a long process."""

import ctypes
import time
from functools import lru_cache
from typing import Any

_EVERY = 10.0  # seconds; a call takes some milliseconds
_last = 0.0


def give_back(*, at_once: bool = False) -> bool:
    """Whether free memory was given back: at most every ten seconds unless `at_once`, and only where the C library can (glibc)."""
    global _last
    trim = _trim()
    if trim is None or not (at_once or time.monotonic() - _last >= _EVERY):
        return False
    _last = time.monotonic()
    return bool(trim(0))


@lru_cache(maxsize=1)
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no such library, or no such function in it
        return None
