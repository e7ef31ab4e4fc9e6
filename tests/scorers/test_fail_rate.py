"""The fail rate is the share of wrong answers, read from a column or counted among sampled answers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from curate.batches import padded
from curate.core import Row, Written
from curate.data.conversation import Conversation
from curate.data.template import Encoder
from curate.errors import ConfigError
from curate.inference.engine import Engine
from curate.inference.sampling import sample_keys
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, decoder_of
from curate.pipelines.features import kind_of
from curate.randomness import draw
from curate.registry import component
from curate.scorers.fail_rate import FailRate
from curate.testing import check_scorer

ASKED = [
    ("Sum of 88 and 22?", "110"), ("Is ferry in this list?\ninvoice scarf cloud", "no"), ("Larger of 682 and 397?", "682"),
    ("Last word of this list?\nheron taxi dog window", "window"), ("Which is larger, 25 or 231?", "The larger one is 231."),
    ("How many words?\nroof hat", "2"), ("How many words?\nlantern spade drizzle", "5"), ("Larger of 35 and 379?", "379"),
]  # fmt: skip


def model_of(context: ScoringContext) -> LanguageModel:
    assert context.model is not None
    return context.model


@pytest.fixture(scope="module")
def questions(base: ScoringContext) -> list[Row]:
    """Skills that the tiny model was trained on; one answer is wrong."""
    return encoded(base, [(("user", prompt), ("assistant", answer)) for prompt, answer in ASKED])


def encoded(base: ScoringContext, conversations: Sequence[tuple[tuple[str, str], ...]]) -> list[Row]:
    rows = Encoder.of(model_of(base).tokenizer, 512).encode([Conversation(turns) for turns in conversations])
    return [row for row in rows if isinstance(row, Row)]


def rates(scorer: FailRate, context: ScoringContext, rows: Sequence[Row]) -> list[float]:
    found: list[float] = scorer.score(model_of(context).batch(rows), context).tolist()
    return found


def said_alone(model: LanguageModel, prompt: list[int], sample: int, scorer: FailRate) -> list[int]:
    """One sample token by token from the whole model without a cache, drawn in plain Python."""
    key = sample_keys(scorer.seed, [prompt], scorer.samples)[sample : sample + 1]
    tokens: list[int] = []
    while len(tokens) < scorer.max_tokens:
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].double().numpy()
        p = np.exp((logits - logits.max()) / scorer.temperature)
        p /= p.sum()
        kept, total = set(), 0.0
        for token in sorted(range(len(p)), key=lambda token: (-p[token], token)):
            kept.add(token)
            total += p[token]
            if total >= scorer.top_p:
                break
        left = float(draw(key, len(tokens))[0]) * total
        for token in sorted(kept):
            left -= p[token]
            if left <= 0:
                break
        if token == model.tokenizer.eos_token_id:
            break
        tokens.append(token)
    return tokens


def number_in(text: str) -> float | None:
    digits = "".join(sign if sign in "-.0123456789" else " " for sign in text.replace(",", "")).split()
    return float(digits[-1]) if digits else None


@pytest.mark.parametrize("extract", ["text", "number"])
@pytest.mark.parametrize(("temperature", "top_p", "seed"), [(1.0, 0.95, 0), (1.6, 1.0, 1)])
def test_the_rate_is_that_of_answers_decoded_one_by_one(
    base: ScoringContext, questions: list[Row], extract: Any, temperature: float, top_p: float, seed: int
) -> None:
    model = model_of(base)
    scorer = FailRate(samples=5, temperature=temperature, top_p=top_p, max_tokens=6, extract=extract, seed=seed)
    wanted = []
    for row, (_, reference) in zip(questions, ASKED, strict=True):
        prompt = row.input_ids[: int(np.flatnonzero(row.supervised)[0])].tolist()
        said = [model.tokenizer.decode(said_alone(model, prompt, sample, scorer), skip_special_tokens=True) for sample in range(5)]
        right = [number_in(text) == number_in(reference) if extract == "number" else text.strip() == reference for text in said]
        gradable = extract == "text" or number_in(reference) is not None
        wanted.append(1 - sum(right) / 5 if gradable else math.nan)
    found = rates(scorer, base, questions)
    assert found == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert len(set(found)) > 3  # not all right or all wrong


def test_the_contract_is_kept_where_rates_differ(base: ScoringContext, questions: list[Row]) -> None:
    scorer = FailRate(max_tokens=4, temperature=1.3)
    assert len(set(rates(scorer, base, questions))) > 2
    check_scorer(scorer, base, questions)


def test_wrong_answers_fail_more_often_than_right_ones(base: ScoringContext) -> None:
    lists = ["roof hat", "lantern thunder snow", "pill hat spade taxi whale puffin"]
    pairs = [(f"How many words?\n{text}", str(len(text.split()) + more)) for text in lists for more in (0, 1)]
    found = rates(FailRate(samples=8, max_tokens=4), base, encoded(base, [(("user", prompt), ("assistant", answer)) for prompt, answer in pairs]))
    assert max(found[::2]) < 0.3 and min(found[1::2]) > 0.7


def test_the_last_answer_is_graded_after_all_that_precedes_it(base: ScoringContext) -> None:
    model = model_of(base)
    row = encoded(base, [(("user", "Is 9832 even or odd?"), ("assistant", "odd"), ("user", "How many words?\nroof hat"), ("assistant", "2"))])[0]
    start = len(row.supervised) - 2
    assert row.supervised[start:].all() and row.supervised[:start].any() and not row.supervised[start - 1]
    prompt = torch.from_numpy(row.input_ids[:start]).long()[None]
    said = model.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)[0].numpy()
    supervised = np.concatenate([row.supervised[:start], np.ones(len(said) - start, bool)])
    changed = np.where(np.arange(len(said)) == start, said + 1, said)
    rows = [Row(tokens.astype(np.int32), supervised) for tokens in (said, changed)]
    assert rates(FailRate(temperature=1e-6, max_tokens=4), base, rows) == [0.0, 1.0]


def test_a_sample_ends_at_the_end_of_text_and_where_the_rows_own_answer_ends(
    base: ScoringContext, questions: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: dict[int, set[int]] = {}
    generate = Engine.generate

    def spied(self: Engine, contexts: Any, **options: Any) -> list[list[int]]:
        stops.update({len(context): set(options["stop"]) for context in contexts})
        return generate(self, contexts, **options)

    monkeypatch.setattr(Engine, "generate", spied)
    ends = [[40, 2], [40, 3], [3, 40, 4, 41], [40]]  # <eos> is 2, <|system|> 3, <|user|> 4
    rows = [Row(np.array([*range(10, 14 + i), *end], np.int32), np.arange(4 + i + len(end)) >= 4 + i) for i, end in enumerate(ends)]
    rates(FailRate(max_tokens=2), base, rows)
    assert stops == {4: {2}, 5: {2, 3}, 6: {2, 4}, 7: {2}}


def test_rows_that_ask_nothing_or_cannot_be_graded_are_set_aside_alone(base: ScoringContext, questions: list[Row]) -> None:
    model = model_of(base)
    tokens = np.array([1, *questions[5].input_ids[-2:]], np.int32)  # <bos> 2 <eos>
    all_answer, no_answer = Row(tokens, np.ones(3, bool)), Row(tokens, np.zeros(3, bool))
    plain = Row(tokens, np.array([False, True, True]))  # nothing but <bos> before it
    scorer = FailRate(samples=2, max_tokens=3, extract="number")
    together = rates(scorer, base, [all_answer, questions[5], no_answer, plain, questions[1]])
    assert [math.isnan(rate) for rate in together] == [True, False, True, True, True]  # the last one's answer has no number
    assert together[1:2] == rates(scorer, base, [questions[5]]) < [1.0]
    assert not model.model.training


def test_a_prompt_that_fills_the_model_leaves_less_room_for_its_answer(base: ScoringContext, questions: list[Row]) -> None:
    model = model_of(base)
    seen: list[int] = []

    def note(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        if given.get("position_ids") is not None:  # the head is asked without
            seen.append(int(given["position_ids"].max()))

    long = Row(np.resize(questions[0].input_ids, 510), np.arange(510) >= 508)
    hook = decoder_of(model.model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        found = rates(FailRate(max_tokens=30, temperature=2.0), base, [questions[0], long])
    finally:
        hook.remove()
    assert 500 < max(seen) < 512
    assert found == rates(FailRate(max_tokens=30, temperature=2.0), base, [questions[0]]) + rates(FailRate(max_tokens=30, temperature=2.0), base, [long])


NAN = math.nan
COLUMNS = [
    ("fail_rate", [0, 1, 0.25, 1.0001, -0.1, "0.5", None, True, [0.5], NAN], [0, 1, 0.25, *[NAN] * 7]),
    ("pass_rate", [0, 1, 0.25, 1.0001, -0.1, "0.5", None, True, [0.5], NAN], [1, 0, 0.75, *[NAN] * 7]),
    ("grades", [[True], [1, 0, 0, 0], [False, True], [1.0, 0.0], [0], [], [0.5], [True, None], ["1"], 1, None, [[1], [1, 0]], [[1, 0]]],
     [0, 0.75, 0.5, 0.5, 1, *[NAN] * 8]),
]  # fmt: skip


@pytest.mark.parametrize(("column_is", "values", "wanted"), COLUMNS, ids=[entry[0] for entry in COLUMNS])
def test_a_column_gives_the_rate_without_a_model(column_is: Any, values: list[Any], wanted: list[float]) -> None:
    rows = [Row(np.arange(3, dtype=np.int32), np.ones(3, bool), Written(fields={"rate": value})) for value in values]
    rows.append(Row(np.arange(3, dtype=np.int32), np.ones(3, bool), Written(fields={"other": 0.5})))
    found = FailRate(column="rate", column_is=column_is).score(padded(rows, 0, "cpu"), ScoringContext())
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([*wanted, NAN], nan_ok=True)


def test_a_column_needs_no_model_and_sampling_does(questions: list[Row]) -> None:
    assert kind_of(FailRate(column="rate")) == "text"
    assert kind_of(FailRate()) == "base"
    with pytest.raises(ConfigError, match="fail_rate reads a model"):
        FailRate().score(padded(questions, 0, "cpu"), ScoringContext())


def test_fields_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="column_is: grades says how to read a column, and none is named"):
        component("scorers", {"name": "fail_rate", "column_is": "grades"})
    for fields in ({"samples": 0}, {"temperature": 0}, {"top_p": 0}, {"top_p": 1.5}, {"max_tokens": 0}, {"column": ""}, {"extract": "letter"}):
        with pytest.raises(ValidationError):
            component("scorers", {"name": "fail_rate", **fields})
