"""Selectors that optimise a function of the kept set, against every set that the budget allows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from curate.core import Budget, Features, Selection
from curate.interfaces import Context, Selector
from curate.order import subset
from curate.registry import component
from tests.selectors import (
    test_basis,
    test_facility_location,
    test_feature_based,
    test_graph_cut,
    test_k_center,
    test_log_determinant,
    test_mask_greedy,
    test_mutual_information,
    test_saturated_coverage,
    test_transport,
)

Numbers = np.ndarray[Any, Any]
Value = Callable[[list[int]], float]
CLOSE = 3e-5  # float32 similarities, in a sum over at most twelve rows
E1 = 1 - 1 / np.e


def made(name: str, **fields: Any) -> Selector:
    """A selector by its name, as a recipe makes it."""
    found = component("selectors", {"name": name, **fields})
    if not isinstance(found, Selector):
        raise TypeError(f"{name} is no selector")
    return found


def pool_of(rng: np.random.Generator, n: int, width: int = 5, prefix: str = "row") -> Features:
    """Rows in three loose clusters, with vectors, scores, lengths and groups."""
    vectors = rng.normal(size=(3, width))[rng.integers(3, size=n)] + 0.6 * rng.normal(size=(n, width))
    return Features.from_arrays(
        vectors=vectors.astype(np.float32),
        scores=rng.normal(size=n),
        lengths=rng.integers(3, 9, n),
        groups=[f"g{kind}" for kind in rng.integers(3, size=n)],
        ids=[f"{prefix}-{number:02d}" for number in rng.permutation(n)],
    )


@dataclass(frozen=True)
class Found:
    """A selection, and what of the promises that every selector makes it breaks."""

    selection: Selection
    wrong: list[str]

    @property
    def rows(self) -> list[int]:
        return [int(row) for row in self.selection.indices]


def run(selector: Selector, pool: Features, budget: Budget, target: Features | None = None, seed: int = 0) -> Found:
    """Select; the budget, the certificate computed again, and the same rows of a pool in another order."""
    context = Context(seed=seed)
    chosen = selector.select(pool, budget, target=target, context=context).validate(pool, budget)
    wrong = []
    again = selector.certify(pool, budget, chosen.indices, target=target, context=context)
    if (again is None) != (chosen.certificate is None):
        wrong.append("select and certify do not both give a certificate")
    if again and chosen.certificate:
        for name in ("objective", "bound", "gap"):
            mine, theirs = getattr(chosen.certificate, name), getattr(again, name)
            if abs(mine - theirs) > 1e-6 * max(1.0, abs(mine)):
                wrong.append(f"{name} {mine!r} is {theirs!r} when it is computed again")
    order = np.random.default_rng(seed).permutation(len(pool))
    turned = selector.select(subset(pool, order), budget, target=target, context=context)
    if pool.ids[order][turned.indices].tolist() != pool.ids[chosen.indices].tolist():
        wrong.append("another order of the pool gives other rows")
    return Found(chosen, wrong)


def budgets(rng: np.random.Generator, pool: Features) -> Iterator[Budget]:
    """A few rows, and as many tokens as some rows have."""
    yield Budget(amount=int(rng.integers(1, 5)))
    yield Budget(amount=float(rng.integers(10, 20)), unit="tokens")


def every(pool: Features, budget: Budget) -> Iterator[list[int]]:
    """Every set of rows within the budget, but for the empty one."""
    costs, capacity = budget.costs(pool)
    for size in range(1, len(pool) + 1):
        if np.sort(costs)[:size].sum() > capacity:
            return
        yield from (list(some) for some in combinations(range(len(pool)), size) if costs[list(some)].sum() <= capacity)


def maximised(found: Found, value: Value, pool: Features, budget: Budget, share: float) -> list[str]:
    """The certificate's objective is the function's value, below the optimum, not below the guarantee; the bound is above it."""
    certificate = found.selection.certificate
    if certificate is None:
        return [*found.wrong, "there is no certificate"]
    best, mine = max(value(some) for some in every(pool, budget)), value(found.rows)
    wrong = list(found.wrong)
    if abs(certificate.objective - mine) > CLOSE * max(1.0, abs(mine)):
        wrong.append(f"objective {certificate.objective!r}, by the formula {mine!r}")
    if certificate.objective > best + CLOSE * max(1.0, abs(best)):
        wrong.append(f"objective {certificate.objective!r} above the optimum {best!r}")
    if certificate.bound < best - CLOSE * max(1.0, abs(best)):
        wrong.append(f"bound {certificate.bound!r} below the optimum {best!r}")
    if mine < share * best - CLOSE * max(1.0, abs(best)):
        wrong.append(f"objective {mine!r} is below {share:.2f} of the optimum {best!r}")
    return wrong


def greedy_share(budget: Budget) -> float:
    """What greedy guarantees of a monotone submodular function: for costs that differ, the guarded one half of it."""
    return E1 if budget.unit == "rows" else E1 / 2


def _submodular(seed: int, name: str, value_of: Callable[[Features, Budget], Value], **fields: Any) -> list[str]:
    rng = np.random.default_rng([seed, len(name)])
    pool, wrong = pool_of(rng, int(rng.integers(8, 12))), []
    for budget in budgets(rng, pool):
        found = run(made(name, **fields), pool, budget)
        wrong += maximised(found, value_of(pool, budget), pool, budget, greedy_share(budget))
    return wrong


def facility_location(seed: int) -> list[str]:
    def value(pool: Features, budget: Budget) -> Value:
        alike = test_facility_location.kernel(pool)
        return lambda rows: test_facility_location.value(alike, rows)

    return _submodular(seed, "facility_location", value)


def feature_based(seed: int) -> list[str]:
    log = bool(seed % 2)

    def value(pool: Features, budget: Budget) -> Value:
        wide = np.asarray(pool.vectors, np.float64)
        return lambda rows: test_feature_based.value(wide, rows, log)

    return _submodular(seed, "feature_based", value, concave="log" if log else "root")


def log_determinant(seed: int) -> list[str]:
    def value(pool: Features, budget: Budget) -> Value:
        unit = test_log_determinant.unit(np.asarray(pool.vectors, np.float64))
        return lambda rows: test_log_determinant.value(unit, rows, 3.0)

    return _submodular(seed, "log_determinant", value, scale=3.0)


def saturated_coverage(seed: int) -> list[str]:
    def value(pool: Features, budget: Budget) -> Value:
        costs, capacity = budget.costs(pool)
        alike = test_saturated_coverage.alike(pool)
        return lambda rows: test_saturated_coverage.value(alike, 0.8 * capacity / costs.sum(), rows)

    return _submodular(seed, "saturated_coverage", value, saturation=0.8)


def set_cover(seed: int) -> list[str]:
    by_rows = bool(seed % 2)

    def value(pool: Features, budget: Budget) -> Value:
        wide = np.asarray(pool.vectors, np.float64)
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        reached = unit @ unit.T >= 0.3 if by_rows else wide > 0
        return lambda rows: float(reached[rows].any(axis=0).sum())

    return _submodular(seed, "set_cover", value, covers="rows" if by_rows else "columns", threshold=0.3)


def graph_cut(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    pool, weight, wrong = pool_of(rng, 10), float(rng.choice([0.0, 0.5, 4.0])), []
    alike = test_graph_cut.alike(pool)
    for budget in budgets(rng, pool):
        found = run(made("graph_cut", redundancy=weight), pool, budget)
        share = greedy_share(budget) if weight <= 0.5 else -np.inf
        wrong += maximised(found, lambda rows: float(alike[:, rows].sum() - weight * alike[np.ix_(rows, rows)].sum()), pool, budget, share)
    return wrong


def mutual_information(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    form = ("flqmi", "flvmi", "gcmi", "logdetmi")[seed % 4]
    pool, target, wrong = pool_of(rng, 9, 4), pool_of(rng, 3, 4, "goal"), []
    x, y = test_mutual_information.unit(pool), test_mutual_information.unit(target)
    for budget in budgets(rng, pool):
        found = run(made("mutual_information", form=form, strength=0.9), pool, budget, target)
        share = -np.inf if form == "logdetmi" else greedy_share(budget)
        wrong += maximised(found, lambda rows: test_mutual_information.value(form, x, y, rows, 0.9), pool, budget, share)
    return wrong


def k_center(seed: int) -> list[str]:
    """The rows of the plain loop; the radius within twice the best one, and the bound below it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(11, 3)).astype(np.float32)
    pool, kept = Features.from_arrays(vectors=vectors), int(rng.integers(1, 5))
    found = run(made("k_center"), pool, Budget(amount=kept))
    apart = test_k_center.distances(vectors)
    radius = test_k_center.radius(apart, found.selection.indices)
    best = min(test_k_center.radius(apart, some) for some in combinations(range(11), kept))
    certificate, wrong = found.selection.certificate, list(found.wrong)
    if found.rows != test_k_center.naive(vectors, kept)[0]:
        wrong.append(f"rows {found.rows}, not those of the plain loop")
    if certificate is None or abs(certificate.objective - radius) > 1e-9 or not certificate.bound <= best + 1e-9 or radius > 2 * best + 1e-9:
        wrong.append(f"{certificate} for a radius of {radius}, the best is {best}")
    return wrong


