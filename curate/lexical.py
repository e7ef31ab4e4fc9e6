"""Words and hashed n-grams of texts, for methods that compare by spelling."""

import hashlib
import re
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np

from curate.core import Integers

Hash = Literal["fast", "sha256"]

_WORD = re.compile(r"[^\W_]+")
_WORDPUNCT = re.compile(r"\w+|[^\w\s]+")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits of any script.

    All else parts words, combining marks too: text is not normalised, so an accent written as a mark of its own cuts a
    word in two, as do the vowel signs of Indic scripts, and a script without spaces gives one word per run.
    """
    return _WORD.findall(text.lower())


def wordpunct(text: str) -> list[str]:
    r"""Lower-cased runs of letters, digits and underscores, and runs of what is neither these nor space: `\w+|[^\w\s]+`."""
    return _WORDPUNCT.findall(text.lower())


def hashed_ngrams(texts: Sequence[str], buckets: int, method: Hash = "fast") -> tuple[Integers, Integers, Integers]:
    """The bucket (n,) and row (n,) of every unigram and bigram of wordpunct tokens, and the number of tokens (B,) of each text.

    A text of T tokens has 2 T - 1 n-grams, its unigrams before its bigrams, in the order of the text; its buckets are
    the same whatever other texts are given. `sha256` takes the digest of the n-gram, tokens joined by a space, as one
    number modulo `buckets`. `fast` mixes crc32(a) of a unigram, and crc32(a) 2^32 + crc32(b) of a bigram, by splitmix64
    before the modulus: as even, in about a quarter of the time.
    """
    tokens = [wordpunct(text) for text in texts]
    flat = list(chain.from_iterable(tokens))
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    row = np.repeat(np.arange(len(tokens)), lengths)
    first = np.flatnonzero(row[1:] == row[:-1])  # of each bigram
    bucket = (_fast if method == "fast" else _sha256)(flat, first, buckets)
    return bucket, np.concatenate([row, row[first]]), lengths


def _fast(tokens: Sequence[str], first: Integers, buckets: int) -> Integers:
    from curate.projection import splitmix64  # which imports torch

    code = np.fromiter((zlib.crc32(_encoded(token)) for token in tokens), np.uint64, len(tokens))
    pairs = (code[first] << np.uint64(32)) + code[first + 1]
    return (splitmix64(np.concatenate([code, pairs])) % np.uint64(buckets)).astype(np.int64)


def _sha256(tokens: Sequence[str], first: Integers, buckets: int) -> Integers:
    ngrams = chain(tokens, (f"{tokens[i]} {tokens[i + 1]}" for i in first.tolist()))
    digests = (hashlib.sha256(_encoded(ngram)).digest() for ngram in ngrams)
    return np.fromiter((int.from_bytes(digest, "big") % buckets for digest in digests), np.int64, len(tokens) + len(first))


def _encoded(text: str) -> bytes:
    """UTF-8, and half of a surrogate pair as if it were a character, which JSON escapes can make."""
    return text.encode("utf-8", "surrogatepass")
