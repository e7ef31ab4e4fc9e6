"""Every selector keeps filters, forced and forbidden rows and quotas, and ends at an elbow where its gains fall."""

import pkgutil
from typing import Any

import numpy as np
import pytest

import curate.selectors
from curate.arm import FilterStep
from curate.composition import compose, elbow
from curate.core import Budget, Features, Selection, Written
from curate.errors import ConfigError, DataError
from curate.interfaces import Context, Selector
from curate.order import subset
from curate.registry import component
from curate.rules import Quota, Rules
from curate.testing import sample_features

NAMES = sorted(module.name for module in pkgutil.iter_modules(curate.selectors.__path__))
ROWS = 60


def made(name: str, **fields: Any) -> Selector:
    found = component("selectors", {"name": name, **fields})
    assert isinstance(found, Selector)
    return found


@pytest.fixture(scope="module")
def pool() -> Features:
    plain = sample_features(ROWS)
    content = [Written(fields={"language": "de" if i % 5 == 0 else "en", "license": "mit" if i % 2 else "cc"}) for i in range(ROWS)]
    rows = {name: getattr(plain, name) for name in ("vectors", "scores", "lengths", "supervised")}
    return Features.from_arrays(**rows, ids=plain.ids.tolist(), groups=plain.groups.tolist(), content=content)


@pytest.fixture(scope="module")
def target(pool: Features) -> Features:
    return Features.from_arrays(vectors=np.asarray(pool.vectors)[:4] + 0.1, ids=["a", "b", "c", "d"])


def count(pool: Features, kept: Selection, column: str, kind: str) -> int:
    assert pool.content is not None
    return sum(pool.content[row].fields[column] == kind for row in kept.indices)


RULES = Rules(
    force=["row-00007", "row-00041"],
    forbid=["row-00003"],
    quotas=[
        Quota(by="language", min={"de": 6}, max={"*": "75%"}),
        Quota(by="license", max={"cc": 9}),
        Quota(by="group", min={"group-0": 4}),
    ],
)


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_keeps_every_rule_and_fills_the_budget(name: str, pool: Features, target: Features) -> None:
    kept = compose(made(name), pool, Budget(amount=20), rules=RULES, target=target, context=Context(seed=1)).validate(pool, Budget(amount=20))
    assert len(kept) == 20
    assert kept.indices[:2].tolist() == [7, 41] and 3 not in kept.indices
    assert count(pool, kept, "language", "de") >= 6 and count(pool, kept, "language", "en") <= 15
    assert count(pool, kept, "license", "cc") <= 9
    assert (pool.groups[kept.indices] == "group-0").sum() >= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_most_is_never_exceeded_in_tokens(name: str, pool: Features, target: Features) -> None:
    budget = Budget(amount=200, unit="tokens")
    rules = Rules(quotas=[Quota(by="length", bands=[10, 20], max={"20+": 60, "0-9": "30%"})])
    kept = compose(made(name), pool, budget, rules=rules, target=target, context=Context(seed=1)).validate(pool, budget)
    lengths = pool.lengths[kept.indices]
    assert lengths[lengths >= 20].sum() <= 60 and lengths[lengths < 10].sum() <= 60
    out = np.setdiff1d(np.arange(ROWS), kept.indices)
    for row in out:
        size = pool.lengths[row]
        band = lengths[(lengths >= 20) if size >= 20 else (lengths < 10) if size < 10 else (lengths > 10**6)].sum()
        assert lengths.sum() + size > 200 or (not 10 <= size < 20 and band + size > 60), "another row fits"


def test_rules_that_change_nothing_leave_the_selectors_own_rows_in_their_order(pool: Features, target: Features) -> None:
    selector, budget = made("round_robin"), Budget(amount=15)
    plain = selector.select(pool, budget, target=target)
    loose = Rules(quotas=[Quota(by="language", max={"*": 15})])
    assert compose(selector, pool, budget, target=target).indices.tolist() == plain.indices.tolist()
    assert compose(selector, pool, budget, rules=loose, target=target).indices.tolist() == plain.indices.tolist()


def test_another_order_of_the_pool_gives_the_same_rows(pool: Features, target: Features) -> None:
    shuffled = subset(pool, np.random.default_rng(0).permutation(ROWS))
    for name in ("facility_location", "random"):
        first = compose(made(name), pool, Budget(amount=20), rules=RULES, target=target, context=Context(seed=3))
        again = compose(made(name), shuffled, Budget(amount=20), rules=RULES, target=target, context=Context(seed=3))
        assert pool.ids[first.indices].tolist() == shuffled.ids[again.indices].tolist()


def test_only_rows_of_the_wanted_kinds_and_lengths_are_seen(pool: Features) -> None:
    rules = Rules(where={"language": ["de"], "group": ["group-0", "group-1"]}, tokens=[5, 25])
    kept = compose(made("top_k"), pool, Budget(amount=60), rules=rules).indices
    wanted = [i for i in range(ROWS) if i % 5 == 0 and i % 3 != 2 and 5 <= pool.lengths[i] <= 25]
    assert sorted(kept.tolist()) == wanted


