"""Duplicates among many rows of which is known what they copy: time, memory, recall and precision; and a plain loop of datasketch beside it.

    python benchmarks/deduplicate.py --rows 1000000 --workers 2 --peer-rows 20000

Four rows in five are drawn anew, of 20 to 120 words; of the rest half copy an earlier row letter for letter but for case and spacing, and half with up to
five words replaced, put in or left out. A copy counts as known if its true Jaccard similarity to its original is 0.8 or more (computed here from the words).
Recall is the share of known copies that are grouped with their original, precision the share of left-out rows that copy another. Memory is the largest
resident size of the driver, and of the largest worker.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curate.cluster import cluster_of
from curate.core import Artifact, Row
from curate.data.conversation import Conversation, Rejection
from curate.data.load import Parsed
from curate.data.read import RawRow
from curate.data.writer import write_examples
from curate.pipelines.duplicates import find_duplicates, groups_of
from curate.pipelines.session import Session
from curate.recipe import Hygiene
from curate.store import Store

Words = list[str]
ANSWER = 8  # words at the end that are the answer


class WithoutTokens:
    """An encoder that leaves the text alone: tokens play no part here."""

    max_length = 8

    def encode(self, conversations: Sequence[Conversation]) -> list[Row | Rejection]:
        return [Row(np.zeros(2, np.int32), np.ones(2, np.bool_)) for _ in conversations]

    def special_tokens_in(self, conversation: Conversation) -> int:
        return 0


def drawn(count: int, seed: int) -> Iterator[tuple[Words, int, bool, float]]:
    """(words, the row that it copies or -1, whether letter for letter, how alike they are) of each row."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    vocabulary = np.array([f"w{number:x}" for number in range(50_000)])
    kept: list[Words] = []  # a sample of the rows so far, that copies are made of
    places: list[int] = []
    for number in range(count):
        kind = random.random()
        if kind < 0.8 or not kept:
            words = vocabulary[(random.pareto(1.0, int(random.integers(20, 121))) * 20).astype(np.int64) % 50_000].tolist()
            if len(kept) < 5000:
                kept.append(words)
                places.append(number)
            elif random.random() < 0.2:
                slot = int(random.integers(5000))
                kept[slot], places[slot] = words, number
            yield words, -1, False, 0.0
            continue
        source = int(random.integers(len(kept)))
        exact = kind < 0.9
        copy = kept[source] if exact else edited(kept[source], random, vocabulary)
        yield copy, places[source], exact, 1.0 if exact else jaccard(copy, kept[source])


def edited(words: Words, random: np.random.Generator, vocabulary: Any) -> Words:
    made = list(words)
    for _ in range(int(random.integers(1, 6))):
        place = int(random.integers(len(made)))
        way = random.integers(3)
        made[place : place + (way != 1)] = [] if way == 2 else [str(vocabulary[int(random.integers(50_000))])]
    return made


def shingles(words: Words) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def jaccard(one: Words, other: Words) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


class Made:
    """The rows as they are written, and what is known of them."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.source = np.full(count, -1, np.int64)
        self.known = np.zeros(count, np.bool_)

    def rows(self) -> Iterator[Parsed]:
        for number, (words, source, exact, alike) in enumerate(drawn(self.count, self.seed)):
            self.source[number], self.known[number] = source, alike >= 0.8
            question, answer = " ".join(words[:-ANSWER]), " ".join(words[-ANSWER:])
            said = f"{question.upper()}\n" if exact else question
            yield Parsed(RawRow(f"made:{number + 1}", "made", {}), Conversation(messages=(("user", said), ("assistant", answer))))


def ours(count: int, workers: int, folder: Path) -> None:
    made, place = Made(count, 0), folder / "examples-made"
    place.mkdir(parents=True)
    start = time.perf_counter()
    summary = write_examples(made.rows(), WithoutTokens(), lambda name, data: (place / name).write_bytes(data))
    print(f"{count:,} rows written in {time.perf_counter() - start:.0f} s; {int((made.source >= 0).sum()):,} copies, {int(made.known.sum()):,} known as such")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    session = Session(Store(folder / "store"), cluster_of(workers), folder, "cpu", lambda stage, label: None)
    start, used = time.perf_counter(), processor_seconds()
    try:
        found = find_duplicates(session, Artifact("examples-made", place, {"summary": summary}), Hygiene(deduplicate="near"))
    finally:
        session.cluster.close()
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    group = groups_of(found).group
    driver, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    left_out = np.flatnonzero(group != np.arange(count))
    together = group[made.known] == group[made.source[made.known]]
    copies = int((made.source[left_out] >= 0).sum())
    print(
        f"curate: {seconds:.0f} s with {workers} workers, {used:.0f} s of processor time, {used / count * 1e6:.0f} us a row; peak {driver:.0f} MiB driver "
        f"({before:.0f} before), {worker:.0f} MiB worker; {found.manifest['summary']}"
    )
    print(f"  recall {together.mean():.5f} of {len(together):,} known copies; precision {copies / max(1, len(left_out)):.5f} of {len(left_out):,} left out")


def processor_seconds() -> float:
    """Of this process and of its children that have ended: what other work on the machine does not lengthen."""
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def peer(count: int) -> None:
    """datasketch as its manual shows it: a MinHash of every row, put into a MinHashLSH in memory."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

    rows = [words for words, *_ in drawn(count, 0)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    index, repeats = MinHashLSH(threshold=0.8, num_perm=128), 0
    for number, words in enumerate(rows):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(shingle).encode() for shingle in shingles(words)])
        repeats += bool(index.query(sketch))
        index.insert(number, sketch)
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(f"datasketch loop: {count:,} rows, {seconds:.0f} s of processor time, {seconds / count * 1e6:.0f} us a row; {grown / count * 1024:.1f} KiB a row; "
          f"{repeats:,} rows near an earlier one, not verified")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    given = parser.parse_args()
    if given.peer_rows:
        peer(given.peer_rows)
    with tempfile.TemporaryDirectory() as scratch:
        ours(given.rows, given.workers, Path(scratch))


if __name__ == "__main__":
    main()
