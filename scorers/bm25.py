"""BM25: the words that a pool row shares with each target row, rare ones first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.core import Integers, Row
from curate.data.text import Part, text_of
from curate.errors import ConfigError, DataError
from curate.interfaces import Batch, Output, Reads, Scorer, ScoringContext, State
from curate.lexical import words

if TYPE_CHECKING:
    from torch import Tensor


class Bm25(Scorer):
    """Okapi BM25 of a pool row x, the document, for each target row y, the query: (B, M), >= 0, no unit, high is alike.

        s(x, y) = sum over words w of y of idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |x| / avg))
        idf(w) = ln(1 + (N - df + 0.5) / (df + 0.5))

    tf is how often x has w, |x| its number of words, avg their mean over the pool, N the number of pool rows and df how
    many of these have w. A word that y repeats counts as often as it occurs. The idf is Lucene's, positive for every
    word; Robertson's original, which rank_bm25 bounds from below, is negative for a word in more than half of the rows, and ATIRE's is ln(N / df).
    Words are lower-cased runs of letters and digits (`curate.lexical.words`), without stemming or stop words.

    A sum over y's words: columns of long target rows are larger, so compare within a column or by rank. A row without
    text (token ids) is no document and gives NaN; in the target, it or a row without a word is a column of zeros.
    DataError if the whole target, or the whole pool, has no word.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
    """

    name: Literal["bm25"] = "bm25"
    output: ClassVar[Output] = "similarity"
    reads: ClassVar[Reads] = "text"
    targeted: ClassVar[bool] = True
    sample_rows: ClassVar[int | None] = None

    k1: float = Field(1.5, ge=0, le=1000, description="How much repetition in a pool row adds; 0: whether it has the word is all that counts.")
    b: float = Field(0.75, ge=0, le=1, description="How far a long pool row is held back; 0: not at all, 1: in proportion to its length.")
    part: Part = Field("all", description="What is read of pool and target: all turns, those before an answer (prompt), or the answers.")

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State:
        """N, the words of the pool, and the df (V,) of every word of the target, in one pass."""
        vocabulary = _queries(_Same(context.target), self.part).vocabulary
        holding, rows, total = np.zeros(len(vocabulary), np.int64), 0, 0
        for batch in sample:
            texts = [text for content in batch.content if (text := text_of(content, self.part)) is not None]
            found = _count(texts, vocabulary)
            np.add.at(holding, found.word, 1)
            rows += len(texts)
            total += int(found.length.sum())
        if not total:
            raise DataError(f"bm25: no row of the pool has a word to compare (part: {self.part}); give a pool with text, or another part")
        return {"rows": np.array([rows]), "words": np.array([total]), "df": holding}

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch
        from scipy.sparse import csr_array

        if context.state is None:
            raise ConfigError("bm25 reads the document frequencies of the pool, and none were prepared")
        state = {name: torch.as_tensor(value).cpu().numpy() for name, value in context.state.items()}
        queries = _queries(_Same(context.target), self.part)
        texts = [text_of(content, self.part) for content in batch.content]
        found = _count([text or "" for text in texts], queries.vocabulary)
        starts = np.searchsorted(found.row, np.arange(len(texts) + 1))
        weights = csr_array((self._weights(found, state), found.word, starts), shape=(len(texts), len(queries.vocabulary)))
        similarity = (weights @ queries.occurrences).toarray()
        similarity[[text is None for text in texts]] = np.nan
        return torch.from_numpy(similarity.astype(np.float32))

    def _weights(self, found: "_Counts", state: Mapping[str, Integers]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """What one occurrence in a query adds for every word that was found."""
        rows, total = (int(state[name][0]) for name in ("rows", "words"))
        df = state["df"][found.word]
        length = found.length[found.row] / (total / rows)
        return np.log1p((rows - df + 0.5) / (df + 0.5)) * found.tf * (self.k1 + 1) / (found.tf + self.k1 * (1 - self.b + self.b * length))


@dataclass(frozen=True)
class _Counts:
    """How often texts have the words of a vocabulary: an entry for every word of every row, rows in order."""

    row: Integers  # (n,)
    word: Integers  # (n,)
    tf: Integers  # (n,) >= 1
    length: Integers  # (B,) words of the text, known or not


def _count(texts: Sequence[str], vocabulary: Mapping[str, int]) -> _Counts:
    found = [words(text) for text in texts]
    length = np.fromiter(map(len, found), np.int64, len(found))
    number = np.fromiter(map(vocabulary.get, chain.from_iterable(found), repeat(-1)), np.int64, int(length.sum()))
    known = number >= 0
    places = np.repeat(np.arange(len(found)), length)[known] * len(vocabulary) + number[known]
    distinct, tf = np.unique(places, return_counts=True)
    row, word = np.divmod(distinct, len(vocabulary))
    return _Counts(row, word, tf, length)


@dataclass(frozen=True)
class _Queries:
    """The words of the target."""

    vocabulary: Mapping[str, int]  # V words, numbered as they first occur
    occurrences: Any  # (V, M) csr_array, float64


class _Same:
    """Equal to another that holds the very same target, which it keeps alive: rows cannot be hashed, and comparing them would read them."""

    def __init__(self, target: Sequence[Row]) -> None:
        self.target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


@lru_cache(maxsize=2)
def _queries(same: _Same, part: Part) -> _Queries:
    from scipy.sparse import csr_array

    vocabulary: dict[str, int] = {}
    found = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text_of(row.content, part) or "")] for row in same.target]
    if not vocabulary:
        raise DataError(f"bm25: no row of the target has a word to look for (part: {part}); give a target with text, or another part")
    word = list(chain.from_iterable(found))
    column = np.repeat(np.arange(len(found)), [len(row) for row in found])
    return _Queries(vocabulary, csr_array((np.ones(len(word)), (word, column)), shape=(len(vocabulary), len(found))))