def basis(seed: int) -> list[str]:
    """As many independent rows as there can be, of no more overlap than the mean of all such sets; the certified rank is numpy's."""
    kind: Any = ("jaccard", "cosine")[seed % 2]
    vectors = test_basis.matrix(kind, seed)
    rank = int(np.linalg.matrix_rank(vectors))
    pool, kept = Features.from_arrays(vectors=vectors), max(1, rank - seed % 2)
    found = run(made("basis", overlap=kind), pool, Budget(amount=kept))
    certificate, wrong = found.selection.certificate, list(found.wrong)
    sets = [some for some in combinations(range(len(vectors)), kept) if np.linalg.matrix_rank(vectors[list(some)]) == kept]
    costs = [test_basis.cost(vectors, some, kind) for some in sets]
    mine = test_basis.cost(vectors, found.rows, kind)
    if tuple(sorted(found.rows)) not in sets:
        wrong.append(f"rows {found.rows} are dependent")
    if mine > np.mean(costs) + 1e-9:
        wrong.append(f"overlap {mine}, the mean is {np.mean(costs)} and the least {min(costs)}")
    if certificate is None or (certificate.objective, certificate.bound) != (kept, kept):
        wrong.append(f"{certificate} for a rank of {kept}")
    return wrong


def _masks(seed: int, name: str, **fields: Any) -> list[str]:
    """No mask is above the bound, the objective is its own mask's, and better than the average mask's."""
    rng = np.random.default_rng(seed)
    pool, kept = pool_of(rng, 10), int(rng.integers(2, 5))
    budget, form, weight = Budget(amount=kept), ("pairwise", "covariance", "facility")[seed % 3], float(rng.choice([0.2, 0.5, 0.8]))
    found = run(made(name, diversity=form, quality_weight=weight, **fields), pool, budget)
    rows = subset(pool, np.argsort(pool.ids))  # the objective's scales are taken on the rows in the order of their ids
    held, place = test_mask_greedy.objective(rows, budget, weight, form), np.argsort(np.argsort(pool.ids))  # type: ignore[arg-type]
    values = [held.value(np.asarray(some)) for some in combinations(range(10), kept)]
    mine = test_mask_greedy.worth(held, place[found.rows].tolist(), kept)
    mine -= held.scales[1] / kept if form == "covariance" else 0  # every row's square with itself, which no choice of rows changes
    certificate, wrong = found.selection.certificate, list(found.wrong)
    if certificate is None or abs(certificate.objective - mine) > 1e-4 or certificate.bound < max(values) - 1e-4 or mine > max(values) + 1e-4:
        wrong.append(f"{certificate} for a mask worth {mine}, the best is worth {max(values)}")
    if name != "mmr" and mine < np.mean(values) - 1e-6:
        wrong.append(f"a mask worth {mine}, on average they are worth {np.mean(values)}")
    return wrong


