"""Some of many trials, where a driver is given less time than all of them take."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the items, the first one and others evenly spread behind it; all of them for 0."""
    count = min(limit, len(items)) if limit else len(items)
    return [items[place * len(items) // count] for place in range(count)]
