"""Where a row comes from and under which licence, by the columns that it was read with."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

LICENCE_COLUMNS = ("license", "licence", "License", "Licence", "license_type")
SOURCE_COLUMNS = ("source", "dataset", "subset", "domain")
UNKNOWN = "unknown"


def licence_of(fields: Mapping[str, Any]) -> str:
    """The licence that a row's own columns name, or `unknown`."""
    return _first(fields, LICENCE_COLUMNS) or UNKNOWN


def source_of(fields: Mapping[str, Any], group: str) -> str:
    """The source that a row's own columns name, or else its group: the name of its file unless the recipe says otherwise."""
    return _first(fields, SOURCE_COLUMNS) or group


def rolled_up(rows: Iterable[tuple[Mapping[str, Any], str]]) -> dict[str, dict[str, int]]:
    """Rows by licence, and by source within it, largest first, of (columns, group) of every row."""
    counted: dict[str, Counter[str]] = {}
    for fields, group in rows:
        counted.setdefault(licence_of(fields), Counter())[source_of(fields, group)] += 1
    by_size = sorted(counted.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    return {licence: dict(sorted(sources.items(), key=lambda pair: (-pair[1], pair[0]))) for licence, sources in by_size}


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((str(fields[name]).strip() for name in names if isinstance(fields.get(name), str) and str(fields[name]).strip()), "")
