"""The counts of a driver: in words, summed, written down, and what they make of its exit code."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NAMES = ("planned", "landed", "not_landed", "passed", "failed")


def words(one: Mapping[str, Any], names: Iterable[str] = NAMES) -> str:
    """`12 planned, 12 landed, 0 not landed, 12 passed, 0 failed`."""
    return ", ".join(f"{one[name]} {name.replace('_', ' ')}" for name in names)


def counts(one: Mapping[str, Any]) -> str:
    """The words, and the seconds."""
    return f"{words(one)}, {one['seconds']} s"


def total(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over all parts."""
    parts = list(found)
    return {name: sum(one[name] for one in parts) for name in NAMES} | {"seconds": round(sum(one["seconds"] for one in parts), 1)}


def ended(sums: Mapping[str, Any], out: Path | None, record: Mapping[str, Any]) -> int:
    """Write the record where it is wanted; 0 if something was planned and all of it passed, else 1."""
    if out:
        out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if sums["planned"] and sums["passed"] == sums["planned"] else 1
