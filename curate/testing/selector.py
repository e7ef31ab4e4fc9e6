"""What every selector promises: `check_selector(MySelector())`."""

from dataclasses import replace
from typing import Any

import numpy as np

from curate.core import Budget, Features, Selection, Unit, Written
from curate.errors import CurateError
from curate.interfaces import Context, Selector
from curate.order import subset
from curate.testing.component import Nonconforming, check_identity, require
from curate.testing.selection import check_promises, same

_ARRAYS = ("ids", "lengths", "vectors", "scores", "similarity", "groups", "supervised")


def check_selector(selector: Selector, *, features: Features | None = None, target: Features | None = None) -> None:
    """Run every check of the selector contract: identity, budgets, determinism, edges and refusals.

    Args:
        selector: the instance to check; a second one of its class is made from its fields.
        features: a pool of at least 12 rows to check it on; by default 40 synthetic rows with vectors and scores.
        target: rows with vectors of the same width; by default five near rows of the pool.
    """
    pool = features if features is not None else sample_features(40)
    goal = target if target is not None else _near(pool, 5)
    before = [_copies(side) for side in (pool, goal)]
    check_identity(selector, "selectors")
    require(bool(type(selector).model_fields["name"].description), f"{type(selector).__name__}.name: every field needs a description")
    _check_budgets(selector, pool, goal)
    _check_determinism(selector, pool, goal)
    _check_edges(selector, pool, goal)
    _check_refusals(selector, pool, goal)
    check_promises(selector, pool, goal)
    for role, side, copies in zip(("pool", "target"), (pool, goal), before, strict=True):
        for name, value in copies.items():
            require(bool(np.array_equal(value, getattr(side, name))), f"{selector.name}: changes the {role}'s {name}")


def _copies(features: Features) -> dict[str, Any]:
    return {name: np.copy(getattr(features, name)) for name in _ARRAYS if getattr(features, name) is not None}


