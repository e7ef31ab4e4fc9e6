"""A pool of a million short rows through the scorers of words: how long, and in how much memory?

    python benchmarks/million_rows.py [rows ...]

Rows of 4 to 16 words are prepared (read, tokenised, accounted for) and scored by `bm25` against 20 target rows and by `dsir`, in
one process each that reports the most memory of its own that it held. What grows with the rows is an id, lengths and a group of each.
"""

import time
from pathlib import Path

from scoring_memory import peak_mib, pools

RECIPE = """
name: memory
pool: {{path: pool.jsonl}}
target: {{some: {{path: target.jsonl}}}}
model: {{path: {model}, max_length: 96}}
features: {{words: bm25, weight: dsir}}
arms:
  words: {{similarity: words, selector: {{name: round_robin}}}}
  weight: {{scores: weight, selector: {{name: top_k}}}}
budgets: [10]
evaluate: [{{task: likelihood, data: {{path: held.jsonl}}}}]
"""


def timed(folder: Path, until: str) -> tuple[float, float]:
    start = time.perf_counter()
    peak = peak_mib(folder, until)
    return time.perf_counter() - start, peak


def main() -> None:
    print(f"{'rows':>9} {'prepare s':>10} {'rows/s':>8} {'MiB':>7} {'score s':>9} {'rows/s':>8} {'MiB':>7}")
    for rows, folder in pools(RECIPE, [125_000, 1_000_000]):
        (prepare, held), (score, most) = timed(folder, "prepare"), timed(folder, "score")
        print(f"{rows:>9} {prepare:>10.1f} {rows / prepare:>8.0f} {held:>7.0f} {score:>9.1f} {rows / score:>8.0f} {most:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
