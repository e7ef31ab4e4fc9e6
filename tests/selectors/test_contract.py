"""Every selector in the folder keeps the public contract, and the suite notices those that do not."""

import importlib
import pkgutil
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field

import curate.selectors
from curate.core import Budget, Features, Selection
from curate.errors import DataError
from curate.interfaces import Context, Selector
from curate.testing import Nonconforming, check_selector, sample_features

NAMES = sorted(module.name for module in pkgutil.iter_modules(curate.selectors.__path__))


def made(name: str, **fields: Any) -> Selector:
    module = importlib.import_module(f"curate.selectors.{name}")
    selector: Selector = getattr(module, "".join(part.capitalize() for part in name.split("_")))(**fields)
    return selector


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_in_the_folder_keeps_the_contract(name: str) -> None:
    check_selector(made(name))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("top_k", {"largest": False}),
        ("round_robin", {"on_taken": "lose_turn"}),
        ("round_robin", {"metric": "inner"}),
        ("facility_location", {"dense_limit": 0}),
        ("facility_location", {"dense_limit": 0, "neighbours": 3}),
        ("transport", {"weights": "potential"}),
        ("transport", {"exact_limit": 0, "weights": "potential"}),
        ("coverage", {"bins": "quantile", "hard": "low", "strata": 7}),
        ("coverage", {"hardest_cut": 0.9}),
        ("policy_mask", {"credit": "shared"}),
        ("policy_mask", {"quality_weight": 0.0}),
    ],
)
def test_other_fields_keep_the_contract(name: str, fields: dict[str, Any]) -> None:
    check_selector(made(name, **fields))


def test_targeted_selectors_need_no_vectors_where_a_similarity_is_given() -> None:
    plain = sample_features(30)
    alike = np.random.default_rng(0).normal(size=(30, 4))
    pool = Features.from_arrays(similarity=alike, ids=plain.ids.tolist(), lengths=plain.lengths)
    goal = Features.from_arrays(ids=["a", "b", "c", "d"])
    for name in ("round_robin", "top_k"):
        kept = made(name).select(pool, Budget(amount=4), target=goal).indices
        assert set(kept[:1].tolist()) <= set(alike.argmax(axis=0).tolist()) | {int(alike.mean(axis=1).argmax())}


class _First(Selector):
    """Takes the first rows of the pool."""

    name: Literal["first"] = Field(default="first", description="Its name.")

    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        return self.pick(pool, budget)

    def pick(self, pool: Features, budget: Budget) -> Selection:
        return Selection.of(budget.fill(np.arange(len(pool)), pool), prefix_consistent=budget.unit == "rows")


class _Short(_First):
    """Leaves a row's worth of the budget unspent."""

    def pick(self, pool: Features, budget: Budget) -> Selection:
        return Selection.of(budget.fill(np.argsort(pool.ids), pool)[:-1], prefix_consistent=False)


class _Boastful(_First):
    """Says that token budgets are nested, though larger ones start with a dearer row."""

    def pick(self, pool: Features, budget: Budget) -> Selection:
        order = np.argsort(pool.ids)
        return Selection.of(budget.fill(order if budget.unit == "rows" else order[np.argsort(-pool.lengths[order], kind="stable")], pool))


class _Meddling(_First):
    """Sorts the caller's scores."""

    def pick(self, pool: Features, budget: Budget) -> Selection:
        order = np.argsort(pool.ids)
        if pool.scores is not None:
            pool.scores.sort()
        return Selection.of(budget.fill(order, pool), prefix_consistent=False)


@pytest.mark.parametrize(
    ("wrong", "promise"),
    [(_First(), "another order of the pool"), (_Short(), "unspent"), (_Boastful(), "no prefix"), (_Meddling(), "changes the pool's scores")],
)
def test_the_suite_catches_a_selector_that_breaks_a_promise(wrong: Selector, promise: str) -> None:
    with pytest.raises(Nonconforming, match=promise):
        check_selector(wrong)


class _Silent(_First):
    """Reads scores without saying so."""

    def pick(self, pool: Features, budget: Budget) -> Selection:
        if pool.scores is None:
            raise DataError("no scores")
        return Selection.of(budget.fill(np.argsort(pool.ids), pool), prefix_consistent=False)


def test_a_need_that_is_not_declared_is_caught() -> None:
    with pytest.raises(Nonconforming, match="declares no need, but cannot do without"):
        check_selector(_Silent())
