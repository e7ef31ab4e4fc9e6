"""Stretches of text that two sides share, word for word: found by rolling hashes, verified on the text itself.

The index holds the few texts that are looked for (benchmark items); the many (the pool) stream past it. A stretch counts if it has `characters`
letters and digits, or `ngram` whole words. Every stretch of w characters holds a block of q < w that begins at a multiple of w - q + 1, so all
blocks of the index and only every (w - q + 1)-th block of the stream are looked up; what is found is extended to both sides letter by letter,
and counts only then. A hash that collides costs a comparison, never a false stretch, and no stretch is missed.

The hash of a block is the polynomial sum of c_j B^(j - i) modulo 2^64, B odd: one running sum gives that of every block. O(n) a stream of n letters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.hygiene.normalise import Strip

Hashes = NDArray[np.uint64]

_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd
_CHUNK = 1 << 18
_BITS = 22  # at least, of the table that says quickly that a hash is not there
_STEP = 256  # letters compared at a time


class Match(NamedTuple):
    """A stretch that both sides share: letters [start, end) of the stream and of the held text, and how many whole words it is."""

    stream: tuple[int, int]
    held: tuple[int, int]
    words: int


def block_hashes(values: NDArray[Any], places: Integers, width: int) -> Hashes:
    """The hash of values[p : p + width] for each of the sorted `places`."""
    powers, inverses = _powers(min(len(values), _CHUNK + width))
    out = np.empty(len(places), np.uint64)
    done = 0
    while done < len(places):
        begin = int(places[done])
        upto = int(np.searchsorted(places, begin + _CHUNK - width, side="right")) if len(values) > _CHUNK else len(places)
        upto = max(upto, done + 1)
        piece = _mixed(values[begin : int(places[upto - 1]) + width])
        sums = np.zeros(len(piece) + 1, np.uint64)
        np.cumsum(piece * powers[: len(piece)], out=sums[1:])
        local = places[done:upto] - begin
        out[done:upto] = (sums[local + width] - sums[local]) * inverses[local]
        done = upto
    return out


def word_hashes(strip: Strip) -> tuple[Integers, Hashes]:
    """Where each word begins, and its hash; a zero is a word of its own."""
    heads = np.flatnonzero(strip.heads)
    ends = np.append(heads[1:], len(strip.codes))
    powers, inverses = _powers(_CHUNK)
    out = np.empty(len(heads), np.uint64)
    done = 0
    while done < len(heads):
        begin = int(heads[done])
        upto = max(done + 1, int(np.searchsorted(ends, begin + _CHUNK, side="right")))
        ending = np.minimum(ends[done:upto], begin + _CHUNK) - begin  # what is longer than a chunk is no word
        piece = _mixed(strip.codes[begin : begin + int(ending[-1])])
        sums = np.zeros(len(piece) + 1, np.uint64)
        np.cumsum(piece * powers[: len(piece)], out=sums[1:])
        local = heads[done:upto] - begin
        out[done:upto] = (sums[ending] - sums[local]) * inverses[local]
        done = upto
    return heads, out


def _mixed(values: NDArray[Any]) -> Hashes:
    wide = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(_BASE)
    wide ^= wide >> np.uint64(32)
    wide *= np.uint64(_MIX)
    return wide ^ (wide >> np.uint64(29))


_cached: list[tuple[Hashes, Hashes]] = []


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """B^i and its inverse modulo 2^64, for i < count."""
    count = max(1, count)
    if not _cached or len(_cached[0][0]) < count:
        inverse = pow(_BASE, -1, 1 << 64)
        made = []
        for base in (_BASE, inverse):
            steps = np.full(count, base, np.uint64)
            steps[0] = 1
            made.append(np.cumprod(steps, dtype=np.uint64))
        _cached[:] = [(made[0], made[1])]
    return _cached[0]


@dataclass(frozen=True)
class Anchors:
    """Hashes of blocks and where they begin, several places a hash if need be."""

    hashes: Hashes  # sorted
    places: Integers
    table: NDArray[np.bool_]  # by the first bits of a hash

    @classmethod
    def of(cls, hashes: Hashes, places: Integers) -> "Anchors":
        order = np.argsort(hashes, kind="stable")
        bits = max(_BITS, min(26, int(len(hashes)).bit_length() + 4))
        table = np.zeros(1 << bits, np.bool_)
        table[(hashes >> np.uint64(64 - bits)).astype(np.int64)] = True
        return cls(hashes[order], places[order], table)

    def pairs(self, hashes: Hashes, places: Integers) -> Iterator[tuple[int, int]]:
        """(place in the stream, place in the index) of every block that both hold."""
        bits = int(len(self.table)).bit_length() - 1
        likely = np.flatnonzero(self.table[(hashes >> np.uint64(64 - bits)).astype(np.int64)])
        left = np.searchsorted(self.hashes, hashes[likely], side="left")
        right = np.searchsorted(self.hashes, hashes[likely], side="right")
        for number in np.flatnonzero(right > left):
            place = int(places[likely[number]])
            for held in self.places[left[number] : right[number]].tolist():
                yield place, held


@dataclass(frozen=True)
class Index:
    """The texts that are looked for, with the blocks of them that may begin a match."""

    strip: Strip
    characters: int
    ngram: int
    letters: Anchors
    words: Anchors

    @classmethod
    def of(cls, texts: Sequence[str], *, characters: int = 50, ngram: int = 13, skip: NDArray[np.bool_] | None = None) -> "Index":
        """Of texts in normal form; blocks that lie wholly in letters that `skip` marks begin no match."""
        strip = Strip.of(texts)
        places, hashes = blocks(strip, letter_block(characters))
        heads, firsts, named = word_blocks(strip, word_block(ngram))
        if skip is not None:
            marked = np.concatenate([[0], np.cumsum(skip)])
            own = marked[places + letter_block(characters)] - marked[places] < letter_block(characters)
            places, hashes = places[own], hashes[own]
            mine = marked[named] - marked[heads] < named - heads
            heads, firsts = heads[mine], firsts[mine]
        return cls(strip, characters, ngram, Anchors.of(hashes, places), Anchors.of(firsts, heads))

    def matches(self, stream: Strip) -> list[Match]:
        """Every stretch of `characters` letters or `ngram` words that is in both, as long as it goes, each once."""
        found: list[Match] = []
        for place, held in self._candidates(stream):
            last = found[-1] if found else None
            if last and last.held[0] - last.stream[0] == held - place and last.stream[0] <= place < last.stream[1]:
                continue
            match = extended(stream, self.strip, place, held)
            if match.stream[1] > match.stream[0]:
                found.append(match)
        return [one for one in found if one.stream[1] - one.stream[0] >= self.characters or one.words >= self.ngram]

    def _candidates(self, stream: Strip) -> list[tuple[int, int]]:
        """Blocks that both seem to hold, along their diagonals."""
        block = letter_block(self.characters)
        places = np.arange(0, len(stream.codes) - block + 1, self.characters - block + 1)
        pairs = list(self.letters.pairs(block_hashes(stream.codes, places, block), places))
        heads, hashes = word_hashes(stream)
        block = word_block(self.ngram)
        chosen = np.arange(0, len(heads) - block + 1, self.ngram - block + 1)
        pairs += self.words.pairs(block_hashes(hashes, chosen, block), heads[chosen])
        return sorted(set(pairs), key=lambda pair: (pair[1] - pair[0], pair[0]))


def letter_block(characters: int) -> int:
    """How long a block of letters is: two thirds of a window."""
    return max(1, characters * 2 // 3)


def word_block(ngram: int) -> int:
    """How many words a block has: two thirds of a window."""
    return max(1, ngram * 2 // 3)


def blocks(strip: Strip, width: int) -> tuple[Integers, Hashes]:
    """Every block of letters that lies inside one text."""
    sizes = np.diff(strip.edges) - 1
    free = np.zeros(len(strip.codes) + 1, np.int64)
    fits = np.flatnonzero(sizes >= width)
    np.add.at(free, strip.edges[fits], 1)
    np.add.at(free, strip.edges[fits] + sizes[fits] - width + 1, -1)
    places = np.flatnonzero(np.cumsum(free[:-1]))
    return places, block_hashes(strip.codes, places, width)


def word_blocks(strip: Strip, width: int) -> tuple[Integers, Hashes, Integers]:
    """Where every block of so many words inside one text begins, its hash, and where it ends."""
    heads, hashes = word_hashes(strip)
    if len(heads) <= width:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64)
    zeros = np.concatenate([[0], np.cumsum(strip.codes[heads] == 0)])
    first = np.arange(len(heads) - width)
    first = first[zeros[first + width] == zeros[first]]
    return heads[first], block_hashes(hashes, first, width), heads[first + width]


def extended(stream: Strip, index: Strip, place: int, held: int) -> Match:
    """The longest stretch around two places over which both sides agree; empty if they do not agree there."""
    ahead = _agreement(stream.codes[place:], index.codes[held:])
    behind = _agreement(stream.codes[:place][::-1], index.codes[:held][::-1]) if ahead else 0
    start, end = place - behind, place + ahead
    shift = held - place
    whole = _common_words(stream, index, start, end, shift) if end > start else 0
    return Match((start, end), (start + shift, end + shift), whole)


def _agreement(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    """How many letters agree from the beginning; a zero agrees with nothing."""
    most, done = min(len(one), len(other)), 0
    while done < most:
        here = one[done : min(most, done + _STEP)]
        differs = (here != other[done : done + len(here)]) | (here == 0)
        first = int(differs.argmax())
        if differs[first]:
            return done + first
        done += len(here)
    return done


def _common_words(stream: Strip, index: Strip, start: int, end: int, shift: int) -> int:
    """The longest run of words inside the stretch that both sides divide alike."""
    ours = stream.heads[start : end + 1]  # a head behind the stretch ends its last word
    theirs = index.heads[start + shift : end + shift + 1]
    alike = np.flatnonzero(ours & theirs)
    odd = np.concatenate([[0], np.cumsum(ours != theirs)])
    run = best = 0
    for first, last in zip(alike[:-1].tolist(), alike[1:].tolist(), strict=True):
        run = run + 1 if odd[last] == odd[first] else 0
        best = max(best, run)
    return best
