"""The leak gate: which rows of a pool hold items of a benchmark, how much of each, and where.

An item is its question and its answer. Of a long text the gate says how much a single row covers: the share of its letters that lie in stretches of
`characters` letters or `ngram` words that the row holds too. A shorter question has to stand in the row as a whole, as sentences or lines of its own
(otherwise it is a phrase, and suspicious at most), and one of fewer than 20 letters has to be a whole turn, for such strings stand everywhere. Of
short answers, bare numbers, and short questions that their benchmark asks again with another answer (`Which is true?`), nothing is looked for.

What many items of a benchmark share (a block in more than 50 items and in more than 2% of them) is its template, not an item: it makes no match
and is no part of what is to be covered. So is a phrase that is allowed. Edits are seen through as long as whole windows survive them; for
paraphrases there is `curate.hygiene.vectors`, and a translation is not found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.hygiene.benchmark import ANCHOR, TURN, Benchmark, LeakRules, allowed, asked_again, short_anchors, templates, texts_of
from curate.hygiene.normalise import Strip, letters, spaced, stands_alone, words
from curate.hygiene.windows import Anchors, Index, Match, block_hashes

Part = Literal["question", "answer"]
Span = tuple[int, int]
Kind = Literal["stretches", "whole", "phrase", "turn"]
Verdict = Literal["clean", "suspicious", "dirty"]

_OWN = 20  # letters that must be left of a text without the template
_BATCH = 1 << 19  # letters of the pool at a time


@dataclass(frozen=True)
class Hit:
    """One row that shares enough with one item; places are letters of the row's turn and of the item's part, spaces left out."""

    row: int
    benchmark: int
    item: int
    part: Part
    kind: Kind
    cover: float
    turn: int
    there: Span  # the longest stretch, in the turn
    here: Span  # and in the item's part


@dataclass(frozen=True)
class Gate:
    """Benchmarks made ready to be looked for."""

    rules: LeakRules
    benchmarks: Sequence[Benchmark]
    owners: NDArray[np.int64]  # (texts, 3) benchmark, item, 0 for a question and 1 for an answer
    index: Index  # of long texts; short ones are empty in it
    own: NDArray[np.bool_]  # letters of the index that tell an item from others
    short: Strip  # texts that must be found whole; others are empty in it
    anchors: Anchors
    turns: Mapping[str, list[int]]  # texts that must be a whole turn

    @classmethod
    def of(cls, benchmarks: Sequence[Benchmark], rules: LeakRules) -> "Gate":
        """Normalise and index the items; O(n log n) of their letters n."""
        owners, texts = texts_of(benchmarks, rules)
        sizes = np.array([len(text.replace(" ", "")) for text in texts], np.int64)
        counts = np.array([text.count(" ") + 1 for text in texts], np.int64)
        long = (sizes >= rules.characters) | (counts >= rules.ngram)
        wide = [text if big else "" for text, big in zip(texts, long, strict=True)]
        strip = Strip.of(wide)
        skip = templates(strip, owners, benchmarks, rules) | allowed(strip, [words(phrase) for phrase in rules.allow])
        told = ~long & ~asked_again(owners, texts, benchmarks)
        short = Strip.of([text if mine and size >= TURN else "" for text, mine, size in zip(texts, told, sizes, strict=True)])
        turns: dict[str, list[int]] = {}
        for number in np.flatnonzero(told & (sizes < TURN) & (sizes > 0)):
            turns.setdefault(texts[number].replace(" ", ""), []).append(int(number))
        own = ~skip & (strip.codes != 0)
        index = Index.of(wide, characters=rules.characters, ngram=rules.ngram, skip=skip)
        return cls(rules, benchmarks, owners, index, own, short, short_anchors(short), turns)

    def scan(self, rows: Iterable[Sequence[str]]) -> list[Hit]:
        """Every pair of a row, given as its turns, and an item of which it covers the `suspicious` share or more; memory does not grow with the rows."""
        found: list[Hit] = []
        for batch in _batched(rows):
            stream = Strip.of([spaced(turn) for turn in batch.turns])
            found += [*self._wide(stream, batch), *self._whole(stream, batch), *self._turns(stream, batch)]
        return found

    def _turns(self, stream: Strip, batch: "Batch") -> Iterator[Hit]:
        """Turns that are one of the shortest texts and nothing else."""
        sizes = np.diff(stream.edges) - 1
        for place in np.flatnonzero(sizes < TURN) if self.turns else ():
            size = int(sizes[place])
            for number in self.turns.get(letters(batch.turns[place]), ()):
                yield self._hit(batch.rows[place], number, "turn", 1.0, batch.numbers[place], (0, size), (0, size))

    def _wide(self, stream: Strip, batch: "Batch") -> Iterator[Hit]:
        """Long texts, by the stretches that they share with one row."""
        shared: dict[tuple[int, int], list[tuple[int, Match]]] = {}
        for match in self.index.matches(stream):
            turn, text = stream.text_at(match.stream[0]), self.index.strip.text_at(match.held[0])
            shared.setdefault((batch.rows[turn], text), []).append((turn, match))
        for (row, text), matches in shared.items():
            start, end = int(self.index.strip.edges[text]), int(self.index.strip.edges[text + 1]) - 1
            own = self.own[start:end]
            covered = np.zeros(end - start, np.bool_)
            for _, match in matches:
                covered[match.held[0] - start : match.held[1] - start] = True
            if own.sum() < _OWN or (cover := float((covered & own).sum() / own.sum())) < self.rules.suspicious:
                continue
            turn, best = max(matches, key=lambda pair: (pair[1].stream[1] - pair[1].stream[0], -pair[1].stream[0]))
            begin = int(stream.edges[turn])
            there, here = (best.stream[0] - begin, best.stream[1] - begin), (best.held[0] - start, best.held[1] - start)
            yield self._hit(row, text, "stretches", cover, batch.numbers[turn], there, here)

    def _whole(self, stream: Strip, batch: "Batch") -> Iterator[Hit]:
        """Short texts that stand whole in a turn, not cut out of a word."""
        step = TURN - ANCHOR + 1
        places = np.arange(0, len(stream.codes) - ANCHOR + 1, step)
        seen: set[tuple[int, int]] = set()
        for place, held in self.anchors.pairs(block_hashes(stream.codes, places, ANCHOR), places):
            text = self.short.text_at(held)
            start, end = int(self.short.edges[text]), int(self.short.edges[text + 1]) - 1
            begin = place - (held - start)
            over = begin + end - start
            if begin < 0 or (begin, text) in seen or not np.array_equal(stream.codes[begin:over], self.short.codes[start:end]):
                continue
            if _cuts(stream, begin) or _cuts(stream, over):
                continue
            seen.add((begin, text))
            turn = stream.text_at(begin)
            there = (begin - int(stream.edges[turn]), over - int(stream.edges[turn]))
            kind: Kind = "whole" if stands_alone(batch.turns[turn], *there) else "phrase"
            yield self._hit(batch.rows[turn], text, kind, 1.0, batch.numbers[turn], there, (0, end - start))

    def _hit(self, row: int, text: int, kind: Kind, cover: float, turn: int, there: Span, here: Span) -> Hit:
        benchmark, item, part = map(int, self.owners[text])
        return Hit(row, benchmark, item, "answer" if part else "question", kind, cover, turn, there, here)

    def verdict(self, hit: Hit) -> Verdict:
        """Of the item, as far as this row goes: an answer alone makes it suspicious at most."""
        benchmark = self.benchmarks[hit.benchmark]
        if benchmark.items[hit.item].id in self.rules.allow:
            return "clean"
        if hit.part == "question":
            return "dirty" if hit.cover >= self.rules.dirty and hit.kind != "phrase" else "suspicious"
        return "suspicious" if hit.cover >= self.rules.dirty else "clean"


class Batch(NamedTuple):
    """Some turns of the pool, the row of each and its number within the row."""

    turns: list[str]
    rows: list[int]
    numbers: list[int]


def _batched(rows: Iterable[Sequence[str]]) -> Iterator[Batch]:
    """Some letters at a time; turns in ASCII apart from others, for they are quicker."""
    held: dict[bool, Batch] = {}
    sizes = {True: 0, False: 0}
    for place, row in enumerate(rows):
        for number, turn in enumerate(row):
            kind = turn.isascii()
            batch = held.setdefault(kind, Batch([], [], []))
            batch.turns.append(turn)
            batch.rows.append(place)
            batch.numbers.append(number)
            sizes[kind] += len(turn) + 1
            if sizes[kind] >= _BATCH:
                yield held.pop(kind)
                sizes[kind] = 0
    yield from held.values()


def _cuts(stream: Strip, place: int) -> bool:
    """Whether a boundary here would cut an ASCII word in two; other scripts need not put spaces between words."""
    return not stream.heads[place] and stream.codes[place] < 128 and stream.codes[place - 1] < 128
