"""BM25 is the sum of its formula over the words that a row shares with a target row, whatever the batch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.core import Row, Written
from curate.data.text import Part
from curate.errors import ConfigError, DataError
from curate.interfaces import Batch, ScoringContext
from curate.scorers.bm25 import Bm25
from curate.testing import check_scorer


def row(*turns: tuple[str, str]) -> Row:
    return Row(np.arange(3 + len(turns), dtype=np.int32), np.ones(3 + len(turns), bool), Written(turns))


def plain(texts: Sequence[str]) -> list[Row]:
    return [row(("", text)) for text in texts]


def batch_of(rows: Sequence[Row]) -> Batch:
    blank = torch.zeros((len(rows), 1))
    return Batch(blank.long(), blank.bool(), blank.bool(), [one.content for one in rows])


def similarity(scorer: Bm25, pool: Sequence[Row], target: Sequence[Row], size: int = 3) -> torch.Tensor:
    """(N, M), prepared from and scored in batches of `size`."""
    batches = [batch_of(pool[start : start + size]) for start in range(0, len(pool), size)]
    context = ScoringContext(target=target)
    context = replace(context, state=scorer.prepare(iter(batches), context))
    return torch.cat([scorer.score(batch, context) for batch in batches])


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
    found = similarity(Bm25(k1=k1, b=b), plain(pool), plain(target))
    assert found.dtype == torch.float32 and found.shape == (40, 15)
    assert found.numpy() == pytest.approx(np.array(reference(pool, target, k1, b)), rel=1e-6, abs=1e-12)


def test_one_number_by_hand() -> None:
    found = similarity(Bm25(), plain(["cat cat dog", "dog"]), plain(["Cat, cow!"]))
    assert found.tolist() == [[pytest.approx(math.log(1 + 1.5 / 1.5) * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2)), rel=1e-6)], [0]]


def test_a_word_that_the_query_repeats_counts_as_often() -> None:
    once, twice = similarity(Bm25(), plain(["a b", "a a c", "d"]), plain(["a", "a a"])).T
    assert torch.equal(twice, 2 * once) and once[0] > 0


def test_columns_follow_the_target() -> None:
    pool, target = plain(drawn(9, seed=3)), plain(drawn(5, seed=4))
    assert similarity(Bm25(), pool, target[::-1]).flip(1).numpy() == pytest.approx(similarity(Bm25(), pool, target).numpy(), rel=1e-6)


@pytest.mark.parametrize(("part", "read"), [("prompt", slice(0, 1)), ("answer", slice(1, 2)), ("all", slice(0, 2))])
def test_a_part_is_read_of_pool_and_target_as_if_it_were_all(part: Part, read: slice) -> None:
    said = [("apple", "pear fig"), ("fig", "plum"), ("plum", "apple")]
    pool, target = ([row(("user", question), ("assistant", answer)) for question, answer in texts] for texts in (said, said[::2]))
    alone, wanted = (plain([" ".join(turns[read]) for turns in texts]) for texts in (said, said[::2]))
    found = similarity(Bm25(part=part), pool, target)
    assert torch.equal(found, similarity(Bm25(), alone, wanted)) and found.any()


def test_a_row_of_token_ids_gives_nan_and_is_no_document() -> None:
    texts, target = drawn(8, seed=5), plain(drawn(4, seed=6))
    with_ids = similarity(Bm25(), [*plain(texts[:4]), row(), *plain(texts[4:])], target)
    assert with_ids[4].isnan().all()
    assert torch.equal(with_ids[[0, 1, 2, 3, 5, 6, 7, 8]], similarity(Bm25(), plain(texts), target))


def test_a_row_or_a_query_without_words_has_nothing_in_common() -> None:
    found = similarity(Bm25(), plain(["a b", "...", ""]), [*plain(["a", "?"]), row()])
    assert found.tolist() == [[pytest.approx(float(found[0, 0])), 0, 0], [0, 0, 0], [0, 0, 0]] and found[0, 0] > 0


def test_any_batch_and_order_gives_the_same_bits() -> None:
    pool, target = plain(drawn(30, seed=7)), plain(drawn(6, seed=8))
    together = similarity(Bm25(), pool, target, size=30)
    assert torch.equal(similarity(Bm25(), pool, target, size=1), together)
    assert torch.equal(similarity(Bm25(), pool[::-1], target, size=7).flip(0), together)


def test_another_target_is_not_taken_for_the_last_one() -> None:
    pool = plain(["a b", "b c", "c d"])
    for word, wanted in [("a", [1, 0, 0]), ("d", [0, 0, 1]), ("a", [1, 0, 0])]:
        assert (similarity(Bm25(), pool, plain([word]))[:, 0] > 0).tolist() == wanted


def test_a_stored_state_gives_the_same_bits() -> None:
    batch = batch_of(plain(drawn(9, seed=12)))
    context = ScoringContext(target=plain(drawn(3, seed=13)))
    state = Bm25().prepare([batch], context)
    stored = {name: torch.from_numpy(value) for name, value in state.items()}
    assert torch.equal(Bm25().score(batch, replace(context, state=stored)), Bm25().score(batch, replace(context, state=state)))


def test_the_scorer_keeps_its_contract(base: ScoringContext) -> None:
    rows = [row(*[("user", text)] * repeats) for repeats, text in enumerate(["an apple a day", "a pear", "day and night"], start=1)]
    check_scorer(Bm25(), replace(base, target=plain(["an apple", "the day and a night"])), rows)


@pytest.mark.parametrize(("pool", "target", "blamed"), [(["a"], ["?!"], "target"), (["a"], [], "target"), (["..."], ["a"], "pool"), ([], ["a"], "pool")])
def test_texts_without_a_word_are_refused(pool: list[str], target: list[str], blamed: str) -> None:
    with pytest.raises(DataError, match=rf"no row of the {blamed} has a word[^\n]*part: all[^\n]*$"):
        similarity(Bm25(), plain(pool), plain(target))


def test_scoring_unprepared_is_refused() -> None:
    with pytest.raises(ConfigError, match="none were prepared"):
        Bm25().score(batch_of(plain(["a"])), ScoringContext(target=plain(["a"])))


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
    assert similarity(Bm25(), plain(pool), plain(target), size=17).numpy() == pytest.approx(wanted, rel=1e-5)
