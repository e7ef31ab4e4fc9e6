"""Exact facility location against the lazy greedy of apricot and of submodlib on the same similarities: same order, how much faster?

    python benchmarks/facility_location.py [repetitions]

All run in turn, so that a busy machine slows all; times are process CPU seconds on one thread, ratios are medians over repetitions.
20,000 rows, 200 kept, beside apricot: the fit on a given matrix, with and without the compilation that apricot repeats in every
fit (the time of a fit on 200 rows, where there is little else), and from vectors to rows. 5,000 rows, 50 kept, beside submodlib.
Ours gives a certificate in the same time. Peers are apricot-select and submodlib-py; one that is not installed is said to be absent.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
from numpy.typing import NDArray  # noqa: E402

from curate.core import Budget, Features  # noqa: E402
from curate.facility import DenseFacility  # noqa: E402
from curate.greedy import Greedy, lazy_greedy  # noqa: E402
from curate.selectors.facility_location import FacilityLocation  # noqa: E402

Matrix = NDArray[np.floating[Any]]


def mixture(rows: int, width: int = 128, centres: int = 100) -> NDArray[np.float32]:
    """(N, D) unit rows of a Gaussian mixture."""
    rng = np.random.Generator(np.random.Philox(7))
    vectors = rng.normal(size=(centres, width))[rng.integers(centres, size=rows)] + rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def kernel(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, N) (1 + cos) / 2."""
    alike: NDArray[np.float32] = vectors @ vectors.T
    alike += 1
    alike *= 0.5
    return alike


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(alike: NDArray[np.float32], kept: int) -> Greedy:
    return lazy_greedy(DenseFacility(alike), np.ones(len(alike), np.int64), kept)


def apricot(alike: Matrix, kept: int) -> NDArray[np.int64]:
    from apricot import FacilityLocationSelection

    return np.asarray(FacilityLocationSelection(kept, metric="precomputed", optimizer="lazy").fit(alike).ranking)


def submodlib(alike: Matrix, kept: int) -> NDArray[np.int64]:
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(n=len(alike), mode="dense", sijs=alike, separate_rep=False)
    found = function.maximize(budget=kept, optimizer="LazyGreedy", stopIfZeroGain=False, stopIfNegativeGain=False, verbose=False, show_progress=False)
    return np.asarray([row for row, _ in found])


def run(work: dict[str, Callable[[], Any]], repetitions: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each, by turns, and what each gave last."""
    times: dict[str, list[float]] = {name: [] for name in work}
    given: dict[str, Any] = {}
    for _ in range(repetitions):
        for name, function in work.items():
            seconds, given[name] = timed(function)
            times[name].append(seconds)
    for name, values in times.items():
        print(f"  {name}: {np.median(values):.2f} s ({min(values):.2f}-{max(values):.2f})")
    return times, given


def say(what: str, numerators: list[float], denominators: list[float]) -> None:
    ratios = np.asarray(numerators) / np.asarray(denominators)
    print(f"  {what}: {np.median(ratios):.1f} x ({ratios.min():.1f}-{ratios.max():.1f})")


def must_agree(one: Any, other: Any) -> None:
    if not np.array_equal(one, other):
        raise SystemExit("the orders differ; the times do not compare")
    print("  identical order")


def beside_apricot(repetitions: int, rows: int = 20_000, kept: int = 200) -> None:
    vectors = mixture(rows)
    alike = kernel(vectors)
    wide = alike.astype(np.float64)
    small = np.ascontiguousarray(wide[:200, :200])
    pool = Features.from_arrays(vectors=vectors)
    print(f"{rows} rows, {kept} kept, {repetitions} repetitions: curate and apricot")
    times, given = run(
        {
            "curate, matrix given": lambda: ours(alike, kept),
            "apricot, matrix given": lambda: apricot(wide, kept),
            "apricot, compilation": lambda: apricot(small, 20),
            "curate, from vectors": lambda: FacilityLocation().select(pool, Budget(amount=kept)),
            "apricot, from vectors": lambda: apricot(kernel(vectors).astype(np.float64), kept),
        },
        repetitions,
    )
    must_agree(given["curate, matrix given"].order, given["apricot, matrix given"])
    fit, compiled = np.asarray(times["apricot, matrix given"]), np.asarray(times["apricot, compilation"])
    say("a fit", times["apricot, matrix given"], times["curate, matrix given"])
    say("a fit, compilation subtracted", list(fit - compiled), times["curate, matrix given"])
    say("from vectors", times["apricot, from vectors"], times["curate, from vectors"])
    greedy = given["curate, matrix given"]
    print(f"  certificate: f {greedy.value:.2f} of at most {greedy.bound:.2f}, {greedy.value / greedy.bound:.4f}")


def beside_submodlib(repetitions: int, rows: int = 5_000, kept: int = 50) -> None:
    alike = kernel(mixture(rows))
    wide = alike.astype(np.float64)
    print(f"{rows} rows, {kept} kept, {repetitions} repetitions: curate and submodlib")
    times, given = run({"curate": lambda: ours(alike, kept), "submodlib": lambda: submodlib(wide, kept)}, repetitions)
    must_agree(given["curate"].order, given["submodlib"])
    say("a fit", times["submodlib"], times["curate"])


def main(repetitions: int = 3) -> None:
    for name, beside in (("apricot", beside_apricot), ("submodlib", beside_submodlib)):
        if find_spec(name):
            beside(repetitions)
        else:
            print(f"{name} is absent; install {'apricot-select' if name == 'apricot' else 'submodlib-py'} to run beside it")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
