"""Words, tokens and hashed n-grams, against definitions written another way."""

import hashlib
import unicodedata
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.lexical import Hash, hashed_ngrams, wordpunct, words


def by_character(text: str, kinds: str) -> list[str]:
    """Maximal runs of one kind of character, for the kinds that are asked for: w(ord), p(unctuation) and s(pace)."""

    def kind(character: str) -> str:
        return "w" if character.isalnum() or character == "_" else "s" if character.isspace() else "p"

    runs: list[tuple[str, str]] = []
    for character in text.lower():
        if runs and runs[-1][0] == kind(character):
            runs[-1] = (kind(character), runs[-1][1] + character)
        else:
            runs.append((kind(character), character))
    return [run for name, run in runs if name in kinds]


def crc_bucket(*tokens: str, buckets: int) -> int:
    """The fast hash in Python's integers."""
    code = 0
    for token in tokens:
        code = code * 2**32 + zlib.crc32(token.encode())
    z = (code + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) % buckets


def test_words_are_lower_cased_runs_of_letters_and_digits() -> None:
    text = "Don't pay $3.50 for snake_case; \u00c9T\u00c9 \u0416\u0423\u041a 2\u03c0r \u6c34\u7389"
    assert words(text) == ["don", "t", "pay", "3", "50", "for", "snake", "case", "\u00e9t\u00e9", "\u0436\u0443\u043a", "2\u03c0r", "\u6c34\u7389"]
    assert words(" _ -- \n") == []


def test_a_combining_mark_parts_words() -> None:
    assert words(unicodedata.normalize("NFD", "caf\u00e9s")) == ["cafe", "s"]


def test_punctuation_is_kept_as_runs() -> None:
    assert wordpunct("Good muffins cost $3.88\nin New York...") == ["good", "muffins", "cost", "$", "3", ".", "88", "in", "new", "york", "..."]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_tokens_are_runs_of_one_kind_of_character(text: str) -> None:
    assert wordpunct(text) == by_character(text, "wp")
    assert words(text) == [part for run in by_character(text, "w") for part in run.split("_") if part]


def test_sha256_buckets_are_those_of_the_published_code() -> None:
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz\u00e4\u00df\u0436\u6c34"))
    strings = ["".join(generator.choice(letters, generator.integers(1, 12))) for _ in range(100)]
    bucket, row, tokens = hashed_ngrams([" ".join(strings)], 10_000, "sha256")
    ngrams = strings + [" ".join(pair) for pair in zip(strings, strings[1:], strict=False)]
    assert bucket.tolist() == [int(hashlib.sha256(ngram.encode("utf-8")).hexdigest(), 16) % 10_000 for ngram in ngrams]
    assert tokens.tolist() == [100] and row.tolist() == [0] * 199


@pytest.mark.parametrize("buckets", [1, 7, 10_000, 2**24])
def test_the_fast_hash_is_crc32_mixed_by_splitmix64(buckets: int) -> None:
    a, b, c = "one", "+", "\u6c34"
    bucket, _, _ = hashed_ngrams([f"{a} {b} {c}"], buckets)
    assert bucket.tolist() == [crc_bucket(*ngram, buckets=buckets) for ngram in [(a,), (b,), (c,), (a, b), (b, c)]]


@pytest.mark.parametrize("method", ["fast", "sha256"])
def test_a_text_gives_the_same_buckets_beside_others(method: Hash) -> None:
    texts = ["", "a b", "one", " ", "b c d, e!", ""]
    bucket, row, tokens = hashed_ngrams(texts, 1000, method)
    assert tokens.tolist() == [0, 2, 1, 0, 6, 0]
    for i, text in enumerate(texts):
        alone, _, count = hashed_ngrams([text], 1000, method)
        assert bucket[row == i].tolist() == alone.tolist()
        assert len(alone) == max(0, 2 * int(count[0]) - 1)


@pytest.mark.parametrize("method", ["fast", "sha256"])
def test_order_and_pairing_change_a_bigram(method: Hash) -> None:
    ends = [hashed_ngrams([text], 2**24, method)[0][-1] for text in ("a b", "b a", "ab", "b b", "a a")]
    assert len(set(ends)) == 5


@pytest.mark.parametrize("method", ["fast", "sha256"])
def test_buckets_fill_evenly(method: Hash) -> None:
    bucket, _, _ = hashed_ngrams([" ".join(f"w{i}" for i in range(20_000))], 1000, method)
    for ngrams in (bucket[:20_000], bucket[20_000:]):
        counts = np.bincount(ngrams, minlength=1000)
        statistic = float(((counts - len(ngrams) / 1000) ** 2).sum() / (len(ngrams) / 1000))
        assert abs(statistic - 999) < 5 * (2 * 999) ** 0.5  # chi-squared, within five standard deviations


@pytest.mark.parametrize("method", ["fast", "sha256"])
def test_half_of_a_surrogate_pair_is_hashed_like_any_character(method: Hash) -> None:
    assert len(hashed_ngrams(["one \ud83d two"], 10, method)[0]) == 5
    assert len(hashed_ngrams([], 10, method)[0]) == 0
