"""IFD is the loss of an answer after its prompt relative to the answer alone, by transformers' own loss on both sequences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.core import Row, Written
from curate.data.template import Encoder
from curate.errors import ConfigError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.passes import read
from curate.scorers.grad_norm import GradNorm
from curate.scorers.ifd import Ifd, Ratio
from curate.scorers.loss import Loss
from curate.testing import check_scorer


def model_of(context: ScoringContext) -> LanguageModel:
    assert context.model is not None
    return context.model


def row_of(marks: str, seed: int = 0) -> Row:
    """Random tokens; A carries loss, Q does not."""
    ids = np.random.default_rng(seed).integers(3, 1000, len(marks)).astype(np.int32)
    return Row(ids, np.array([mark == "A" for mark in marks]), Written((("user", "q"), ("assistant", "a"))))


ROWS = [
    row_of("QQQQAAA", 1),
    row_of("QAAAQQQAAQQQQA", 2),  # three answers
    row_of("QQA" + "Q" * 9, 3),  # tokens after the last answer
    row_of("AAQQQA", 4),  # the first token is an answer, which nothing predicts
    row_of("QQQAQAQQA", 5),  # one token between two answers
    row_of("Q" * 40 + "A" * 30, 6),
]


def loss(model: LanguageModel, ids: list[int], labels: list[int]) -> float:
    with torch.no_grad():
        return float(model.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)


def both_losses(model: LanguageModel, row: Row) -> tuple[float, float]:
    """Of the answers after the prompts, and alone."""
    ids, labels, alone, alone_labels = [], [], [], []
    marks = row.supervised.tolist()
    for t, token in enumerate(row.input_ids.tolist()):
        ids.append(token)
        labels.append(token if marks[t] else -100)
        if marks[t] or (t + 1 < len(marks) and marks[t + 1]):
            alone.append(token)
            alone_labels.append(labels[-1])
    return loss(model, ids, labels), loss(model, alone, alone_labels)


@pytest.mark.parametrize("ratio", ["loss", "perplexity"])
def test_the_score_is_the_ratio_of_the_losses_with_and_without_the_prompts(base: ScoringContext, ratio: Ratio) -> None:
    model = model_of(base)
    found = Ifd(ratio=ratio).score(model.batch(ROWS), base)
    for value, row in zip(found.tolist(), ROWS, strict=True):
        after, alone = both_losses(model, row)
        assert value == pytest.approx(after / alone if ratio == "loss" else math.exp(after) / math.exp(alone), rel=1e-5)
        assert abs(value - 1) > 1e-4


def test_a_conversation_is_scored_as_its_template_writes_it(base: ScoringContext) -> None:
    model = model_of(base)
    encoder = Encoder.of(model.tokenizer, 512)
    turns = [{"role": role, "content": text} for role, text in (("user", "2 + 2"), ("assistant", "4"), ("user", "and 3 + 3"), ("assistant", "6"))]
    row = encoder.row(turns)
    assert row is not None
    special = {str(token): i for token, i in model.tokenizer.get_added_vocab().items()}
    first, second = ([special["<|assistant|>"], *model.tokenizer.encode(text, add_special_tokens=False), special["<|eos|>"]] for text in "46")
    alone = loss(model, [*first, *second], [-100, *first[1:], -100, *second[1:]])
    found = Ifd().score(model.batch([row]), base)
    assert float(found[0]) == pytest.approx(float(Loss().score(model.batch([row]), base)[0]) / alone, rel=1e-5)


def test_a_row_without_a_prompt_is_exactly_one(base: ScoringContext) -> None:
    model = model_of(base)
    rows = [row_of("QA" + "A" * length, seed=length) for length in range(1, 60, 2)] + [row_of("AAAA")]
    for ratio in ("loss", "perplexity"):  # also where the two passes are not of one width, and so not rounded alike
        assert Ifd(ratio=ratio).score(model.batch([*rows, row_of("Q" * 150 + "A" * 7)]), base)[:-1].eq(1).all()


def test_a_row_without_an_answer_is_nan_and_leaves_its_neighbours_alone(base: ScoringContext) -> None:
    model = model_of(base)
    odd = [row_of("QQQQ"), row_of("AQQQ"), row_of("Q"), row_of("A")]
    for ratio in ("loss", "perplexity"):
        scorer = Ifd(ratio=ratio)
        found = scorer.score(model.batch([*odd, *ROWS]), base)
        assert found[:4].isnan().all()
        torch.testing.assert_close(found[4:], scorer.score(model.batch(ROWS), base), rtol=1e-5, atol=0)
        assert scorer.score(model.batch(odd), base).isnan().all() and scorer.score(model.batch(odd[:1]), base).isnan().all()


def test_a_prompt_that_gives_the_answer_away_is_lower_than_one_on_another_matter(base: ScoringContext) -> None:
    model = model_of(base)
    encoder = Encoder.of(model.tokenizer, 512)
    words = "seven hundred and twelve brass lanterns"
    rows = [encoder.row([{"role": "user", "content": prompt}, {"role": "assistant", "content": words}]) for prompt in (f"Say: {words}.", "What is 2 + 2?")]
    given, foreign = Ifd().score(model.batch([row for row in rows if row]), base).tolist()
    assert given < foreign < 1


def test_the_pass_with_prompts_is_shared_and_the_one_without_is_narrow(base: ScoringContext) -> None:
    model = model_of(base)
    jobs = [(Loss(), base), (Ifd(), base), (GradNorm(), base), (Ifd(ratio="perplexity"), base)]
    alone = [scorer.score(model.batch(ROWS), base) for scorer, _ in jobs]
    widths: list[int] = []
    hook = model.model.register_forward_hook(lambda module, inputs, keywords, output: widths.append(keywords["input_ids"].shape[1]), with_kwargs=True)
    try:
        found = read(jobs, model.batch(ROWS))
    finally:
        hook.remove()
    assert widths == [70, 31, 31]
    for shared, wanted in zip(found, alone, strict=True):
        torch.testing.assert_close(shared, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("ratio", ["loss", "perplexity"])
def test_ifd_keeps_the_contract(base: ScoringContext, some_rows: list[Row], ratio: Ratio) -> None:
    check_scorer(Ifd(ratio=ratio), base, some_rows)
    check_scorer(Ifd(ratio=ratio), base, ROWS)


def test_wrong_use_is_refused(base: ScoringContext) -> None:
    with pytest.raises(ConfigError, match="ifd reads a model, and none was given"):
        Ifd().score(model_of(base).batch(ROWS), replace(base, model=None))
    with pytest.raises(ValidationError, match="'loss' or 'perplexity'"):
        Ifd.model_validate({"ratio": "ppl"})
