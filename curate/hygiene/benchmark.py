"""Benchmarks made ready for the leak gate: their texts, what of them is only a template, and when a row counts as a leak."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.core import Config
from curate.hygiene.normalise import Strip, words
from curate.hygiene.windows import Anchors, block_hashes, blocks, letter_block

TURN = 20  # letters below which a text has to be a whole turn
ANCHOR = 16  # letters of the blocks by which short texts are looked for
_SHARED, _SHARED_SHARE = 50, 0.02  # more items than both hold a template


class LeakRules(Config):
    """When a row counts as a leak of a benchmark's item."""

    ngram: Annotated[int, Field(ge=3, le=100)] = Field(13, description="Whole words in a row that count as a shared stretch.")
    characters: Annotated[int, Field(ge=10, le=1000)] = Field(50, description="Letters and digits in a row, spaces left out, that count as a shared stretch.")
    dirty: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="Share of an item's question that a row must cover to be a leak of it.")
    suspicious: Annotated[float, Field(gt=0, le=1)] = Field(0.2, description="Share from which it is reported.")
    allow: list[str] = Field([], description="Ids of rows or items, and phrases, that are no leak whatever they share.")

    @model_validator(mode="after")
    def _ordered(self) -> "LeakRules":
        if self.suspicious > self.dirty:
            raise ValueError(f"suspicious ({self.suspicious:g}) must not be more than dirty ({self.dirty:g})")
        return self


class Item(NamedTuple):
    """One item of a benchmark."""

    id: str
    question: str
    answer: str = ""


class Benchmark(NamedTuple):
    """A set whose items must not be trained on."""

    name: str
    items: Sequence[Item]


def texts_of(benchmarks: Sequence[Benchmark], rules: LeakRules) -> tuple[NDArray[np.int64], list[str]]:
    """Every part of every item in normal form; short answers, bare numbers and allowed items are left out."""
    owners, texts = [], []
    for number, benchmark in enumerate(benchmarks):
        for place, item in enumerate(benchmark.items):
            for part, text in enumerate((item.question, item.answer)):
                said = words(text)
                small = len(said.replace(" ", "")) < rules.characters and said.count(" ") + 1 < rules.ngram
                owners.append((number, place, part))
                bare = small and not any(character.isalpha() for character in said)
                texts.append("" if (part and small) or bare or item.id in rules.allow else said)
    return np.array(owners, np.int64).reshape(-1, 3), texts


def asked_again(owners: NDArray[np.int64], texts: Sequence[str], benchmarks: Sequence[Benchmark]) -> NDArray[np.bool_]:
    """Questions that their benchmark asks again with another answer: they do not tell an item."""
    answers: dict[tuple[int, str], set[str]] = {}
    for (number, item, part), text in zip(owners.tolist(), texts, strict=True):
        if not part:
            answers.setdefault((number, text), set()).add(benchmarks[number].items[item].answer)
    return np.array([not part and len(answers[number, text]) > 1 for (number, _, part), text in zip(owners.tolist(), texts, strict=True)], np.bool_)


def templates(strip: Strip, owners: NDArray[np.int64], benchmarks: Sequence[Benchmark], rules: LeakRules) -> NDArray[np.bool_]:
    """Letters of blocks that too many items of one benchmark hold to tell one from another."""
    width = letter_block(rules.characters)
    places, hashes = blocks(strip, width)
    mark = np.zeros(len(strip.codes) + 1, np.int64)
    if not len(places):
        return mark[:-1] > 0
    text = np.searchsorted(strip.edges, places, side="right") - 1
    item = owners[text, 1]
    for number, benchmark in enumerate(benchmarks):
        mine = np.flatnonzero(owners[text, 0] == number)
        order = mine[np.lexsort((item[mine], hashes[mine]))]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = hashes[order][1:] != hashes[order][:-1]
        another = fresh.copy()
        another[1:] |= item[order][1:] != item[order][:-1]
        group = np.cumsum(fresh) - 1
        holders = np.bincount(group, another)
        shared = order[holders[group] > max(_SHARED, _SHARED_SHARE * len(benchmark.items))] if len(order) else order
        np.add.at(mark, places[shared], 1)
        np.add.at(mark, places[shared] + width, -1)
    return np.cumsum(mark[:-1]) > 0


def allowed(strip: Strip, phrases: Sequence[str]) -> NDArray[np.bool_]:
    """Letters of the phrases that are allowed."""
    marked = np.zeros(len(strip.codes), np.bool_)
    for phrase in phrases:
        letters = Strip.of([phrase]).codes[:-1]
        if not 0 < len(letters) <= len(strip.codes):
            continue
        for place in np.flatnonzero(strip.codes[: len(strip.codes) - len(letters) + 1] == letters[0]):
            if np.array_equal(strip.codes[place : place + len(letters)], letters):
                marked[place : place + len(letters)] = True
    return marked


def short_anchors(short: Strip) -> Anchors:
    """The blocks of short texts of which any copy holds one at a place that is looked at."""
    sizes = np.diff(short.edges) - 1
    starts = short.edges[:-1][sizes >= TURN]
    places = np.sort((starts[:, None] + np.arange(TURN - ANCHOR + 1)).ravel())
    return Anchors.of(block_hashes(short.codes, places, ANCHOR), places)
