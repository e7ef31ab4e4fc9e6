"""Every scorer in the folder keeps the public contract, whatever its fields."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curate.core import Row
from curate.interfaces import Scorer, ScoringContext
from curate.registry import component, names
from curate.testing import check_scorer

ROOT = Path(__file__).resolve().parents[2]
# What a default cannot hold: other models, and a kernel of fewer numbers than the few rows that it is made of here.
GIVEN: dict[str, dict[str, Any]] = {"difference": {"teacher": str(ROOT / "configs" / "quickstart_model")}, "trak": {"width": 6}, "fail_rate": {"max_tokens": 4}}
ELSEWHERE = {"embed"}  # needs an encoder: tests/scorers/test_embed.py


def checked(fields: dict[str, Any], base: ScoringContext, warmed: ScoringContext, rows: list[Row]) -> None:
    scorer = component("scorers", fields)
    assert isinstance(scorer, Scorer)
    check_scorer(scorer, replace(warmed if scorer.warmup else base, target=rows[:3]), rows)


@pytest.mark.parametrize("name", sorted(set(names("scorers")) - ELSEWHERE))
def test_every_scorer_keeps_the_contract(name: str, base: ScoringContext, warmed: ScoringContext, some_rows: list[Row]) -> None:
    checked({"name": name, **GIVEN.get(name, {})}, base, warmed, some_rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "less", "direction": "sgd", "width": 64},
        {"name": "less", "direction": "adam_less", "width": 64},
        {"name": "less", "rebalance": False, "width": 64},
        {"name": "less", "direction": "sign", "width": 64},
        {"name": "less", "direction": "sgd", "projection": "factored", "width": 256},
        {"name": "less", "direction": "sgd", "projection": "factored", "normalise": "module", "width": 256},
        {"name": "less", "normalise": "module", "modules": ["q_proj", "v_proj"], "width": 64},
        {"name": "influence", "curvature": "kfac", "width": 64},
        {"name": "influence", "checkpoint": "every", "width": 64},
        {"name": "self_influence", "curvature": "woodbury"},
        {"name": "el2n", "at": "every"},
        {"name": "loss", "at": "last"},
        {"name": "grad_norm", "at": "every", "modules": "attention"},
        {"name": "margin", "at": "base"},
        {"name": "bm25", "part": "answer"},
        {"name": "dsir", "per_token": True, "smoothing": 0.0},
        {"name": "fail_rate", "column": "fail_rate"},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_other_fields_keep_the_contract(fields: dict[str, Any], base: ScoringContext, warmed: ScoringContext, some_rows: list[Row]) -> None:
    checked(fields, base, warmed, some_rows)
