"""Learnt masks beside greedy and MMR on the same objective, and their cost against the size of the pool.

    python benchmarks/policy_mask.py cases [rows]
    python benchmarks/policy_mask.py scale [rows ...]
    python benchmarks/policy_mask.py race [rows]

`cases` prints, for three synthetic pools, each diversity and weight, how far every method stays from the bound, where 0 is the
bound and 1 the mean of random masks; for the policy as mean and standard deviation over seeds. `scale` learns masks of a tenth
of pools whose vectors are made when they are read, as those on disk are, and prints CPU seconds and the peak of resident memory.
`race` times the searches alone, greedy and MMR over the pool and one climb of the policy over the same rows.
"""

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
from numpy.typing import NDArray  # noqa: E402

from curate.core import Budget, Certificate, Features, Selection  # noqa: E402
from curate.interfaces import Context, Selector  # noqa: E402
from curate.masks.objective import MaskObjective  # noqa: E402
from curate.masks.policy import Climb, Policy, learn  # noqa: E402
from curate.masks.search import greedy_mask, mmr_mask  # noqa: E402
from curate.order import best_first  # noqa: E402
from curate.selectors.mask_greedy import MaskGreedy  # noqa: E402
from curate.selectors.mmr import Mmr  # noqa: E402
from curate.selectors.policy_mask import PolicyMask  # noqa: E402
from curate.similarity import unit_rows  # noqa: E402

SEEDS = 5
POLICIES: tuple[Policy, ...] = ("plackett_luce", "bernoulli")
WIDTH = 64


def mixture(rows: int, generator: np.random.Generator) -> Features:
    """Thirty clusters off the origin; scores know nothing of them."""
    vectors = generator.normal(size=(30, 32))[generator.integers(30, size=rows)] + 0.6 * generator.normal(size=(rows, 32)) + 0.3
    return Features.from_arrays(vectors=vectors.astype(np.float32), scores=generator.normal(size=rows))


def anisotropic(rows: int, generator: np.random.Generator) -> Features:
    """One cloud with a few wide directions, nearly centred: random rows are already diverse."""
    vectors = generator.normal(size=(rows, 32)) / np.arange(1, 33) ** 0.7 + 0.5 * np.eye(1, 32)
    return Features.from_arrays(vectors=vectors.astype(np.float32), scores=generator.normal(size=rows))


def conflict(rows: int, generator: np.random.Generator) -> Features:
    """Ten clusters, two of which hold the best scores: quality and diversity pull apart."""
    cluster = generator.integers(10, size=rows)
    vectors = generator.normal(size=(10, 32))[cluster] + 0.5 * generator.normal(size=(rows, 32))
    scores = 0.5 * generator.normal(size=rows) + 2.0 * (cluster == 0) + (cluster == 1)
    return Features.from_arrays(vectors=vectors.astype(np.float32), scores=scores)


def certified(selector: Selector, pool: Features, budget: Budget, seed: int = 0) -> Certificate:
    certificate = selector.select(pool, budget, context=Context(seed=seed)).certificate
    if certificate is None:
        raise SystemExit(f"{selector.name} gave no certificate")
    return certificate


