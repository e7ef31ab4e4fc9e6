"""Libraries that warn of what is done on purpose."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def hushed(name: str) -> Iterator[None]:
    """Within it, the logger of this name says errors only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
