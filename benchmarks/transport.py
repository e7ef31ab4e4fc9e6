"""Self-chosen sizes beside the public TAROT loop, and Sinkhorn beside POT's in float32: the same work, how much faster, at which error?

    python benchmarks/transport.py [pool rows] [target rows] [width] [repetitions]

Loop: ten folds of the target, layers grown around each, transport of everything so far to the other folds' rows after every layer. The public loop
computes distances anew and solves from nothing each time, by geomloss with blur 0.01 and scaling 0.5; where geomloss is not installed its
annealing is done here, which is said. Ours reads each distance once and starts from the duals of the layer before. Both go
through the layers that ours tried, and both are held against the network simplex. Since the public loop's error is
far larger, the first fold is also solved with ever finer annealing until its error is as small as ours.

Sinkhorn: the same costs and regularisation, ours until its column sums are as near as POT's, both measured in float64.

The sides run in turn, so that a busy machine slows both; times are process CPU seconds on one thread.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
import ot  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from curate.transport.folds import grow_by_fold  # noqa: E402
from curate.transport.sinkhorn import sinkhorn  # noqa: E402
from curate.transport.target_layers import Nearest, layers  # noqa: E402

FOLDS, BLUR, PUBLISHED, REGULARISATION = 10, 0.01, 0.5, 0.02
Sets = list[list[NDArray[np.int64]]]  # of every fold, the rows after each layer


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def mixture(rows: int, target: int, width: int, of_target: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit rows: a pool of 40 kinds, and a target of some of them."""
    rng = np.random.Generator(np.random.Philox(7))
    centres = rng.normal(size=(40, width))
    sides = [centres[rng.integers(kinds, size=size)] + rng.normal(size=(size, width)) for kinds, size in ((40, rows), (of_target, target))]
    pool, goal = ((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in sides)
    return pool, goal


class Held:
    """Distances between unit rows, computed once."""

    def __init__(self, pool: NDArray[np.float32], goal: NDArray[np.float32]) -> None:
        self.shape = len(pool), len(goal)
        self._away = np.sqrt(np.abs(2 - 2 * pool @ goal.T))

    def blocks(self, size: int = 2048) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, self.shape[0], size):
            yield start, self._away[start : start + size]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._away[rows]


def cosine_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (2 - 2 * x @ y.mT).abs().sqrt()


