"""Selectors that follow a rule, against the rule written down once more, naively."""

from itertools import combinations, product
from typing import Any

import numpy as np

from campaign.differential_sets import made, pool_of, run
from curate.core import Budget, Features
from curate.randomness import draw, row_keys, uniform
from tests.selectors import (
    test_choice,
    test_difficulty_quota,
    test_doubly_greedy,
    test_knn_kde,
    test_knn_uniform,
    test_loss_coreset,
    test_round_robin,
    test_softmax_mass,
    test_top_k,
)

Numbers = np.ndarray[Any, Any]


def _unlike(rows: list[int], wanted: Any) -> list[str]:
    expected = [int(row) for row in wanted][: len(rows)]
    return [] if rows == expected else [f"rows {rows}, by the rule {expected}"]


def _far(name: str, mine: Any, wanted: Any, within: float) -> list[str]:
    apart = float(np.abs(np.asarray(mine, float) - np.asarray(wanted, float)).max(initial=0.0))
    return [f"{name} {apart:.3g} from the definition"] if not apart <= within else []


def _alike(rng: np.random.Generator, n: int, m: int) -> Numbers:
    """(n, m) cosines."""
    pool, goal = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
    return np.asarray(pool @ goal.T / np.linalg.norm(pool, axis=1)[:, None] / np.linalg.norm(goal, axis=1))