def sample_features(rows: int, *, width: int = 6, seed: int = 0) -> Features:
    """Synthetic rows with vectors, scores, lengths of 1 to 30 tokens, fewer supervised ones, and three groups."""
    rng = np.random.Generator(np.random.Philox(seed))
    lengths = rng.integers(1, 31, rows)
    return Features.from_arrays(
        vectors=rng.normal(size=(rows, width)).astype(np.float32),
        scores=rng.normal(size=rows),
        content=[Written(turns=(("user", f"question {i}"), ("assistant", f"answer {i}"))) for i in range(rows)],
        ids=[f"row-{i:05d}" for i in range(rows)],
        lengths=lengths,
        supervised=np.maximum(lengths // 2, 1),
        groups=[f"group-{i % 3}" for i in range(rows)],
    )


def _near(pool: Features, rows: int) -> Features:
    if pool.vectors is None:
        return sample_features(rows)
    rng = np.random.Generator(np.random.Philox(1))
    vectors = np.asarray(pool.vectors)[rng.choice(len(pool), rows, replace=False)]
    return Features.from_arrays(vectors=vectors + 0.1 * rng.normal(size=vectors.shape), ids=[f"goal-{i}" for i in range(rows)])


def _check_budgets(selector: Selector, pool: Features, target: Features) -> None:
    total, supervised = int(pool.lengths.sum()), int(pool.supervised.sum())
    units: list[tuple[float, Unit]] = [(7, "rows"), (0.3, "fraction"), (total // 4, "tokens"), (supervised // 3, "supervised_tokens")]
    for amount, unit in units:
        _full(selector, pool, Budget(amount=float(amount), unit=unit), target)
    nested: list[tuple[float, float, Unit]] = [(4, 9, "rows"), (0.2, 0.6, "fraction"), (total // 6, total // 3, "tokens")]
    for smaller, larger, unit in nested:
        few, many = (selector.select(pool, Budget(amount=float(amount), unit=unit), target=target) for amount in (smaller, larger))
        if many.prefix_consistent and few.prefix_consistent:
            same = few.indices.tolist() == many.indices[: len(few)].tolist()
            require(same, f"{selector.name}: calls itself prefix consistent, but {smaller} {unit} is no prefix of {larger}")


def _full(selector: Selector, pool: Features, budget: Budget, target: Features, *, seed: int = 0) -> Selection:
    """The selection, if it is valid and no row that was left out would still fit."""
    selection = selector.select(pool, budget, target=target, context=Context(seed=seed)).validate(pool, budget)
    costs, capacity = budget.costs(pool)
    out = np.setdiff1d(np.arange(len(pool)), selection.indices)
    left = capacity - int(costs[selection.indices].sum())
    require(len(out) == 0 or left < costs[out].min(), f"{selector.name}: leaves {left} of {budget} {budget.unit} unspent although another row fits")
    return selection


def _check_determinism(selector: Selector, pool: Features, target: Features) -> None:
    rng = np.random.Generator(np.random.Philox(2))
    for budget in (Budget(amount=9), Budget(amount=float(pool.lengths.sum() // 3), unit="tokens")):
        once, again = (selector.select(pool, budget, target=target, context=Context(seed=5)) for _ in range(2))
        require(same(pool, once, pool, again), f"{selector.name}: the same seed gives different rows or weights")
        if not selector.seeded:
            other = selector.select(pool, budget, target=target, context=Context(seed=6))
            require(same(pool, once, pool, other), f"{selector.name}: says that it is not seeded, but another seed gives other rows")
        if not selector.heeds_target:
            for others in (None, subset(target, np.asarray([0]))):
                other = selector.select(pool, budget, target=others, context=Context(seed=5))
                require(same(pool, once, pool, other), f"{selector.name}: says that it does not heed the target, but another target gives other rows")
        twin = type(selector).model_validate(selector.model_dump()).select(pool, budget, target=target, context=Context(seed=5))
        require(same(pool, once, pool, twin), f"{selector.name}: an instance with equal fields gives different rows")
        shuffled, goals = subset(pool, rng.permutation(len(pool))), subset(target, rng.permutation(len(target)))
        moved = selector.select(shuffled, budget, target=goals, context=Context(seed=5))
        require(same(pool, once, shuffled, moved), f"{selector.name}: another order of the pool or target gives other rows")


def _check_edges(selector: Selector, pool: Features, target: Features) -> None:
    n = len(pool)
    for amount in (0, n, n + 5):
        kept = _full(selector, pool, Budget(amount=float(amount)), target)
        require(len(kept) == min(amount, n), f"{selector.name}: keeps {len(kept)} rows of {n} for a budget of {amount}")
    nothing = selector.select(pool, Budget(amount=0.0, unit="tokens"), target=target)
    require(len(nothing) == 0, f"{selector.name}: keeps rows for a budget of no tokens")
    _full(selector, subset(pool, np.asarray([3])), Budget(amount=1.0), target)
    _full(selector, pool, Budget(amount=6.0), subset(target, np.asarray([0])))
    _full(selector, pool, Budget(amount=6.0), subset(pool, np.asarray([1, 5, 9])))
    rows = np.arange(n)
    equal = replace(pool, scores=np.ones(n), vectors=None if pool.vectors is None else np.asarray(pool.vectors)[np.zeros(n, np.int64)])
    kept = _full(selector, equal, Budget(amount=6.0), target)
    back = selector.select(subset(equal, rows[::-1]), Budget(amount=6.0), target=target)
    require(same(equal, kept, subset(equal, rows[::-1]), back), f"{selector.name}: ties between equal rows are not settled by id")


def _check_refusals(selector: Selector, pool: Features, target: Features) -> None:
    reads: set[str] = set()
    for need in selector.needs:
        reads |= {"vectors", "similarity"} if need == "similarity" and pool.similarity is None else {need}
    bare: dict[str, Any] = dict.fromkeys(("vectors", "scores", "similarity"))
    if selector.needs_one_of:
        _refused(selector, replace(pool, **bare), target, f"{selector.name}: must refuse features without {' or '.join(sorted(selector.needs_one_of))}")
    elif not reads:
        try:
            _full(selector, replace(pool, **bare), Budget(amount=2), target)
        except (CurateError, TypeError, AttributeError) as error:
            raise Nonconforming(f"{selector.name}: declares no need, but cannot do without scores or vectors; declare needs or needs_one_of") from error
    if not reads:
        return
    absent: dict[str, Any] = dict.fromkeys(reads)
    _refused(selector, replace(pool, **absent), target, f"{selector.name}: must refuse features without {' and '.join(sorted(selector.needs))}")
    for name in sorted(reads):
        if getattr(pool, name) is not None:
            broken: dict[str, Any] = {name: np.array(getattr(pool, name), np.float64)}
            broken[name][len(pool) // 2] = np.nan
            _refused(selector, replace(pool, **broken), target, f"{selector.name}: must refuse NaN in {name}")


def _refused(selector: Selector, pool: Features, target: Features, promise: str) -> None:
    try:
        selector.select(pool, Budget(amount=5.0), target=target)
    except CurateError:
        return
    raise Nonconforming(promise)
