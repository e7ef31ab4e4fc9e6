"""Every selector has a reference that it agrees with, and a selector or cache that is broken on purpose does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import curate.inference.scoring
from campaign.differential import references, tried
from campaign.differential_engine import Engine
from curate.core import Budget, Selection
from curate.registry import load, names

REFERENCES = references()


def silent(line: str) -> None:
    pass


def test_every_selector_that_ships_has_a_reference() -> None:
    assert sorted(REFERENCES) == names("selectors") and len(REFERENCES) >= 31


@pytest.mark.parametrize("name", sorted(set(REFERENCES) - {"diffusion", "loss_coreset"}))
def test_a_selector_agrees_with_its_reference(name: str) -> None:
    found = tried(name, REFERENCES[name], range(2), 5, silent)
    assert found["failures"] == [] and found["passed"] == found["planned"] == 2


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["diffusion", "loss_coreset"])
def test_the_dear_ones_agree_with_their_references(name: str) -> None:
    assert tried(name, REFERENCES[name], range(2), 5, silent)["failures"] == []


def reversed_order(chosen: Selection) -> Selection:
    return Selection(chosen.indices[::-1], chosen.weights[::-1], None if chosen.gains is None else chosen.gains[::-1], chosen.certificate)


def other_rows(chosen: Selection) -> Selection:
    """The last row given up for one that was left out, with the certificate of the old ones."""
    left = np.setdiff1d(np.arange(int(chosen.indices.max(initial=0)) + 2), chosen.indices)
    return Selection.of(np.append(chosen.indices[:-1], left[0]), certificate=chosen.certificate)


BROKEN: dict[str, Callable[[Selection], Selection]] = {
    **dict.fromkeys(("top_k", "random", "dsir_sample", "round_robin", "doubly_greedy", "softmax_mass", "choice", "semdedup", "d4", "k_center"), reversed_order),
    **dict.fromkeys(("facility_location", "log_determinant", "graph_cut", "mask_greedy", "multilinear", "set_cover", "transport"), other_rows),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_selector_that_is_broken_on_purpose_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = load("selectors", name)
    select = kind.select  # type: ignore[attr-defined]

    def broken(self: Any, pool: Any, budget: Budget, **more: Any) -> Selection:
        return BROKEN[name](select(self, pool, budget, **more))

    monkeypatch.setattr(kind, "select", broken)
    assert tried(name, REFERENCES[name], range(6), 5, silent)["failed"]


def test_a_bound_below_the_optimum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import curate.submodular.selector as shared

    real = shared.Certificate
    monkeypatch.setattr(shared, "Certificate", lambda kind, sense, objective, bound, gap, *rest: real(kind, sense, objective, 0.99 * objective, gap, *rest))
    assert any("below the optimum" in str(one) for one in tried("facility_location", REFERENCES["facility_location"], range(2), 5, silent)["failures"])


def test_the_engine_agrees_with_the_model_without_a_cache_and_a_wrong_position_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.loaded()
    assert tried("cache", engine.instance, range(3), 5, silent)["failures"] == [] and engine.apart < 1e-4
    passed = curate.inference.scoring.packed_tensors

    def stuck(*given: Any) -> Any:
        """Every token after the seventh at the position of the seventh."""
        ids, positions, mask = passed(*given)
        return ids, positions.clamp(max=6), mask

    monkeypatch.setattr(curate.inference.scoring, "packed_tensors", stuck)
    assert tried("cache", engine.instance, range(3), 5, silent)["failed"]
