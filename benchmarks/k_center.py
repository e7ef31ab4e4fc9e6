"""Farthest-first traversal against the same in torch: how much faster, and are the rows the same?

    python benchmarks/k_center.py [rows] [width] [kept] [repetitions]

All start from the same unit rows and the same first row, and run in turn, so that a busy machine slows all; times are
process CPU seconds on one thread. torch takes distances from products, the fast way, whose float32 rounding may turn
a tie, and from differences, the careful way. curate's rows are those of float64 differences. Its certificate (covering radius
of a random selection, and a bound that no centres beat) is timed by itself: the torch loops have none.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from curate.core import Budget, Features  # noqa: E402
from curate.covering import covering_radius  # noqa: E402
from curate.farthest import Farthest, gaps  # noqa: E402
from curate.selectors.k_center import KCenter  # noqa: E402


def mixture(rows: int, width: int, centres: int = 100) -> NDArray[np.float32]:
    """(N, D) unit rows of a Gaussian mixture."""
    rng = np.random.Generator(np.random.Philox(7))
    vectors = rng.normal(size=(centres, width))[rng.integers(centres, size=rows)] + rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(vectors: NDArray[np.float32], kept: int) -> list[int]:
    far, free, order = Farthest(vectors), np.ones(len(vectors), bool), [0]
    for _ in range(kept - 1):
        far.add(order[-1])
        free[order[-1]] = False
        order.append(far.row(free))
    gaps(vectors, np.asarray(order))
    return order


def products(vectors: torch.Tensor, kept: int) -> list[int]:
    nearest, order = torch.full((len(vectors),), torch.inf), [0]
    for _ in range(kept - 1):
        nearest = torch.minimum(nearest, 2 - 2 * (vectors @ vectors[order[-1]]))
        order.append(int(nearest.argmax()))
    return order


def differences(vectors: torch.Tensor, kept: int) -> list[int]:
    nearest, order = torch.full((len(vectors),), torch.inf), [0]
    for _ in range(kept - 1):
        nearest = torch.minimum(nearest, torch.linalg.vector_norm(vectors - vectors[order[-1]], dim=1))
        order.append(int(nearest.argmax()))
    return order


def main(rows: int = 20_000, width: int = 128, kept: int = 500, repetitions: int = 5) -> None:
    torch.set_num_threads(1)
    vectors = mixture(rows, width)
    tensor, pool = torch.from_numpy(vectors), Features.from_arrays(vectors=vectors)
    runs: dict[str, Callable[[], Any]] = {
        "curate": lambda: ours(vectors, kept),
        "torch products": lambda: products(tensor, kept),
        "torch differences": lambda: differences(tensor, kept),
        "curate, with certificate": lambda: KCenter().select(pool, Budget(amount=kept)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions):
        found = {}
        for name, run in runs.items():
            seconds, found[name] = timed(run)
            times[name].append(seconds)
        print(f"repetition {repetition}: " + ", ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items()))
    median = {name: float(np.median(values)) for name, values in times.items()}
    print(f"{rows} rows, width {width}, {kept} kept, median of {repetitions}:")
    for name in ("torch products", "torch differences"):
        same = sum(one == other for one, other in zip(found["curate"], found[name], strict=True))
        radius = covering_radius(vectors, np.asarray(found[name]))
        print(f"  {name} / curate {median[name] / median['curate']:.1f} x; {same} of {kept} rows in the same place, covering radius {radius:.6f}")
    certificate = found["curate, with certificate"].certificate
    print(f"  curate's covering radius {covering_radius(vectors, np.asarray(found['curate'])):.6f}")
    print(f"  with normalising and certificate {median['curate, with certificate']:.3f} s: radius {certificate.objective:.4f}, bound {certificate.bound:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
