"""Every scorer in the folder keeps the public contract, whatever its fields."""

from typing import Any

import pytest

from curate.core import Row
from curate.interfaces import Scorer, ScoringContext
from curate.registry import component, names
from curate.testing import check_scorer


def checked(fields: dict[str, Any], base: ScoringContext, warmed: ScoringContext, rows: list[Row]) -> None:
    scorer = component("scorers", fields)
    assert isinstance(scorer, Scorer)
    check_scorer(scorer, warmed if scorer.warmup else base, rows)


@pytest.mark.parametrize("name", names("scorers"))
def test_every_scorer_keeps_the_contract(name: str, base: ScoringContext, warmed: ScoringContext, some_rows: list[Row]) -> None:
    checked({"name": name}, base, warmed, some_rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "less", "direction": "sgd", "width": 64},
        {"name": "less", "direction": "adam_less", "width": 64},
        {"name": "less", "rebalance": False, "width": 64},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_other_fields_keep_the_contract(fields: dict[str, Any], base: ScoringContext, warmed: ScoringContext, some_rows: list[Row]) -> None:
    checked(fields, base, warmed, some_rows)
