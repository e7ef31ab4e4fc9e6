"""Selectors over ten million rows: does the cost grow as a straight line, and does memory stay at a few numbers per row?

    python benchmarks/ten_million_rows.py [rows, a million by default]

Rows of width 64 in 64 modes are made block by block by a counter-based generator whenever they are read, so that no vectors are held: what a
run adds to ids, lengths and scores is the selector's own. Each selector keeps 1 % of the rows for a target of 32, at an eighth,
a quarter, half and all of `rows`, each in a process of its own on one thread; times are its CPU seconds, `made` those that go into
making the rows it read. A selector that refuses a size, or takes longer than an hour, is named and left out.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
from numpy.typing import NDArray  # noqa: E402

from curate.core import Budget, Features  # noqa: E402
from curate.errors import CurateError  # noqa: E402
from curate.interfaces import Selector  # noqa: E402
from curate.registry import component  # noqa: E402

SELECTORS = ("round_robin", "top_k", "coverage", "softmax_mass", "policy_mask")
SCORED = ("coverage", "policy_mask")
WIDTH, MODES, TARGETS = 64, 64, 32
CHUNK = 2048
LIMIT = 3600  # seconds


class Made:
    """(N, WIDTH) float32 rows that are computed when they are read, the same at every reading: a mode's centre and noise."""

    def __init__(self, rows: int) -> None:
        self.shape, self.dtype, self.ndim = (rows, WIDTH), np.dtype(np.float32), 2
        self.seconds, self.passes = 0.0, 0.0
        self.centres = np.random.Generator(np.random.Philox(7)).standard_normal((MODES, WIDTH), np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        start = time.process_time()
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        flat = np.atleast_1d(rows)
        found = np.empty((len(flat), WIDTH), np.float32)
        for chunk in np.unique(flat // CHUNK):
            mine = flat // CHUNK == chunk
            found[mine] = self._chunk(int(chunk))[flat[mine] % CHUNK]
        self.seconds += time.process_time() - start
        self.passes += len(flat) / len(self)
        return found[0] if np.ndim(rows) == 0 else found

    def _chunk(self, chunk: int) -> NDArray[np.float32]:
        counter = np.random.Philox(key=1, counter=[0, 0, chunk, 0])
        noise = np.random.Generator(counter).standard_normal((CHUNK, WIDTH), np.float32)
        return np.asarray(self.centres[np.arange(CHUNK) % MODES] + noise)


def padded(rows: int) -> NDArray[np.str_]:
    """("00000000", "00000001", ...), in order, a few bytes a row."""
    ids = np.empty(rows, "<U8")
    for start in range(0, rows, 1 << 18):
        numbers = np.arange(start, min(start + (1 << 18), rows))
        digits = (numbers[:, None] // 10 ** np.arange(7, -1, -1)) % 10 + ord("0")
        ids[start : start + len(numbers)] = np.ascontiguousarray(digits, np.uint32).view("<U8")[:, 0]
    return ids


def peak() -> float:
    """MiB, the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name: str, rows: int) -> dict[str, Any]:
    """One selection: seconds, memory, and how often it passed over the pool."""
    selector = component("selectors", name)
    if not isinstance(selector, Selector):
        raise TypeError(name)
    made = Made(rows)
    scores = np.random.Generator(np.random.Philox(3)).standard_normal(rows) if name in SCORED else None
    pool = Features(padded(rows), np.ones(rows, np.int64), vectors=made, scores=scores, supervised=np.ones(rows, np.int64))
    noise = np.random.Generator(np.random.Philox(5)).standard_normal((TARGETS, WIDTH), np.float32)
    target = Features.from_arrays(vectors=made.centres[:TARGETS] + 0.5 * noise)
    before, started, wall = peak(), time.process_time(), time.perf_counter()
    try:
        kept = selector.select(pool, Budget(amount=rows // 100), target=target)
    except (CurateError, MemoryError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    seconds = time.process_time() - started
    wall = time.perf_counter() - wall
    return {"kept": len(kept), "seconds": seconds, "wall": wall, "made": made.seconds, "passes": made.passes, "before": before, "peak": peak()}


def apart(name: str, rows: int) -> dict[str, Any]:
    """`one` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, name, str(rows)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"refused": f"not done after {LIMIT} s"}
    if done.returncode:
        return {"refused": f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(sizes: list[int], seconds: list[float]) -> str:
    """How straight: a power of N, and the largest deviation from the best straight line."""
    power = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    slope, base = np.polyfit(sizes, seconds, 1)
    off = max(abs(base + slope * n - s) / s for n, s in zip(sizes, seconds, strict=True))
    return f"{1e6 * slope:.2f} us a row + {base:.2f} s, off by {100 * off:.0f} % at most; seconds grow as N^{power:.2f}"


def main(rows: int) -> None:
    print(f"{'selector':>12} {'rows':>9} {'kept':>7} {'passes':>6} {'CPU s':>8} {'made s':>7} {'wall s':>8} {'rows/s':>9} {'MiB before':>10} {'peak':>6}")
    for name in SELECTORS:
        sizes: list[int] = []
        seconds: list[float] = []
        for size in (rows // 8, rows // 4, rows // 2, rows):
            found = apart(name, size)
            if "refused" in found:
                print(f"{name:>12} {size:>9} skipped: {found['refused']}", flush=True)
                break
            sizes.append(size)
            seconds.append(found["seconds"])
            print(
                f"{name:>12} {size:>9} {found['kept']:>7} {found['passes']:>6.1f} {found['seconds']:>8.2f} {found['made']:>7.2f} {found['wall']:>8.1f} "
                f"{size / found['seconds']:>9.0f} {found['before']:>10.0f} {found['peak']:>6.0f}",
                flush=True,
            )
        if len(sizes) > 2:
            print(f"{name:>12} {line(sizes, seconds)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) == 2 else 1_000_000)
