"""The submodular selectors keep the contract with every optimiser and every route to similarities, wherever parts of the work run."""

from typing import Any

import numpy as np
import pytest

from curate.core import Budget, Features
from curate.interfaces import Context
from curate.order import subset
from curate.selectors.facility_location import FacilityLocation
from curate.selectors.feature_based import FeatureBased
from curate.selectors.graph_cut import GraphCut
from curate.selectors.log_determinant import LogDeterminant
from curate.selectors.mutual_information import MutualInformation
from curate.selectors.saturated_coverage import SaturatedCoverage
from curate.selectors.set_cover import SetCover
from curate.submodular.greedi import partitions
from curate.submodular.pairwise import PairwiseSelector
from curate.submodular.selector import SubmodularSelector
from curate.testing import check_selector, sample_features
from curate.testing.selection import Backwards


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FacilityLocation, {"similarity": "tiled", "swaps": 2}),
        (FacilityLocation, {"similarity": "neighbours", "neighbours": 40, "optimiser": "greedi", "partitions": 3}),
        (FacilityLocation, {"optimiser": "stochastic", "epsilon": 0.3}),
        (FacilityLocation, {"optimiser": "threshold"}),
        (SaturatedCoverage, {"similarity": "neighbours", "neighbours": 9, "swaps": 1}),
        (SaturatedCoverage, {"similarity": "tiled", "saturation": 0.5, "optimiser": "sieve"}),
        (GraphCut, {"redundancy": 5.0, "swaps": 2}),
        (FeatureBased, {"concave": "log", "optimiser": "sieve"}),
        (LogDeterminant, {"scale": 30.0, "optimiser": "greedi"}),
        (SetCover, {"covers": "columns", "optimiser": "stochastic"}),
        (SetCover, {"similarity": "neighbours", "threshold": 0.4}),
        (MutualInformation, {"form": "flvmi", "similarity": "neighbours"}),
        (MutualInformation, {"form": "gcmi", "optimiser": "threshold"}),
        (MutualInformation, {"form": "logdetmi", "swaps": 1}),
    ],
)
def test_other_fields_keep_the_contract(kind: type[SubmodularSelector], fields: dict[str, Any]) -> None:
    check_selector(kind(**fields))


def pool(n: int, seed: int = 0, width: int = 6) -> Features:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(5, width))[rng.integers(5, size=n)] + 0.7 * rng.normal(size=(n, width))
    return Features.from_arrays(vectors=vectors, lengths=rng.integers(1, 9, n), ids=[f"row-{i}" for i in rng.permutation(n)])


@pytest.mark.parametrize(("kind", "fields"), [(FacilityLocation, {}), (SaturatedCoverage, {}), (SetCover, {}), (MutualInformation, {"form": "flvmi"})])
def test_tiles_give_the_rows_and_the_certificate_of_the_matrix(kind: type[PairwiseSelector], fields: dict[str, Any]) -> None:
    rows, goal = pool(300), pool(6, 1)
    for budget in (Budget(amount=30), Budget(amount=150, unit="tokens")):
        dense, tiled = (kind(**fields, similarity=route).select(rows, budget, target=goal) for route in ("dense", "tiled"))
        assert dense.indices.tolist() == tiled.indices.tolist()
        assert dense.certificate is not None and tiled.certificate is not None
        assert dense.certificate.bound == pytest.approx(tiled.certificate.bound, rel=1e-6)
        assert dense.certificate.gap == pytest.approx(tiled.certificate.gap, abs=1e-5)


def test_parts_hang_on_the_hashes_of_ids_alone() -> None:
    rows = pool(200)
    parts = partitions(rows, 7, 0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(200))
    moved = np.random.default_rng(0).permutation(200)[:150]
    fewer = [set(part.ids) for part in (subset(rows, moved[some]) for some in partitions(subset(rows, moved), 7, 0))]
    assert all(some <= set(rows.ids[part]) for some, part in zip(fewer, parts, strict=True))
    assert [part.tolist() for part in partitions(rows, 7, 1)] != [part.tolist() for part in parts]


def test_the_number_of_workers_never_changes_the_rows_that_parts_keep() -> None:
    rows, budget = pool(200), Budget(amount=20)
    one, other = (FacilityLocation(optimiser="greedi", partitions=5).select(rows, budget, context=context) for context in CONTEXTS)
    assert one.indices.tolist() == other.indices.tolist()
    assert FacilityLocation(optimiser="greedi", partitions=1).select(rows, budget).indices.tolist() == FacilityLocation().select(rows, budget).indices.tolist()


CONTEXTS = (Context(seed=1), Context(seed=1, cluster=Backwards()))


@pytest.mark.parametrize("optimiser", ["stochastic", "threshold", "greedi", "sieve"])
def test_faster_optimisers_lose_little_and_are_measured_by_the_same_certificate(optimiser: Any) -> None:
    rows = pool(400)
    exact = FacilityLocation().select(rows, Budget(amount=20)).certificate
    found = FacilityLocation(optimiser=optimiser, epsilon=0.05).select(rows, Budget(amount=20)).certificate
    assert exact is not None and found is not None
    assert found.details["random"] == exact.details["random"]
    assert found.objective - found.details["random"] >= 0.7 * (exact.objective - exact.details["random"])
    assert found.objective <= min(exact.bound, found.bound)


def test_exchanges_never_lower_the_objective_and_often_raise_it() -> None:
    raised = 0
    for seed in range(6):
        rows = pool(60, seed)
        plain, better = (FacilityLocation(swaps=swaps).select(rows, Budget(amount=5)) for swaps in (0, 20))
        assert plain.certificate is not None and better.certificate is not None
        assert better.certificate.objective >= plain.certificate.objective
        assert plain.prefix_consistent and not better.prefix_consistent
        raised += better.certificate.objective > plain.certificate.objective + 1e-6
    assert raised >= 2


def test_only_optimisers_that_draw_numbers_are_seeded() -> None:
    assert {name: GraphCut(optimiser=name).seeded for name in ("lazy", "naive", "threshold", "stochastic", "greedi", "sieve")} == {  # type: ignore[arg-type]
        "lazy": False,
        "naive": False,
        "threshold": False,
        "stochastic": True,
        "greedi": True,
        "sieve": True,
    }


def test_rows_are_certified_in_the_order_that_is_given() -> None:
    rows, budget = sample_features(50), Budget(amount=20)
    kept = FacilityLocation().select(rows, budget)
    again, other = (FacilityLocation().certify(rows, budget, order) for order in (kept.indices, kept.indices[::-1]))
    assert kept.certificate is not None and again is not None and other is not None
    assert again.bound == pytest.approx(kept.certificate.bound) and other.objective == pytest.approx(again.objective)
    assert other.bound > again.bound
    assert FacilityLocation().certify(rows, budget, kept.indices[:0]) is None