def test_a_filter_runs_before_and_forced_rows_pass_it(pool: Features) -> None:
    best = np.argsort(-pool.scores)[:30]  # type: ignore[operator]
    worst = str(pool.ids[np.argmin(pool.scores)])  # type: ignore[arg-type]
    filters = [FilterStep(selector=made("top_k"), keep=Budget(amount=0.5, unit="fraction"))]
    kept = compose(made("k_center"), pool, Budget(amount=10), filters=filters).indices
    assert set(kept.tolist()) <= set(best.tolist())
    kept = compose(made("k_center"), pool, Budget(amount=10), filters=filters, rules=Rules(force=[worst])).indices
    assert pool.ids[kept[0]] == worst and set(kept[1:].tolist()) <= set(best.tolist())


def test_a_share_is_of_the_whole_pool(pool: Features) -> None:
    rules = Rules(where={"language": ["en"]})
    assert len(compose(made("random"), pool, Budget.parse("20%"), rules=rules)) == 12


def test_a_certificate_within_rules_still_bounds(pool: Features) -> None:
    free = made("facility_location").select(pool, Budget(amount=20)).certificate
    ruled = compose(made("facility_location"), pool, Budget(amount=20), rules=Rules(quotas=[Quota(by="language", min={"de": 10})])).certificate
    assert free and ruled
    assert ruled.objective < free.objective <= ruled.bound


def test_quotas_that_cannot_hold_and_unknown_rows_are_explained(pool: Features) -> None:
    def refused(**rules: Any) -> str:
        with pytest.raises(DataError) as caught:
            compose(made("random"), pool, Budget(amount=20), rules=Rules(**rules))
        return str(caught.value)

    assert "at least 13 rows of language=de are asked for, but the pool has 12" in refused(quotas=[Quota(by="language", min={"de": 13})])
    assert "at least 5 rows of language=fr are asked for, but the pool has 0" in refused(quotas=[Quota(by="language", min={"fr": 5})])
    assert "cannot all hold within 20 rows" in refused(quotas=[Quota(by="group", min={"group-0": "60%", "group-1": "60%"})])
    assert "no row of the pool has a column 'colour'" in refused(quotas=[Quota(by="colour", max={"*": 3})])
    assert "force: row x is not among the 60 usable rows" in refused(force=["x"])
    assert "none of the 60 rows of the pool may be kept" in refused(where={"language": ["fr"]})
    assert "the forced rows hold 2 of language=en, more than its max of 1" in refused(
        force=["row-00001", "row-00002"], quotas=[Quota(by="language", max={"en": 1})]
    )
    assert "the forced rows take 21 of a budget of 20" in refused(force=[f"row-{i:05d}" for i in range(21)])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"force": ["a"], "forbid": ["a"]}, "both forced and forbidden"),
        ({"tokens": [9, 3]}, "hold no length"),
        ({"quotas": [{"by": "length", "max": {"*": 3}}]}, "by: length needs them"),
        ({"quotas": [{"by": "length", "bands": [5, 5], "max": {"*": 3}}]}, "must rise"),
        ({"quotas": [{"by": "group", "min": {"*": 3}}]}, "for the most only"),
        ({"quotas": [{"by": "group"}]}, "needs a min or a max"),
        ({"quotas": [{"by": "group", "max": {"a": "many"}}]}, "is no amount"),
        ({"quotas": [{"by": "group", "max": {"a": "120%"}}]}, "is no amount"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict[str, Any], reason: str) -> None:
    from pydantic_core import to_json

    with pytest.raises(ValueError, match=reason):
        Rules.model_validate_json(to_json(fields))


def test_an_elbow_is_the_point_farthest_above_the_chord() -> None:
    gains = np.array([9.0, 7, 5, 1, 1, 0.5, 0.5])
    rise = np.cumsum(gains)
    above = [rise[k] / rise[-1] - (k + 1) / len(gains) for k in range(len(gains))]
    assert elbow(gains) == int(np.argmax(above)) + 1 == 3


def test_a_budget_of_elbow_stops_a_selector_whose_gains_fall(pool: Features, target: Features) -> None:
    rng = np.random.default_rng(0)
    corners = np.repeat(np.eye(6), 10, axis=0) + 0.01 * rng.normal(size=(ROWS, 6))
    clumps = Features.from_arrays(vectors=corners)
    selector = made("facility_location")
    kept = compose(selector, clumps, Budget.parse("elbow"))
    assert len(kept) == 6 and len({row // 10 for row in kept.indices}) == 6
    assert kept.certificate and kept.certificate.gap < 0.05
    assert len(compose(selector, clumps, Budget.parse("elbow 3"))) <= 3
    with pytest.raises(ConfigError, match="the gains of round_robin do not fall"):
        compose(made("round_robin"), pool, Budget.parse("elbow"), target=target)
    with pytest.raises(ConfigError, match="leave no single order"):
        compose(selector, pool, Budget.parse("elbow"), rules=Rules(force=["row-00001"]))


def test_an_elbow_budget_is_read_and_written(pool: Features) -> None:
    assert str(Budget.parse("elbow 5%")) == "elbow 5%" and str(Budget.parse("elbow")) == "elbow 100%"
    assert Budget.parse(str(Budget.parse("elbow 200"))) == Budget(amount=200, elbow=True)
