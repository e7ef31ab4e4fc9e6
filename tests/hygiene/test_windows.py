"""Shared stretches against brute force over all pairs of places, on texts that repeat and overlap, and with every hash colliding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.hygiene import windows
from curate.hygiene.normalise import Strip, words
from curate.hygiene.windows import Index, block_hashes, word_hashes

Spans = set[tuple[int, int, int]]  # (place in the stream, place in the index, letters)


def brute(stream: list[str], held: list[str], characters: int, ngram: int) -> Spans:
    """Every maximal stretch of letters that a text of each side share, if it is long enough or holds enough whole words."""
    found: Spans = set()
    for one, here in zip(stream, offsets(stream), strict=True):
        for other, there in zip(held, offsets(held), strict=True):
            a, b = one.replace(" ", ""), other.replace(" ", "")
            for i in range(len(a)):
                for j in range(len(b)):
                    if a[i] != b[j] or (i and j and a[i - 1] == b[j - 1]):
                        continue
                    size = 0
                    while i + size < len(a) and j + size < len(b) and a[i + size] == b[j + size]:
                        size += 1
                    if size >= characters or common_words(one, other, i, j, size) >= ngram:
                        found.add((here + i, there + j, size))
    return found


def offsets(texts: list[str]) -> list[int]:
    sizes = [len(text.replace(" ", "")) + 1 for text in texts]
    return [sum(sizes[:number]) for number in range(len(sizes))]


def spans(text: str, start: int, size: int) -> list[tuple[int, int]]:
    """The words that lie in a stretch, by their places in it."""
    made, place = [], 0
    for word in text.split():
        if place >= start and place + len(word) <= start + size:
            made.append((place - start, place - start + len(word)))
        place += len(word)
    return made


def common_words(one: str, other: str, i: int, j: int, size: int) -> int:
    both = sorted(set(spans(one, i, size)) & set(spans(other, j, size)))
    best = run = 0
    for number, (start, _) in enumerate(both):
        run = run + 1 if number and both[number - 1][1] == start else 1
        best = max(best, run)
    return best


def found(stream: list[str], held: list[str], characters: int, ngram: int) -> Spans:
    matches = Index.of(held, characters=characters, ngram=ngram).matches(Strip.of(stream))
    return {(match.stream[0], match.held[0], match.stream[1] - match.stream[0]) for match in matches}


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "abb", "c"]), max_size=14).map(" ".join)


@settings(max_examples=300)
@given(st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3), st.integers(2, 8), st.integers(2, 5))
def test_stretches_are_those_of_brute_force(stream: list[str], held: list[str], characters: int, ngram: int) -> None:
    assert found(stream, held, characters, ngram) == brute(stream, held, characters, ngram)


def test_a_collision_of_all_hashes_invents_no_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "block_hashes", lambda values, places, width: np.zeros(len(places), np.uint64))
    stream, held = ["one two three four five six"], ["seven two three four nine", "five six one"]
    assert found(stream, held, 10, 3) == brute(stream, held, 10, 3) != set()


def test_windows_at_both_ends_and_over_spacing_are_found() -> None:
    held = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"
    assert len(found([held], [held], 50, 13)) == 1
    assert len(found([held.replace(" ", "  ").replace("gamma", "gam ma")], [held], 50, 13)) == 1
    assert found(["alpha beta"], [held], 50, 13) == set()


def test_thirteen_short_words_count_although_their_letters_are_few() -> None:
    short = "a b c d e f g h i j k l m"
    assert len(found([f"x {short} y"], [f"p {short} q"], 50, 13)) == 1
    assert found([f"x {short[:-2]} y"], [f"p {short[:-2]} q"], 50, 13) == set()


def test_words_that_divide_the_same_letters_otherwise_are_no_whole_words() -> None:
    assert found(["ab cd ef gh"], ["a bc de fgh"], 50, 3) == set()


def test_no_stretch_runs_from_one_text_into_the_next() -> None:
    assert found(["abcde", "fghij"], ["abcdefghij"], 6, 20) == set()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 8))
def test_equal_blocks_hash_alike_and_others_apart(values: list[int], width: int) -> None:
    array = np.array(values, np.uint32)
    places = np.arange(max(0, len(values) - width + 1))
    hashes = block_hashes(array, places, width)
    said = [tuple(values[place : place + width]) for place in places]
    assert all((hashes[i] == hashes[j]) == (said[i] == said[j]) for i in range(len(said)) for j in range(i))


def test_blocks_hash_alike_across_the_pieces_that_long_texts_are_hashed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Strip.of([words("the quick brown fox jumps over the lazy dog " * 30)])
    places = np.arange(len(text.codes) - 7)
    whole, spoken = block_hashes(text.codes, places, 7), word_hashes(text)[1]
    monkeypatch.setattr(windows, "_CHUNK", 64)
    assert np.array_equal(block_hashes(text.codes, places, 7), whole)
    assert np.array_equal(word_hashes(text)[1], spoken)
