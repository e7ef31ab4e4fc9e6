"""BM25 and DSIR of short rows beside their peers, with equal numbers: how many rows a second?

    python benchmarks/lexical.py [rows] [repetitions]

Rows are 10 words out of 50,000 (the n-th as often as 1 / n), the target is 50 of the like. All sides start from text
and read the pool once to prepare and once to score, in turn, in process CPU seconds on one thread. bm25's peer is
rank_bm25's BM25Okapi on the same words, its idf set to ours. dsir's is the published computation: sha256 of
every n-gram and an array of 10,000 counts per row. Needs rank_bm25, which is no dependency of curate: the extra `bench`.
"""

import hashlib
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402  (the thread counts come first)
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from curate.core import Row, Written  # noqa: E402
from curate.interfaces import Batch, Scorer, ScoringContext  # noqa: E402
from curate.lexical import words  # noqa: E402
from curate.scorers.bm25 import Bm25  # noqa: E402
from curate.scorers.dsir import Dsir  # noqa: E402

BATCH = 200  # rows of ten words that the pipeline takes at a time
BLANK = torch.zeros((BATCH, 1))


def drawn(rows: int, seed: int) -> list[str]:
    generator = np.random.Generator(np.random.Philox(seed))
    share = 1 / np.arange(1, 50_001)
    picked = generator.choice(50_000, size=(rows, 10), p=share / share.sum())
    return [" ".join(f"word{number:x}" for number in row) for row in picked.tolist()]


def batches(texts: Sequence[str]) -> Iterator[Batch]:
    for start in range(0, len(texts), BATCH):
        contents = [Written((("", text),)) for text in texts[start : start + BATCH]]
        blank = BLANK[: len(contents)]
        yield Batch(blank.long(), blank.bool(), blank.bool(), contents)


def ours(scorer: Scorer, pool: Sequence[str], target: Sequence[str]) -> NDArray[np.float32]:
    nothing = np.zeros(0, np.int32)
    context = ScoringContext(target=[Row(nothing, nothing > 0, Written((("", text),))) for text in target])
    context = replace(context, state=scorer.prepare(batches(pool), context))
    return torch.cat([scorer.score(batch, context) for batch in batches(pool)]).numpy()


def okapi(pool: Sequence[str], target: Sequence[str]) -> NDArray[np.float64]:
    from rank_bm25 import BM25Okapi

    class Lucene(BM25Okapi):
        def _calc_idf(self, nd: dict[str, int]) -> None:
            self.idf = {word: np.log1p((self.corpus_size - df + 0.5) / (df + 0.5)) for word, df in nd.items()}

    index = Lucene([words(text) for text in pool], k1=1.5, b=0.75)
    return np.stack([index.get_scores(words(text)) for text in target], axis=1)


def published_counts(text: str, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    tokens = re.findall(r"\w+|[^\w\s]+", text.lower())
    for ngram in tokens + [" ".join(pair) for pair in zip(tokens, tokens[1:], strict=False)]:
        counts[int(hashlib.sha256(ngram.encode("utf-8")).hexdigest(), 16) % len(counts)] += 1
    return counts


def published(pool: Sequence[str], target: Sequence[str]) -> NDArray[np.float64]:
    logs = []
    for texts in (target, pool):
        total = np.zeros(10_000, int)
        for text in texts:
            published_counts(text, total)
        logs.append(np.log(total / total.sum() + 1e-8))
    difference = logs[0] - logs[1]
    return np.array([np.inner(published_counts(text, np.zeros(10_000, int)), difference) for text in pool])


def timed(work: Callable[[], NDArray[Any]]) -> tuple[float, NDArray[Any]]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(name: str, rows: int, repetitions: int, sides: dict[str, Callable[[], NDArray[Any]]], exact: tuple[str, str]) -> None:
    """Run all sides in turn, and the two of `exact` to the same numbers; print rows a second and each side over the last one, the peer."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repetitions):
        results = {}
        for side, work in sides.items():
            spent, results[side] = timed(work)
            seconds[side].append(spent)
        apart = np.abs(results[exact[0]] - results[exact[1]]).max() / np.abs(results[exact[1]]).max()
        if not apart < 1e-5:
            raise SystemExit(f"{name}: {exact[0]} and {exact[1]} differ by {apart:.1e}; the times do not compare")
    peer = list(sides)[-1]
    print(f"{name}: {rows} rows, median (range) of {repetitions}; {exact[0]} and {exact[1]} differ by at most {apart:.1e} of the largest")
    for side, times in seconds.items():
        ratios = [theirs / own for own, theirs in zip(times, seconds[peer], strict=True)]
        ratio = "" if side == peer else f"  {np.median(ratios):.1f} x ({min(ratios):.1f}-{max(ratios):.1f}) {peer}"
        print(f"  {side:22} {rows / np.median(times):9,.0f} rows/s{ratio}")


def main(rows: int = 20_000, repetitions: int = 3) -> None:
    pool, target = drawn(rows, seed=7), drawn(50, seed=8)
    try:
        import rank_bm25  # noqa: F401
    except ImportError:
        print("bm25: rank_bm25 is not installed, so nothing to compare with: pip install 'curate[bench]'")
        seconds, _ = timed(lambda: ours(Bm25(), pool, target))
        print(f"  curate {rows / seconds:,.0f} rows/s")
    else:
        compare("bm25", rows, repetitions, {"curate": lambda: ours(Bm25(), pool, target), "rank_bm25": lambda: okapi(pool, target)}, ("curate", "rank_bm25"))
    sides: dict[str, Callable[[], NDArray[Any]]] = {
        "curate": lambda: ours(Dsir(), pool, target),
        "curate, sha256": lambda: ours(Dsir(hash="sha256", smoothing=0), pool, target),
        "published": lambda: published(pool, target),
    }
    compare("dsir", rows, repetitions, sides, ("curate, sha256", "published"))
    print(f"most memory held: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
