"""BM25 is the sum of its formula over the words that a row shares with a target row, whatever the batch."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.data.text import Part
from curate.scorers.bm25 import Bm25
from tests.scorers.words import plain, row, scored


def reference(pool: Sequence[str], target: Sequence[str], k1: float, b: float) -> list[list[float]]:
    """The formula, word by word."""
    documents = [text.lower().split() for text in pool]
    average = sum(len(document) for document in documents) / len(documents)
    found = []
    for document in documents:
        line = []
        for query in target:
            total = 0.0
            for word in query.lower().split():
                df = sum(word in other for other in documents)
                tf = document.count(word)
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                total += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(document) / average)) if tf else 0
            line.append(total)
        found.append(line)
    return found


def drawn(count: int, seed: int) -> list[str]:
    """Texts of up to twelve words out of thirty, the first ones far more often."""
    generator = np.random.default_rng(seed)
    return [" ".join(f"W{int(30 * u**3)}" for u in generator.random(int(generator.integers(0, 13)))) for _ in range(count)]


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (1.2, 0.0), (0.0, 0.5), (4.0, 1.0)])
def test_the_similarity_is_the_formula(k1: float, b: float) -> None:
    pool, target = drawn(40, seed=1), drawn(15, seed=2)
    found = scored(Bm25(k1=k1, b=b), plain(pool), plain(target))
    assert found.dtype == torch.float32 and found.shape == (40, 15)
    assert found.numpy() == pytest.approx(np.array(reference(pool, target, k1, b)), rel=1e-6, abs=1e-12)


def test_one_number_by_hand() -> None:
    found = scored(Bm25(), plain(["cat cat dog", "dog"]), plain(["Cat, cow!"]))
    assert found.tolist() == [[pytest.approx(math.log(1 + 1.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2)), rel=1e-6)], [0]]


def test_a_word_that_the_query_repeats_counts_as_often() -> None:
    once, twice = scored(Bm25(), plain(["a b", "a a c", "d"]), plain(["a", "a a"])).T
    assert torch.equal(twice, 2 * once) and once[0] > 0


def test_columns_follow_the_target() -> None:
    pool, target = plain(drawn(9, seed=3)), plain(drawn(5, seed=4))
    assert scored(Bm25(), pool, target[::-1]).flip(1).numpy() == pytest.approx(scored(Bm25(), pool, target).numpy(), rel=1e-6)


@pytest.mark.parametrize(("part", "read"), [("prompt", slice(0, 1)), ("answer", slice(1, 2)), ("all", slice(0, 2))])
def test_a_part_is_read_of_pool_and_target_as_if_it_were_all(part: Part, read: slice) -> None:
    said = [("apple", "pear fig"), ("fig", "plum"), ("plum", "apple")]
    pool, target = ([row(("user", question), ("assistant", answer)) for question, answer in texts] for texts in (said, said[::2]))
    alone, wanted = (plain([" ".join(turns[read]) for turns in texts]) for texts in (said, said[::2]))
    found = scored(Bm25(part=part), pool, target)
    assert torch.equal(found, scored(Bm25(), alone, wanted)) and found.any()


def test_a_row_of_token_ids_gives_nan_and_is_no_document() -> None:
    texts, target = drawn(8, seed=5), plain(drawn(4, seed=6))
    with_ids = scored(Bm25(), [*plain(texts[:4]), row(), *plain(texts[4:])], target)
    assert with_ids[4].isnan().all()
    assert torch.equal(with_ids[[0, 1, 2, 3, 5, 6, 7, 8]], scored(Bm25(), plain(texts), target))


def test_a_row_or_a_query_without_words_has_nothing_in_common() -> None:
    found = scored(Bm25(), plain(["a b", "...", ""]), [*plain(["a", "?"]), row()])
    assert found.tolist() == [[pytest.approx(float(found[0, 0])), 0, 0], [0, 0, 0], [0, 0, 0]] and found[0, 0] > 0


def test_another_target_is_not_taken_for_the_last_one() -> None:
    pool = plain(["a b", "b c", "c d"])
    for word, wanted in [("a", [1, 0, 0]), ("d", [0, 0, 1]), ("a", [1, 0, 0])]:
        assert (scored(Bm25(), pool, plain([word]))[:, 0] > 0).tolist() == wanted


@pytest.mark.real
def test_real_rows_score_as_in_rank_bm25(shared: Path) -> None:
    rank_bm25 = pytest.importorskip("rank_bm25")
    import pandas as pd

    from curate.lexical import words

    alpaca = pd.read_parquet(shared / "data" / "pools" / "alpaca52k-alpaca52k_en.parquet").head(100)
    pool = [f"{question}\n{more}\n{answer}" for question, more, answer in zip(alpaca.instruction, alpaca.input, alpaca.output, strict=True)]
    target = pd.read_parquet(shared / "data" / "targets" / "gsm8k-test.parquet").question.head(30).tolist()
    index = rank_bm25.BM25Okapi([words(text) for text in pool], k1=1.5, b=0.75)
    for word in index.idf:
        df = sum(word in document for document in index.doc_freqs)
        index.idf[word] = math.log(1 + (100 - df + 0.5) / (df + 0.5))
    wanted = np.stack([index.get_scores(words(text)) for text in target], axis=1)
    assert scored(Bm25(), plain(pool), plain(target), size=17).numpy() == pytest.approx(wanted, rel=1e-5)
