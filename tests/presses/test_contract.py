"""Every press in the folder keeps the public contract."""

from collections.abc import Mapping
from typing import Any

import pytest

from curate.interfaces import Press
from curate.registry import component, names
from curate.testing import check_press

# Calibrations as long as the suite's texts are.
HEADS = {"name": "retrieval_heads", "trials": 2, "context": 60, "needle": 12, "cue": 4}
GIVEN: dict[str, dict[str, Any]] = {
    "compresskv": {"importance": HEADS, "allocator": {"name": "output_error", "importance": HEADS, "samples": 2, "context": 60, "steps": 2}},
    "razor": {"recent": 16, "length": 20},
}


def checked(fields: Mapping[str, Any]) -> None:
    press = component("presses", fields)
    assert isinstance(press, Press)
    check_press(press)


@pytest.mark.parametrize("name", names("presses"))
def test_every_press_in_the_folder_keeps_the_contract(name: str) -> None:
    checked({"name": name, **GIVEN.get(name, {})})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "razor", "recent": 8, "length": 20, "weight": "one", "induction": 0.5},
        {"name": "razor", "recent": 8, "length": 20, "weight": "none", "sinks": 0},
        {"name": "triattention", "importance": {"name": "trigonometric", "selection": "per_layer_head", "recent": 4}, "live": 30, "slack": 5},
        {"name": "triattention", "importance": {"name": "trigonometric", "over_offsets": "max", "group": "mean", "recent": 0}},
        {"name": "fastkv", "keep": 0.5, "propagate": 0.3, "layer": 1, "pool": "max"},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_other_fields_keep_the_contract(fields: dict[str, Any]) -> None:
    checked(fields)
