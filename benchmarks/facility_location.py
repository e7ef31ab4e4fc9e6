"""Exact facility location against apricot's lazy greedy on the same similarity matrix: same order, how much faster?

    python benchmarks/facility_location.py [rows] [kept] [repetitions]

The two run in turn, so that a busy machine slows both; times are process CPU seconds on one thread. apricot compiles its
kernel in every fit, so its time is given with and without the time of a fit on 200 rows, where there is little else.
Needs apricot-select, which is no dependency of curate.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
from apricot import FacilityLocationSelection  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from curate.facility import DenseFacility  # noqa: E402
from curate.greedy import Greedy, lazy_greedy  # noqa: E402


def mixture(rows: int, width: int = 128, centres: int = 100) -> NDArray[np.float32]:
    """(N, N) (1 + cos) / 2 between rows of a Gaussian mixture."""
    rng = np.random.Generator(np.random.Philox(7))
    vectors = rng.normal(size=(centres, width))[rng.integers(centres, size=rows)] + rng.normal(size=(rows, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
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


def theirs(alike: NDArray[np.float64], kept: int) -> NDArray[np.int64]:
    return np.asarray(FacilityLocationSelection(kept, metric="precomputed", optimizer="lazy").fit(alike).ranking)


def main(rows: int = 20_000, kept: int = 200, repetitions: int = 3) -> None:
    alike = mixture(rows)
    wide = alike.astype(np.float64)
    small = np.ascontiguousarray(wide[:200, :200])
    times: dict[str, list[float]] = {"curate": [], "apricot": [], "compile": []}
    for repetition in range(repetitions):
        seconds, greedy = timed(lambda: ours(alike, kept))
        times["curate"].append(seconds)
        seconds, ranking = timed(lambda: theirs(wide, kept))
        times["apricot"].append(seconds)
        times["compile"].append(timed(lambda: theirs(small, min(kept, 20)))[0])
        print(f"repetition {repetition}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items()))
        print(f"identical order: {bool((greedy.order == ranking).all())}")
        if not (greedy.order == ranking).all():
            raise SystemExit("the orders differ; the times do not compare")
    median = {name: float(np.median(values)) for name, values in times.items()}
    kernel = median["apricot"] - median["compile"]
    print(f"{rows} rows, {kept} kept, median of {repetitions}: curate {median['curate']:.2f} s, apricot {median['apricot']:.2f} s")
    print(f"end to end {median['apricot'] / median['curate']:.1f} x, apricot's compile subtracted {kernel / median['curate']:.1f} x")
    print(f"certificate: f {greedy.value:.2f} of at most {greedy.bound:.2f}, {greedy.value / greedy.bound:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