def annealed(x: torch.Tensor, y: torch.Tensor, scaling: float) -> float:
    """geomloss' tensorised Sinkhorn: blur from the diameter down by the scaling, both potentials averaged with their updates in turn."""
    costs = cosine_distance(x, y)
    a, b = -np.log(len(x)), -np.log(len(y))

    def soft(blur: float, values: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
        return -blur * torch.logsumexp(values - over / blur, dim=1)

    scales = [4.0, *np.exp(np.arange(2 * np.log(2.0), 2 * np.log(BLUR), 2 * np.log(scaling))), BLUR**2]
    f, g = soft(scales[0], torch.full_like(y[:, 0], b), costs), soft(scales[0], torch.full_like(x[:, 0], a), costs.T)
    for blur in scales:
        fresh = soft(blur, b + g / blur, costs), soft(blur, a + f / blur, costs.T)
        f, g = (f + fresh[0]) / 2, (g + fresh[1]) / 2
    f, g = soft(scales[-1], b + g / scales[-1], costs), soft(scales[-1], a + f / scales[-1], costs.T)
    return float(f.mean() + g.mean())


def peer() -> tuple[str, Callable[[torch.Tensor, torch.Tensor, float], float]]:
    try:
        from geomloss import SamplesLoss
    except ImportError:
        return "geomloss' algorithm, done here (geomloss is not installed)", annealed

    def solve(x: torch.Tensor, y: torch.Tensor, scaling: float) -> float:
        loss = SamplesLoss("sinkhorn", cost=cosine_distance, debias=False, blur=BLUR, scaling=scaling, backend="tensorized")
        return float(loss(x[None], y[None]))

    return "geomloss", solve


class Loop:
    """The transports that choosing a size asks for: after each layer of each fold, everything so far to the other folds' rows."""

    def __init__(self, rows: int, target: int, width: int) -> None:
        self.pool, self.goal = mixture(rows, target, width, of_target=8)
        self.folds = np.random.Generator(np.random.Philox(1)).permutation(target) % FOLDS

    def ours(self) -> list[NDArray[np.float64]]:
        return [fold.costs for fold in grow_by_fold(Held(self.pool, self.goal), self.folds, patience=2)]

    def sets(self, depths: list[int]) -> Sets:
        """The rows that each fold holds after each of the layers that ours tried."""
        nearest, n, sets = Nearest(Held(self.pool, self.goal)), len(self.pool), []
        for fold, depth in enumerate(depths):
            grown = [layer for layer in islice(layers(nearest, np.flatnonzero(self.folds == fold), n), 2 * depth) if len(layer)]
            sets.append([np.concatenate(grown[: step + 1]) for step in range(depth)])
        return sets

    def public(self, solve: Callable[[torch.Tensor, torch.Tensor, float], float], scaling: float, sets: Sets) -> NDArray[np.float64]:
        pool, goal = torch.tensor(self.pool), torch.tensor(self.goal)
        with torch.no_grad():
            return np.asarray([solve(pool[rows], goal[self.folds != fold], scaling) for fold, grown in enumerate(sets) for rows in grown])

    def exact(self, sets: Sets) -> NDArray[np.float64]:
        away = Held(self.pool, self.goal)
        costs = (away.of(rows)[:, self.folds != fold].astype(np.float64) for fold, grown in enumerate(sets) for rows in grown)
        return np.asarray([float(ot.emd2([], [], cost, numItermax=10**8)) for cost in costs])


def wrong(costs: NDArray[np.float64], exact: NDArray[np.float64]) -> str:
    gap = np.abs(costs / exact - 1)
    return f"mean {gap.mean():.2%}, largest {gap.max():.2%}"


def size(rows: int, target: int, width: int, repetitions: int) -> None:
    work = Loop(rows, target, width)
    name, solve = peer()
    seconds: dict[str, list[float]] = {"ours": [], "public loop": [], "network simplex": []}
    for _ in range(repetitions):
        spent, ours = timed(work.ours)
        seconds["ours"].append(spent)
        sets = work.sets([len(costs) for costs in ours])
        spent, public = timed(partial(work.public, solve, PUBLISHED, sets))
        seconds["public loop"].append(spent)
        spent, exact = timed(partial(work.exact, sets))
        seconds["network simplex"].append(spent)
    sizes = [len(held) for fold in sets for held in fold]
    print(f"{rows} pool rows, {target} target rows, width {width}: {len(sizes)} transports of {min(sizes)} to {max(sizes)} rows; the loop's solver: {name}")
    print(", ".join(f"{side} {np.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})" for side, values in seconds.items()))
    print(f"error against the network simplex: ours {wrong(np.concatenate(ours), exact)}; public loop {wrong(public, exact)}")
    ratios = [theirs / mine for theirs, mine in zip(seconds["public loop"], seconds["ours"], strict=True)]
    simplex = [theirs / mine for theirs, mine in zip(seconds["network simplex"], seconds["ours"], strict=True)]
    print(f"public loop / ours {np.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}), network simplex / ours {np.median(simplex):.1f}")
    at_equal_error(work, solve, ours, sets, exact, float(np.median(seconds["ours"])))


def at_equal_error(
    work: Loop,
    solve: Callable[[torch.Tensor, torch.Tensor, float], float],
    ours: list[NDArray[np.float64]],
    sets: Sets,
    exact: NDArray[np.float64],
    seconds: float,
) -> None:
    """The public loop's first fold with finer annealing, against ours in proportion to the transports."""
    first = sets[:1]
    true = exact[: len(first[0])]
    mine = float(np.abs(ours[0] / true - 1).mean())
    share = seconds * len(true) / len(exact)
    for scaling in (PUBLISHED, 0.9, 0.95, 0.98, 0.99):
        spent, costs = timed(partial(work.public, solve, scaling, first))
        error = float(np.abs(costs / true - 1).mean())
        print(f"first fold, scaling {scaling}: {spent:.2f} s, mean error {error:.2%} (ours {share:.3f} s, {mine:.2%}), ratio {spent / share:.0f}")
        if error <= mine:
            break


def sinkhorns(kept: int, target: int, width: int, stop: float, repetitions: int) -> None:
    pool, goal = mixture(kept, target, width, of_target=40)
    costs = Held(pool, goal).of(np.arange(kept))
    weights = [torch.full((size,), 1 / size) for size in costs.shape]
    ratios = []
    for _ in range(repetitions):
        solve = partial(ot.sinkhorn, *weights, torch.tensor(costs), REGULARISATION, stopThr=stop, numItermax=10_000, warn=False, log=True)
        theirs, (plan, log) = timed(solve)
        wide = plan.double().numpy()
        missed = [float(np.abs(wide.sum(axis=0) - 1 / target).sum()), 0.0]
        ours, found = timed(lambda missed=missed: sinkhorn(costs, REGULARISATION, tolerance=0.98 * missed[0], most=10_000))
        mine = np.exp((found.rows[:, None] + found.columns - costs) / REGULARISATION)
        missed[1] = float(np.abs(mine.sum(axis=0) - 1 / target).sum())
        ratios.append(theirs / ours)
    values = [float((side * costs).sum()) for side in (wide, mine)]
    print(
        f"{kept} x {target}, POT stops at {stop:g}: POT {theirs:.3f} s, {log['niter'] + 1} iterations; ours {ours:.3f} s, {found.iterations} iterations; "
        f"ratio {np.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}); columns wrong by {missed[0]:.1e} and {missed[1]:.1e}, "
        f"costs {values[0]:.6f} and {values[1]:.6f}"
    )
    if missed[1] > missed[0]:
        raise SystemExit("ours is less exact; the times do not compare")


def main(rows: int = 20_000, target: int = 500, width: int = 128, repetitions: int = 5) -> None:
    torch.set_num_threads(1)
    size(rows, target, width, repetitions)
    for kept in (2_000, 5_000, 20_000):
        for stop in (1e-5, 1e-6):
            sinkhorns(kept, target, width, stop, repetitions)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
