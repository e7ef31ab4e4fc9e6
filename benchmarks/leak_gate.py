"""How fast the leak gate reads a pool, beside datatrove's n-gram decontamination, one core each, in turns.

    python benchmarks/leak_gate.py --pool FILE ... --items FILE ... --peer PYTHON [--rounds 3] [--rows N]

`--peer` is the interpreter of an environment with `datatrove[processing]` (and spacy for its English words). Both read the same rows from memory and
the same items; both sides look for 13 words in a row, and ours also for 50 letters and for short items as a whole. Printed are bytes a second of
processor time, the median of the rounds, their ratio, and how the rows that the two flag agree.
"""

import argparse
import ast
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.hygiene.benchmark import Benchmark, Item, LeakRules
from curate.hygiene.leaks import Gate

QUESTION = (("instruction", "input"), ("question",), ("Body", "Question"), ("body", "question"), ("input",), ("prompt",), ("text",))
ANSWER = ("output", "response", "answer", "completion", "target", "Answer")


def asked(row: dict[str, Any]) -> str:
    columns = next(columns for columns in QUESTION if set(columns) <= row.keys())
    return "\n".join(str(row[name] or "") for name in columns).strip()


def rows_of(paths: list[Path]) -> list[tuple[str, str]]:
    rows = [dict(row) for path in paths for row in pq.read_table(path).to_pylist()]
    return [(asked(row), str(next((row[name] for name in ANSWER if row.get(name)), ""))) for row in rows]


def ours(items: list[tuple[str, str]], pool: list[tuple[str, str]]) -> tuple[dict[str, float], set[int]]:
    start = time.process_time()
    gate = Gate.of([Benchmark("all", [Item(str(n), question) for n, (question, _) in enumerate(items)])], LeakRules())
    built = time.process_time() - start
    start = time.process_time()
    hits = gate.scan(pool)
    seconds = time.process_time() - start
    rows = {hit.row for hit in hits if gate.verdict(hit) != "clean"}
    return {"index_seconds": built, "seconds": seconds, "flagged": len(rows)}, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, nargs="+", required=True)
    parser.add_argument("--items", type=Path, nargs="+", required=True)
    parser.add_argument("--peer", type=Path, help="an interpreter with datatrove")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="of the pool, the first ones; default: all")
    given = parser.parse_args()
    pool, items = rows_of(given.pool)[: given.rows], rows_of(given.items)
    size = sum(len(turn.encode()) for row in pool for turn in row)
    print(f"{len(pool):,} rows, {size / 1e6:.1f} MB, against {len(items):,} items")
    sides: dict[str, list[dict[str, float]]] = {"curate": [], "datatrove": []}
    flagged: dict[str, set[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "items.jsonl").write_text("".join(json.dumps({"question": question}) + "\n" for question, _ in items))
        (folder / "pool.jsonl").write_text("".join(json.dumps({"text": "\n".join(row)}) + "\n" for row in pool))
        for _ in range(given.rounds):
            found, flagged["curate"] = ours(items, pool)
            sides["curate"].append(found)
            if given.peer:
                side = Path(__file__).with_name("_datatrove_side.py")
                done = subprocess.run([given.peer, side, folder], capture_output=True, text=True, check=True)
                sides["datatrove"].append(ast.literal_eval(done.stdout.strip().splitlines()[-1]))
                flagged["datatrove"] = set(json.loads((folder / "datatrove.json").read_text()))
    rates = {}
    for name, rounds in sides.items():
        if rounds:
            rates[name] = size / statistics.median(one["seconds"] for one in rounds) / 1e6
            built = statistics.median(one["index_seconds"] for one in rounds)
            times = ", ".join(f"{one['seconds']:.1f} s" for one in rounds)
            print(f"{name}: {rates[name]:.2f} MB/s ({times}), index {built:.1f} s, {rounds[0]['flagged']:.0f} rows flagged")
    if len(rates) == 2:
        both, mine, theirs = flagged["curate"] & flagged["datatrove"], flagged["curate"], flagged["datatrove"]
        apart = f"by both {len(both)}, by curate only {len(mine - both)}, by datatrove only {len(theirs - both)}"
        print(f"ratio {rates['curate'] / rates['datatrove']:.1f}; flagged {apart}")


if __name__ == "__main__":
    main()
