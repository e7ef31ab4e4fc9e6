"""Peak memory of scoring as the pool grows: does it stay where it is?

    python benchmarks/scoring_memory.py [rows ...]

Each pool is scored by `rds` with the model of the quickstart in a process of its own, which reports the most memory of its own
that it ever held (sampled; pages of mapped files are not counted, for the kernel takes them back when it wants to). Preparing the
pool is measured apart. What grows is what is kept per row: its id, lengths and group.
"""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

RECIPE = """
name: memory
pool: {{path: pool.jsonl}}
target: {{some: {{path: target.jsonl}}}}
model: {{path: {model}, max_length: 96}}
features: {{hidden: {{name: rds}}}}
arms: {{rr: {{vectors: hidden, selector: {{name: round_robin}}}}}}
budgets: [10]
evaluate: [{{task: likelihood, data: {{path: held.jsonl}}}}]
"""
MEASURED = """
import re, sys, threading
from curate.__main__ import main
own = re.compile(r"RssAnon:\\s*(\\d+) kB")
peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.05):
        peak = max(peak, int(own.search(open("/proc/self/status").read())[1]))
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
try:
    main()
finally:
    over.set()
    print(peak, file=sys.stderr)
"""


def write_rows(path: Path, rows: int, seed: int) -> None:
    generator = random.Random(seed)
    words = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("an", "el", "ino", "um", "or")]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = " ".join(generator.choices(words, k=generator.randint(4, 16)))
            file.write(json.dumps({"prompt": f"Row {number}: {text}", "completion": generator.choice(words)}) + "\n")


def peak_mib(folder: Path, until: str) -> float:
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, "run", str(folder / "recipe.yaml"), "--until", until, "--workers", "1", "--quiet"]
    done = subprocess.run([*command, "--store", str(folder / "store"), "--runs", str(folder / "runs")], capture_output=True, text=True, check=True)
    return int(done.stderr.strip().splitlines()[-1]) / 1024


def pools(recipe: str, sizes: Sequence[int]) -> Iterator[tuple[int, Path]]:
    """For each of the sizes given as arguments, or these, a folder with the recipe, so many pool rows, and 20 rows of target and evaluation each."""
    model = Path(__file__).resolve().parents[1] / "configs" / "quickstart_model"
    for rows in [int(argument) for argument in sys.argv[1:]] or sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for seed, (part, count) in enumerate([("pool", rows), ("target", 20), ("held", 20)]):
                write_rows(folder / f"{part}.jsonl", count, seed)
            (folder / "recipe.yaml").write_text(recipe.format(model=model), encoding="utf-8")
            yield rows, folder


def main() -> None:
    print(f"{'rows':>8} {'prepare MiB':>12} {'score MiB':>12}")
    for rows, folder in pools(RECIPE, [2000, 8000, 32000]):
        print(f"{rows:>8} {peak_mib(folder, 'prepare'):>12.0f} {peak_mib(folder, 'score'):>12.0f}", flush=True)


if __name__ == "__main__":
    main()