def cases(rows: int = 2000) -> None:
    print(f"{rows} rows, a tenth kept; gap to the least bound, mean and standard deviation over {SEEDS} seeds")
    print(f"| pool | diversity | w | greedy | MMR | {' | '.join(f'{name} policy' for name in ('Plackett-Luce', 'Bernoulli'))} | winner |")
    print("|---|---|---|---|---|---|---|---|")
    budget, won = Budget(amount=rows // 10), Counter[str]()
    for make in (mixture, anisotropic, conflict):
        pool = make(rows, np.random.Generator(np.random.Philox(7)))
        for diversity in ("pairwise", "covariance", "facility"):
            for weight in (0.0, 0.1, 0.5, 0.9):
                fields: dict[str, Any] = {"diversity": diversity, "quality_weight": weight}
                plain = [certified(method(**fields), pool, budget) for method in (MaskGreedy, Mmr)]
                learnt = [[certified(PolicyMask(policy=policy, restarts=1, **fields), pool, budget, seed) for seed in range(SEEDS)] for policy in POLICIES]
                bound = min(certificate.bound for certificate in [*plain, *learnt[0], *learnt[1]])
                cells = _row(bound, plain, learnt)
                won[cells[-1]] += 1
                print(f"| {make.__name__} | {diversity} | {weight} | {' | '.join(cells)} |", flush=True)
    print(", ".join(f"{winner}: {count}" for winner, count in won.most_common()))


def _row(bound: float, plain: list[Certificate], learnt: list[list[Certificate]]) -> list[str]:
    random = plain[0].details["random"]
    gaps = [[(bound - certificate.objective) / (bound - random) for certificate in found] for found in [[one] for one in plain] + learnt]
    means = [float(np.mean(found)) for found in gaps]
    spread = [float(np.std(found, ddof=1)) if len(found) > 1 else 0.0 for found in gaps]
    cells = [f"{means[0]:.4f}", f"{means[1]:.4f}", *(f"{mean:.4f} ({deviation:.4f})" for mean, deviation in zip(means[2:], spread[2:], strict=True))]
    ahead = means[0] - means[2]
    level = abs(ahead) <= max(2 * spread[2], 1e-4)
    return [*cells, "level" if level else "Plackett-Luce" if ahead > 0 else "greedy"]


class Made:
    """(N, D) vectors, computed when they are read."""

    def __init__(self, rows: int) -> None:
        generator = np.random.Generator(np.random.Philox(0))
        self._ones = generator.normal(size=(4099, WIDTH)).astype(np.float32) + 0.2
        self._others = 0.7 * generator.normal(size=(4093, WIDTH)).astype(np.float32)
        self.shape, self.dtype, self.ndim = (rows, WIDTH), np.dtype(np.float32), 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        return np.asarray(self._ones[rows % 4099] + self._others[rows % 4093])


def made(rows: int) -> Features:
    scores = np.random.Generator(np.random.Philox(1)).normal(size=rows)
    return Features(np.char.zfill(np.arange(rows).astype("U8"), 8), np.full(rows, 100), Made(rows), scores)


def scale(*sizes: int) -> None:
    print("| rows | CPU s | rows a CPU second | resident before, MB | peak, MB | gap |\n|---|---|---|---|---|---|")
    for rows in sizes or (50_000, 100_000, 200_000):
        pool = made(rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.process_time()
        kept: Selection = PolicyMask(restarts=1).select(pool, Budget.parse("10%"))
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        gap = kept.certificate.gap if kept.certificate else float("nan")
        print(f"| {rows} | {seconds:.1f} | {rows / seconds:.0f} | {before:.0f} | {peak:.0f} | {gap:.4f} |", flush=True)


def race(rows: int = 20_000) -> None:
    pool, size = made(rows), rows // 10
    quality, costs = np.asarray(pool.scores, np.float64), np.ones(rows, np.int64)
    objective = MaskObjective.of(pool, Budget(amount=size), quality, 0.5, "pairwise", 64)
    if objective is None or pool.scores is None:
        raise SystemExit("no row fits")
    reward, vectors = objective.reward(size), unit_rows(pool)
    first = 0.5 * (quality - quality.mean()) / quality.std()
    generator = np.random.Generator(np.random.Philox(0))
    climb = Climb("plackett_luce", "marginal", 50, 4, 1.0)
    searches: dict[str, Callable[[], NDArray[np.int64]]] = {
        "greedy": lambda: greedy_mask(reward, costs, size)[0],
        "MMR": lambda: mmr_mask(vectors, quality, 0.5, costs, size)[0],
        "policy": lambda: best_first(learn(reward, first, costs, size, size, climb, generator).logits, size),
    }
    for name, search in searches.items():
        start = time.process_time()
        kept = search()
        seconds = time.process_time() - start
        gap = objective.certificate(kept, Budget(amount=size)).gap
        print(f"{name}: {seconds:.2f} CPU s for {size} of {rows} rows x {WIDTH}, gap {gap:.4f}", flush=True)


if __name__ == "__main__":
    command, *numbers = sys.argv[1:] or ["cases"]
    commands: dict[str, Callable[..., None]] = {"cases": cases, "scale": scale, "race": race}
    commands[command](*map(int, numbers))