def mask_greedy(seed: int) -> list[str]:
    return _masks(seed, "mask_greedy")


def policy_mask(seed: int) -> list[str]:
    return _masks(seed, "policy_mask", restarts=1, steps=30)


def mmr(seed: int) -> list[str]:
    return _masks(seed, "mmr")


def transport(seed: int) -> list[str]:
    """Where the target rows divide the budget the best of all subsets, elsewhere between the bound and no worse than the mean."""
    n, m, k = ((10, 3, 3), (9, 2, 4), (10, 4, 3), (10, 1, 3))[seed % 4]
    pool, goal = test_transport.problem(n, m, seed=seed)
    away = test_transport.distances(pool, goal)
    found = run(made("transport"), Features.from_arrays(vectors=pool), Budget(amount=k), Features.from_arrays(vectors=goal))
    costs = [test_transport.cost(away, some) for some in combinations(range(n), k)]
    certificate, wrong = found.selection.certificate, list(found.wrong)
    mine = test_transport.cost(away, found.rows)
    if certificate is None or abs(certificate.objective - mine) > 1e-6 or certificate.bound > min(costs) + 1e-6:
        wrong.append(f"{certificate} for a cost of {mine}, the least is {min(costs)}")
    if mine > (min(costs) + 1e-6 if k % m == 0 else np.mean(costs)):
        wrong.append(f"cost {mine}, the least is {min(costs)} and the mean {np.mean(costs)}")
    return wrong
