"""Facility location over nearest neighbours: as good as over the full matrix, and how much faster than apricot? And a million rows.

    python benchmarks/facility_neighbours.py [repetitions]
    python benchmarks/facility_neighbours.py million [rows] [kept] [width]

The first: 20,000 rows of 128 numbers from vectors to rows, by turns, process CPU seconds on one thread; quality is (f - random) / (dense greedy -
random), f over the full matrix. apricot-select is said to be absent where it is not installed. The second: one selection with all defaults
on all cores, its time, the recall of its neighbours, and the most memory that the process ever held; with a GPU its neighbours are searched there, exactly.
"""

import os
import sys
import time
from importlib.util import find_spec

if "million" not in sys.argv[1:2]:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
from numpy.typing import NDArray  # noqa: E402

from curate.certificate import random_control  # noqa: E402
from curate.core import Budget, Features  # noqa: E402
from curate.interfaces import Context  # noqa: E402
from curate.selectors.facility_location import FacilityLocation  # noqa: E402


def mixture(rows: int, width: int = 128, seed: int = 7) -> Features:
    """Rows of a Gaussian mixture with one centre for 200 rows."""
    rng = np.random.Generator(np.random.Philox(seed))
    centres = rng.normal(size=(max(rows // 200, 1), width)).astype(np.float32)
    vectors = np.empty((rows, width), np.float32)
    for start in range(0, rows, 65_536):
        part = vectors[start : start + 65_536]
        part[:] = centres[rng.integers(len(centres), size=len(part))]
        part += rng.normal(size=part.shape)
    return Features.from_arrays(vectors=vectors)


def kernel(pool: Features) -> NDArray[np.float32]:
    """(N, N) (1 + cos) / 2."""
    unit = pool.vectors / np.linalg.norm(pool.vectors, axis=1, keepdims=True)
    return np.asarray((unit @ unit.T + 1) * np.float32(0.5))


def apricot(pool: Features, kept: int) -> NDArray[np.int64]:
    from apricot import FacilityLocationSelection

    return np.asarray(FacilityLocationSelection(kept, metric="precomputed", optimizer="lazy").fit(kernel(pool).astype(np.float64)).ranking)


def curate(pool: Features, kept: int, similarity: str) -> NDArray[np.int64]:
    return FacilityLocation(similarity=similarity).select(pool, Budget(amount=kept)).indices  # type: ignore[arg-type]


def beside_apricot(repetitions: int = 3, rows: int = 20_000, kept: int = 200) -> None:
    pool = mixture(rows)
    alike = kernel(pool)
    work = {"neighbours": lambda: curate(pool, kept, "neighbours"), "dense": lambda: curate(pool, kept, "dense")}
    if find_spec("apricot"):
        work["apricot"] = lambda: apricot(pool, kept)
    else:
        print("apricot is absent; install apricot-select to run beside it")
    times: dict[str, list[float]] = {name: [] for name in work}
    values: dict[str, float] = {"random": value(alike, random_control(pool, Budget(amount=kept)))}
    for _ in range(repetitions):
        for name, function in work.items():
            start = time.process_time()
            found = function()
            times[name].append(time.process_time() - start)
            values[name] = value(alike, found)
    print(f"{rows} rows, {kept} kept, {repetitions} repetitions")
    for name, seconds in times.items():
        quality = (values[name] - values["random"]) / (values["dense"] - values["random"])
        print(f"  {name}: {np.median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), quality {quality:.3f}")
    for name in set(times) - {"neighbours"}:
        ratios = np.asarray(times[name]) / np.asarray(times["neighbours"])
        print(f"  {name} / neighbours: {np.median(ratios):.1f} x ({ratios.min():.1f}-{ratios.max():.1f})")


def value(alike: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
    return float(alike[rows].max(axis=0).sum(dtype=np.float64))


def million(rows: int = 1_000_000, kept: int = 10_000, width: int = 128) -> None:
    from resource import RUSAGE_SELF, getrusage

    import torch

    pool = mixture(rows, width)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    selector = FacilityLocation(exact_limit=rows) if device == "cuda" else FacilityLocation()
    wall, cpu = time.time(), time.process_time()
    kept_rows = selector.select(pool, Budget(amount=kept), context=Context(device=device))
    wall, cpu = time.time() - wall, time.process_time() - cpu
    certificate = kept_rows.certificate
    if certificate is None:
        raise SystemExit("nothing was kept")
    most = getrusage(RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{rows} rows of {width} numbers, {kept} kept, on {device}: {wall:.0f} s, {cpu:.0f} CPU seconds, at most {most:.2f} GiB")
    print(f"  recall {certificate.details.get('recall', 1.0):.3f}, f {certificate.objective:.0f} of at most {certificate.bound:.0f}, gap {certificate.gap:.3f}")


if __name__ == "__main__":
    if "million" in sys.argv[1:2]:
        million(*map(int, sys.argv[2:]))
    else:
        beside_apricot(*map(int, sys.argv[1:]))
