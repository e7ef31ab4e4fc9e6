"""A selection repaired after each change of the pool beside greedy from scratch after each: gains that are computed, seconds, and what each is worth.

    python benchmarks/repaired_selection.py [--rows 5000] [--kept 50] [--changes 40] [--seed 0]
"""

import argparse
import time

import numpy as np

from curate.core import Floats, Integers
from curate.greedy import lazy_greedy
from curate.submodular.dynamic import Dynamic
from curate.submodular.log_determinant import LogDeterminant


class Counted(LogDeterminant):
    """Counts the gains that are asked for."""

    asked = 0

    def gains(self, rows: Integers) -> Floats:
        Counted.asked += len(rows)
        return super().gains(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 5000), ("kept", 50), ("changes", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    vectors = rng.normal(size=(given.rows, 32)) + 3 * rng.normal(size=(20, 32))[rng.integers(20, size=given.rows)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    there = rng.random(given.rows) < 0.9
    dynamic = Dynamic(LogDeterminant(vectors, 1.0), given.kept, 0.1, given.seed)
    began = time.perf_counter()
    dynamic.insert_all(np.flatnonzero(there))
    print(f"made at first: {dynamic.queries:,} gains, {time.perf_counter() - began:.1f} s, {len(dynamic.guesses)} guesses")
    spent = {"repaired": 0.0, "from scratch": 0.0}
    gains = {"repaired": 0, "from scratch": 0}
    worth, kept, moved = [], {"repaired": set[int](), "from scratch": set[int]()}, {"repaired": 0, "from scratch": 0}
    for change in range(given.changes):
        row = int(rng.choice(np.flatnonzero(there if change % 2 else ~there)))
        before, began = dynamic.queries, time.perf_counter()
        (dynamic.delete if there[row] else dynamic.insert)(row)
        best = {"repaired": set(dynamic.best())}
        spent["repaired"] += time.perf_counter() - began
        gains["repaired"] += dynamic.queries - before
        there[row] = not there[row]
        began, Counted.asked = time.perf_counter(), 0
        rows = np.flatnonzero(there)
        objective = Counted(vectors[rows], 1.0)
        greedy = lazy_greedy(objective, np.ones(len(rows), np.int64), given.kept)
        spent["from scratch"] += time.perf_counter() - began
        gains["from scratch"] += Counted.asked
        best["from scratch"] = set(rows[greedy.order].tolist())
        whole = LogDeterminant(vectors, 1.0)
        worth.append(whole.value_of(np.array(sorted(best["repaired"]))) / greedy.value)
        for name, some in best.items():
            moved[name] += len(some - kept[name]) if kept[name] else 0
            kept[name] = some
    for name in ("repaired", "from scratch"):
        each = (gains[name] / given.changes, 1000 * spent[name] / given.changes, moved[name] / given.changes)
        print(f"{name}: {each[0]:,.0f} gains, {each[1]:.0f} ms and {each[2]:.2f} rows a change")
    ratios = (gains["repaired"] / gains["from scratch"], spent["repaired"] / spent["from scratch"])
    print(f"repaired beside from scratch: gains {ratios[0]:.2f}, time {ratios[1]:.2f}, worth {min(worth):.3f} at least, {np.mean(worth):.3f} on average")


if __name__ == "__main__":
    main()