def top_k(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    alike, aggregate = _alike(rng, 20, 5), ("mean", "max")[seed % 2]
    ids, groups = list("edcba"), rng.choice(["x", "y"], 5).tolist()
    weights = {"x": 0.5, "c": 3.0} if "x" in groups else {"c": 3.0}
    goal, pool = Features.from_arrays(ids=ids, groups=groups), Features.from_arrays(similarity=alike)
    found = run(made("top_k", aggregate=aggregate, target_weights=weights), pool, Budget(amount=9), goal)
    values = np.asarray(test_top_k.values(alike, groups, ids, weights, aggregate))
    tied = rng.integers(0, 4, 20).astype(float)  # rows that are equally good come in the order of their ids
    equal = run(made("top_k"), Features.from_arrays(scores=tied), Budget(amount=9))
    wrong = found.wrong + equal.wrong + _unlike(equal.rows, np.argsort(-tied, kind="stable"))
    return wrong + _unlike(found.rows, np.argsort(-values, kind="stable"))


def random(seed: int) -> list[str]:
    pool = pool_of(np.random.default_rng(seed), 12)
    found = run(made("random"), pool, Budget(amount=7), seed=seed)
    return found.wrong + _unlike(found.rows, np.argsort(-uniform(seed, "random", pool.ids), kind="stable"))


def dsir_sample(seed: int) -> list[str]:
    """The first of the race of exponential clocks with rates exp(score / temperature): the same draw as by Gumbel numbers."""
    pool, temperature = pool_of(np.random.default_rng(seed), 12), (0.5, 1.0, 3.0)[seed % 3]
    found = run(made("dsir_sample", temperature=temperature), pool, Budget(amount=7), seed=seed)
    rates = np.exp(np.asarray(pool.scores) / temperature)
    return found.wrong + _unlike(found.rows, np.argsort(-np.log(uniform(seed, "dsir_sample", pool.ids)) / rates, kind="stable"))


def round_robin(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    alike, on_taken = rng.integers(0, 6, size=(15, 3)).astype(float), ("skip", "lose_turn")[seed % 2]
    found = run(made("round_robin", on_taken=on_taken), Features.from_arrays(similarity=alike), Budget(amount=int(rng.integers(1, 16))))
    return found.wrong + _unlike(found.rows, test_round_robin.turns(alike, len(found.rows), on_taken))


def doubly_greedy(seed: int) -> list[str]:
    alike = _alike(np.random.default_rng(seed), 14, 4)
    found = run(made("doubly_greedy"), Features.from_arrays(similarity=alike), Budget(amount=8))
    return found.wrong + _unlike(found.rows, test_doubly_greedy.pairs(alike, 8))


def softmax_mass(seed: int) -> list[str]:
    alike, epsilon = _alike(np.random.default_rng(seed), 14, 4), (0.01, 0.1, 1.0)[seed % 3]
    found = run(made("softmax_mass", epsilon=epsilon), Features.from_arrays(similarity=alike), Budget(amount=8))
    mass = test_softmax_mass.plain(alike, epsilon).astype(float)
    return found.wrong + _unlike(found.rows, np.argsort(-mass, kind="stable")) + _far("mass", found.selection.gains, mass[found.rows], 1e-9)


def knn_uniform(seed: int) -> list[str]:
    """The masses of the linear program, solved by scipy; the kept rows are those of most mass."""
    alike, alpha = _alike(np.random.default_rng(seed), 9, 3), (0.05, 0.4, 0.7, 0.9)[seed % 4]
    found = run(made("knn_uniform", alpha=alpha, scale=1.0, share=1.0), Features.from_arrays(similarity=alike), Budget(amount=6))
    _, mass = test_knn_uniform.program(1 - alike.T, alpha, 1.0)
    wrong = found.wrong + _far("mass", found.selection.gains, mass[found.rows], 1e-6)
    return wrong + _far("the largest masses", np.sort(mass[found.rows]), np.sort(mass)[3:], 1e-6)


def knn_kde(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    pool, goal = (Features.from_arrays(vectors=test_knn_kde.vectors(n, int(rng.integers(1000)))) for n in (8, 3))
    alpha, sigma = (0.3, 0.5, 0.8)[seed % 3], 0.75
    found = run(made("knn_kde", alpha=alpha, scale=1.0, sigma=sigma, share=1.0), pool, Budget(amount=8), goal)
    x, y = (np.asarray(one.vectors) / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in (pool, goal))
    _, mass = test_knn_kde.program(1 - y @ x.T, test_knn_kde.brute(np.asarray(pool.vectors), sigma), alpha, 1.0)
    falls = float(np.diff(np.asarray(found.selection.gains)).max(initial=0.0)) <= 1e-9
    return found.wrong + _far("mass", found.selection.gains, mass[found.rows], 1e-5) + ([] if falls else ["masses do not fall"])


def coverage(seed: int) -> list[str]:
    """No allocation over the strata gives the least served one that still has rows more."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([[0.0, 4.0], rng.choice([0.5, 1.5, 2.5, 3.5], 9)])
    kept = int(rng.integers(1, 11))
    found = run(made("coverage", strata=4, hardest_cut=0.0), Features.from_arrays(scores=scores), Budget(amount=kept), seed=seed)
    bins = np.minimum(scores.astype(int), 3)
    held, given = np.bincount(bins, minlength=4), np.bincount(bins[found.rows], minlength=4)

    def least(some: Any) -> int:
        return min((int(got) for got, has in zip(some, held, strict=True) if got < has), default=len(scores))

    best = max(least(some) for some in product(*(range(has + 1) for has in held)) if sum(some) == kept)
    return found.wrong + ([] if least(given) == best else [f"the least served stratum has {least(given)} rows, it could have {best}"])


def stratified(seed: int) -> list[str]:
    """No allocation of whole rows is nearer to the quotas."""
    rng = np.random.default_rng(seed)
    sizes, share = rng.integers(1, 6, 3), rng.integers(1, 6, 3).astype(float)
    groups = np.repeat(list("abc"), sizes)
    kept = int(rng.integers(1, len(groups) + 1))
    pool = Features.from_arrays(groups=groups.tolist(), scores=rng.normal(size=len(groups)))
    found = run(made("stratified", quotas=dict(zip("abc", share.tolist(), strict=True))), pool, Budget(amount=kept))
    given = np.asarray([(pool.groups[found.rows] == name).sum() for name in "abc"])

    def miss(some: Any) -> float:
        return float(((np.asarray(some) - kept * share / share.sum()) ** 2 / share).sum())

    best = min(miss(some) for some in product(*(range(size + 1) for size in sizes)) if sum(some) == kept)
    wrong = found.wrong + ([] if miss(given) <= best + 1e-9 else [f"counts {given.tolist()} miss the quotas by {miss(given)}, the least is {best}"])
    for name, count in zip("abc", given, strict=True):
        mine = np.flatnonzero(pool.groups == name)
        top = mine[np.argsort(-np.asarray(pool.scores)[mine], kind="stable")][:count]
        wrong += [] if set(top) <= set(found.rows) else [f"group {name} does not give its best rows"]
    return wrong


def difficulty_quota(seed: int) -> list[str]:
    """The certified quota is what the counts honour, and the largest that any allocation does."""
    rng = np.random.default_rng(seed)
    fails, there = rng.choice([0.25, 0.5, 1.0], 4).tolist(), rng.integers(1, 4, 4).tolist()
    fails[int(rng.integers(4))] = 1.0  # the largest fail rate is one, so that shares are the fail rates
    pool, kept = test_difficulty_quota.answers(fails, there), int(rng.integers(1, sum(there) + 1))
    found = run(made("difficulty_quota"), pool, Budget(amount=kept), seed=seed)
    counts = test_difficulty_quota.per_question(pool, found.rows)
    top = max(have / share for have, share in zip(there, fails, strict=True))
    allocations = (some for some in product(*(range(have + 1) for have in there)) if sum(some) == kept)
    best = min(top, max(test_difficulty_quota.honoured(some, there, fails) for some in allocations))
    mine, certificate = min(top, test_difficulty_quota.honoured(tuple(counts), there, fails)), found.selection.certificate
    good = certificate is not None and abs(certificate.objective - mine) < 1e-9 and abs(certificate.bound - best) < 1e-9 and mine == best
    return found.wrong + ([] if good else [f"{certificate} for a quota of {mine}, the largest is {best}"])


def choice(seed: int) -> list[str]:
    """Of ten candidates drawn at every step the one that raises f most; of two that cover only each other, rounding decides."""
    pool = test_choice.plain(12, seed, 3)
    found = run(made("choice"), pool, Budget(amount=6), seed=seed)
    value, keys, wrong = test_choice.facility(np.asarray(pool.vectors)), row_keys(seed, "choice candidates", pool.ids), list(found.wrong)
    for step, row in enumerate(found.rows):
        kept = found.rows[:step]
        rest = np.setdiff1d(np.arange(12), kept)
        drawn = rest[np.argsort(-draw(keys[rest], step), kind="stable")][:10].tolist()
        worth = {one: value([*kept, one]) for one in drawn}
        if row not in worth or worth[row] < max(worth.values()) - 2e-7:
            wrong.append(f"step {step} takes row {row} of {worth}")
    return wrong


def bandit(seed: int) -> list[str]:
    """Where every row is scored, the rows of largest mean cosine; elsewhere no more than was paid for, and the best of what was scored."""
    rng = np.random.default_rng(seed)
    pool, goal = pool_of(rng, 12), pool_of(rng, 3, prefix="goal")
    x, y = (np.asarray(one.vectors, float) / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in (pool, goal))
    mean = (x @ y.T).mean(axis=1)
    found = run(made("bandit", oversample=1e6 if seed % 2 else 2.0, draws=2), pool, Budget(amount=4), goal, seed)
    wrong = found.wrong + _far("gains", found.selection.gains, mean[found.rows], 1e-5)
    if seed % 2:
        return wrong + _unlike(found.rows, np.argsort(-mean, kind="stable"))
    rewards = found.selection.curves["reward"]
    return wrong + _far("the best of the scored rows", np.asarray(found.selection.gains), np.sort(rewards)[::-1][:4], 1e-6)


def _levels(unit: Numbers, rank: Numbers) -> Numbers:
    """(N,) the largest cosine to a row of lower rank; below all others for the first."""
    alike = (unit @ unit.T).astype(np.float32)
    return np.asarray([max((alike[row, other] for other in range(len(unit)) if rank[other] < rank[row]), default=-9.0) for row in range(len(unit))])


def _duplicates(seed: int, n: int = 12) -> tuple[Features, Numbers]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 4))
    vectors[:4] = vectors[4:8] + 0.1 * rng.normal(size=(4, 4))
    unit = vectors.astype(np.float32).astype(float)
    return Features.from_arrays(vectors=vectors.astype(np.float32)), unit / np.linalg.norm(unit, axis=1, keepdims=True)


def _to_mean(unit: Numbers) -> Numbers:
    """(N,) cosine to the centroid of the only cluster."""
    centre = unit.sum(axis=0)
    return np.asarray(unit @ (centre / np.linalg.norm(centre)))


def semdedup(seed: int) -> list[str]:
    """One cluster, so that all pairs are seen: rows by their cosine to any row that comes before them."""
    pool, unit = _duplicates(seed)
    keep = ("hard", "easy")[seed % 2]
    rank = np.argsort(np.argsort(_to_mean(unit) * (1 if keep == "hard" else -1)))
    found = run(made("semdedup", clusters=1, probes=1, keep=keep), pool, Budget(amount=12), seed=seed)
    return found.wrong + _unlike(found.rows, np.argsort(_levels(unit, rank), kind="stable"))


def d4(seed: int) -> list[str]:
    """The same, then what is left by its distance from the centroid of what is left, the farthest first."""
    pool, unit = _duplicates(seed)
    level = _levels(unit, np.argsort(np.argsort(_to_mean(unit))))
    by_level = np.argsort(level, kind="stable")
    left = np.sort(by_level[:8])
    wanted = [*left[np.argsort(_to_mean(unit[left]), kind="stable")], *by_level[8:]]
    found = run(made("d4", clusters=1, probes=1, dedup_share=8 / 12), pool, Budget(amount=12), seed=seed)
    return found.wrong + _unlike(found.rows, wanted)


def diffusion(seed: int) -> list[str]:
    """Greedy over the same reverse-reachable sets, and no set of rows in more of them than the bound says."""
    from curate.cascade import neighbour_digraph, reverse_reachable
    from curate.similarity import unit_rows
    from curate.submodular.neighbours import exact_neighbours

    pool = Features.from_arrays(vectors=pool_of(np.random.default_rng(seed), 10).vectors)
    found = run(made("diffusion", neighbours=3, rounds=1000), pool, Budget(amount=3), seed=seed)
    near, cosines = exact_neighbours(unit_rows(pool), 4)
    sets = reverse_reachable(neighbour_digraph(near.astype(np.int64), cosines, 3), pool.ids, seed, range(1000))
    held = np.zeros((len(sets.start) - 1, 10), bool)
    for number, (begin, end) in enumerate(zip(sets.start[:-1], sets.start[1:], strict=True)):
        held[number, sets.members[begin:end]] = True
    left, expected = held.copy(), []
    for _ in range(3):
        expected.append(int(np.argmax(left.sum(axis=0))))
        left = left[~left[:, expected[-1]]]
    best = max(held[:, list(some)].any(axis=1).sum() for some in combinations(range(10), 3)) / 1000
    mine, certificate = held[:, found.rows].any(axis=1).sum() / 1000, found.selection.certificate
    good = certificate is not None and abs(certificate.objective - mine) < 1e-9 and certificate.bound >= min(best, 10) - 1e-9
    return found.wrong + _unlike(found.rows, expected) + ([] if good else [f"{certificate} for {mine} rows reached, the most are {best}"])


def multilinear(seed: int) -> list[str]:
    """The certified utility is the mean of the nearest kept rows' worth, and no set of rows is worth more than the bound."""
    rng = np.random.default_rng(seed)
    alike, scores, kept = rng.random((9, 3)), rng.random(9), int(rng.integers(1, 5))
    pool, goal = Features.from_arrays(similarity=alike, scores=scores), Features.from_arrays(ids=["t0", "t1", "t2"])
    found = run(made("multilinear", neighbours=2), pool, Budget(amount=kept), goal)
    worth = (scores - scores.min()) / np.ptp(scores)

    def value(rows: list[int]) -> float:
        nearest = [sorted(rows, key=lambda row: -alike[row, column])[:2] for column in range(3)]
        return float(np.mean([worth[near].sum() / 2 for near in nearest]))

    best, certificate = max(value(list(some)) for some in combinations(range(9), kept)), found.selection.certificate
    good = certificate is not None and abs(certificate.objective - value(found.rows)) < 1e-6 and certificate.bound >= best - 1e-6
    return found.wrong + ([] if good else [f"{certificate} for a utility of {value(found.rows)}, the largest is {best}"])


def loss_coreset(seed: int) -> list[str]:
    """Weights that sum to the pool; the certified loss is that of ridge regression by its normal equations, and all rows' own is the bound."""
    pool = test_loss_coreset.clusters(n=60, width=3, seed=seed)
    found = run(made("loss_coreset", label="score"), pool, Budget(amount=12), seed=seed)
    x, y, model = test_loss_coreset.prepared(pool, "score")

    def loss(weights: Numbers) -> float:
        theta = np.linalg.solve(x.T @ (x * weights[:, None]) + model.penalty * np.eye(x.shape[1]), x.T @ (weights * y))
        return float(0.5 * np.mean((x @ theta - y) ** 2) + model.penalty / 2 * theta @ theta)

    mine, least = loss(test_loss_coreset.weighed(found.selection, 60)), loss(np.full(60, 1 / 60))
    certificate = found.selection.certificate
    good = certificate is not None and abs(certificate.objective - mine) < 1e-4 and abs(certificate.bound - least) < 1e-5 and mine >= least - 1e-9
    wrong = found.wrong + ([] if good else [f"{certificate} for a loss of {mine}, of all rows {least}"])
    return wrong + _far("sum of the weights", found.selection.weights.sum(), 60, 1e-3)
