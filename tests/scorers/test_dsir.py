"""DSIR is the sum over a row's hashed n-grams of a log ratio, whatever the batch."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curate.lexical import Hash, hashed_ngrams
from curate.scorers.dsir import Dsir
from tests.scorers.words import plain, row, scored


def published_counts(text: str, buckets: int) -> NDArray[np.int64]:
    """The features of the published code."""
    tokens = re.findall(r"\w+|[^\w\s]+", text.lower())
    counts = np.zeros(buckets, np.int64)
    for ngram in tokens + [" ".join(pair) for pair in zip(tokens, tokens[1:], strict=False)]:
        counts[int(hashlib.sha256(ngram.encode("utf-8")).hexdigest(), 16) % buckets] += 1
    return counts


def drawn(count: int, seed: int, power: float = 3) -> list[str]:
    """Texts of up to twelve tokens out of thirty words and a mark, the first ones more often the higher the power."""
    generator = np.random.default_rng(seed)
    names = ["...", *(f"W{i}" for i in range(30))]
    return [" ".join(names[int(31 * u**power)] for u in generator.random(int(generator.integers(1, 13)))) for _ in range(count)]


@pytest.mark.parametrize("method", ["fast", "sha256"])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
@pytest.mark.parametrize("buckets", [50, 10_000])
@pytest.mark.parametrize("prior", ["pool", "uniform"])
def test_the_score_is_the_formula(method: Hash, smoothing: float, buckets: int, prior: Literal["pool", "uniform"]) -> None:
    pool, target = drawn(25, seed=1), drawn(6, seed=2, power=1)
    counted = {text: Counter(hashed_ngrams([text], buckets, method)[0].tolist()) for text in pool + target}

    def share(texts: Sequence[str], bucket: int, q: float) -> float:
        own = sum(counted[text][bucket] for text in texts)
        return (own + smoothing * buckets * q) / (sum(counted[text].total() for text in texts) + smoothing * buckets)

    def log_ratio(bucket: int) -> float:
        if prior == "uniform":
            return math.log(share(target, bucket, 1 / buckets) / share(pool, bucket, 1 / buckets))
        of_pool = sum(counted[text][bucket] for text in pool) / sum(counted[text].total() for text in pool)
        return math.log(share(target, bucket, of_pool) / of_pool)

    wanted = [sum(c * log_ratio(bucket) for bucket, c in counted[text].items()) for text in pool]
    found = scored(Dsir(buckets=buckets, smoothing=smoothing, hash=method, prior=prior), plain(pool), plain(target))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_without_smoothing_and_with_sha256_it_is_the_published_weight() -> None:
    pool, target = drawn(25, seed=3), drawn(4, seed=4, power=1)
    p_pool, p_target = (counts / counts.sum() for counts in (sum(published_counts(text, 10_000) for text in texts) for texts in (pool, target)))
    log_diff = np.log(p_target + 1e-8) - np.log(p_pool + 1e-8)
    wanted = [float(np.inner(published_counts(text, 10_000), log_diff)) for text in pool]
    assert scored(Dsir(smoothing=0, hash="sha256"), plain(pool), plain(target)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_an_unseen_word_costs_far_less_with_smoothing() -> None:
    pool, target = plain(["a b", "a zebra"]), plain(["a b"] * 20)  # "zebra" and "a zebra" are not in the target
    smooth, floored = (scored(Dsir(smoothing=smoothing, prior="uniform"), pool, target)[1] for smoothing in (1.0, 0.0))
    assert float(floored) == pytest.approx(2 * math.log(1e-8 / (1 / 6)), rel=1e-5)
    assert float(smooth) == pytest.approx(math.log(21 / 10_060 / (3 / 10_006)) + 2 * math.log(1 / 10_060 / (2 / 10_006)), rel=1e-5)


def test_a_small_target_does_not_outrank_by_length() -> None:
    pool = plain(["x y z", "a b", "p q r s t u v w x y z p q r s t a b c d"])  # the last holds the target's words among many others
    short, related, long = scored(Dsir(), pool, plain(["a b c d"])).tolist()
    assert related > long > short
    short, _, long = scored(Dsir(prior="uniform"), pool, plain(["a b c d"])).tolist()
    assert short > long


@pytest.mark.parametrize("method", ["fast", "sha256"])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
@pytest.mark.parametrize("per_token", [False, True])
def test_a_target_like_the_pool_gives_every_row_zero(method: Hash, smoothing: float, per_token: bool) -> None:
    pool = plain(drawn(20, seed=5))
    assert scored(Dsir(hash=method, smoothing=smoothing, per_token=per_token), pool, pool[::-1]).tolist() == [0] * 20


def test_per_token_divides_by_the_tokens() -> None:
    pool, target = drawn(20, seed=6), plain(drawn(5, seed=7, power=1))
    tokens = torch.tensor([len(re.findall(r"\w+|[^\w\s]+", text)) for text in pool])
    total, mean = (scored(Dsir(per_token=per_token), plain(pool), target) for per_token in (False, True))
    assert (mean * tokens).tolist() == pytest.approx(total.tolist(), rel=1e-5)
    assert len(set(tokens.tolist())) > 5


def test_the_whole_conversation_is_read() -> None:
    pool = [row(("user", "a"), ("assistant", "b")), row(("user", "a"), ("assistant", "c")), row(("user", "d"), ("assistant", "b"))]
    found = scored(Dsir(smoothing=0), pool, [row(("user", "a"), ("assistant", "b"))])
    assert found[0] > 0 > found[1:].max()


@pytest.mark.parametrize("per_token", [False, True])
def test_a_row_without_a_token_gives_nan_and_changes_no_other(per_token: bool) -> None:
    texts, target, scorer = drawn(8, seed=8), plain(drawn(4, seed=9)), Dsir(per_token=per_token)
    found = scored(scorer, [*plain(texts[:4]), row(), *plain([" "]), *plain(texts[4:])], [*target, row()])
    assert found.isnan().nonzero().flatten().tolist() == [4, 5]
    assert torch.equal(found[[0, 1, 2, 3, 6, 7, 8, 9]], scored(scorer, plain(texts), target))


@pytest.mark.real
def test_real_arithmetic_outranks_instructions_for_an_arithmetic_target(shared: Path) -> None:
    import pandas as pd

    data = shared / "data"
    gsm8k = pd.read_parquet(data / "pools" / "gsm8k-train.parquet").head(300)
    alpaca = pd.read_parquet(data / "pools" / "alpaca52k-alpaca52k_en.parquet").head(300)
    test = pd.read_parquet(data / "targets" / "gsm8k-test.parquet").head(100)
    pool = [f"{question}\n{answer}" for frame in (gsm8k, alpaca) for question, answer in zip(frame.iloc[:, 0], frame.iloc[:, -1], strict=True)]
    target = plain([f"{question}\n{answer}" for question, answer in zip(test.question, test.answer, strict=True)])
    found = scored(Dsir(per_token=True), plain(pool), target, size=50).numpy()
    assert np.mean(found[:300, None] > found[None, 300:]) > 0.95  # how often an arithmetic row lies above another
