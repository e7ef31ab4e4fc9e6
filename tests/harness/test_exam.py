"""An exam asks every question once, in parts that what is known does not change, and keeps what it is told under a key of all that decides it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import NumericError
from curate.harness.exam import Exam, Reply, choices_of, empty_answers, first, prepare, record
from curate.harness.metrics import Outcome, Value, values
from curate.harness.questions import Question
from curate.harness.tokens import HarnessTokens
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger
from curate.inference.own_attention import score
from curate.inference.plan import Layout
from curate.model import LanguageModel
from curate.presses.snapkv import Snapkv
from curate.testing.random_models import random_model
from tests.harness.asking import ask, write_rows
from tests.harness.test_tokens import tokenizer

IDENTITY: dict[str, Any] = {"model": "m", "weights": None, "engine": None, "press": None, "versions": None}
LETTERS = "abcdxy"
ROWS = [{"text": f"ab{LETTERS[i % 6]} c{LETTERS[i // 6 % 6]}\n", "options": ["a", "xy b", "dd"], "label": i % 3} for i in range(14)]
CHOICE = "task: t\ndata: rows.jsonl\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: options\ndoc_to_target: label\n"
FREE = "task: t\ndata: rows.jsonl\noutput_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{text}}'\n"
FREE += "generation_kwargs: {until: [], max_gen_toks: 4}\n"
ROLLING = "task: t\ndata: rows.jsonl\noutput_type: loglikelihood_rolling\ndoc_to_target: '{{text * 4}}'\n"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return replace(random_model(), tokenizer=tokenizer())


def exam_in(folder: Path, text: str = CHOICE, *, limit: int | None = None, longest: int = 100, rows: Any = ROWS, seed: int = 0) -> Exam:
    return prepare(ask(folder, text, rows, limit), HarnessTokens(tokenizer(), longest), seed)


def test_every_request_is_scored_as_by_the_model_s_own_attention(model: LanguageModel, tmp_path: Path) -> None:
    for text in (CHOICE, CHOICE + "metric_list: [{metric: acc_mutual_info}]\n", ROLLING):
        exam, engine = exam_in(tmp_path, text, longest=20), Engine(model)
        for asked, reply in zip(exam.asked, exam.ask(engine, Ledger(), IDENTITY), strict=True):
            with torch.inference_mode():
                wanted = [score(model, one.context, one.continuation) for one in asked.sent]
            assert reply.loglikelihoods == pytest.approx([one.loglikelihood for one in wanted], abs=1e-4)
            assert list(reply.greedy) == [one.greedy for one in wanted]
            assert list(reply.tokens) == [len(one.continuation) for one in asked.sent]
            assert values(exam.task, asked.question, reply)
        assert engine.forward_tokens < engine.asked_tokens


def test_parts_hold_so_many_tokens_or_answers_whatever_is_known(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.harness.exam.SCORED", 60)
    monkeypatch.setattr("curate.harness.exam.GENERATED", 5)
    exam = exam_in(tmp_path)
    sizes = [sum(len(one.context) + len(one.continuation) for one in asked.sent) for asked in exam.asked]
    assert [i for part in exam.parts for i in part] == list(range(14)) and len(exam.parts) > 5
    assert all(sum(sizes[i] for i in part) <= 60 for part in exam.parts)
    assert exam_in(tmp_path, CHOICE, rows=[dict(ROWS[0], text="a" * 90)] * 3).parts == [(0,), (1,), (2,)]  # one alone is more
    assert [len(part) for part in exam_in(tmp_path, FREE).parts] == [5, 5, 4]
    assert [len(part) for part in exam_in(tmp_path, FREE + "repeats: 2\n").parts] == [2] * 7
    assert [len(part) for part in exam_in(tmp_path, FREE + "repeats: 9\n").parts] == [1] * 14
    ledger = Ledger()
    first(exam, 3).ask(Engine(model), ledger, IDENTITY)
    before = len(ledger)
    known = exam.ask(Engine(model), ledger, IDENTITY)
    assert (before, len(ledger)) == (3, 14) and known == exam.ask(Engine(model), ledger, IDENTITY)
    alone = exam_in(tmp_path).ask(Engine(model), Ledger(), IDENTITY)
    assert [reply.loglikelihoods for reply in known] == [pytest.approx(reply.loglikelihoods, abs=1e-4) for reply in alone]


def test_one_plan_serves_all_variants(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = exam_in(tmp_path)
    plans: list[Any] = []
    run = Engine.score
    monkeypatch.setattr(Engine, "score", lambda engine, wanted: (plans.append(wanted), run(engine, wanted))[1])
    for weights in ("one", "other"):
        exam.ask(Engine(model), Ledger(), IDENTITY | {"weights": weights})
    assert len(plans) == 2 and plans[0] is plans[1]


def test_keys_differ_by_all_that_decides_an_answer_and_by_nothing_else(tmp_path: Path) -> None:
    exam = exam_in(tmp_path)
    keys = set(exam.keys(IDENTITY))
    assert len(keys) == 14
    for name in IDENTITY:
        assert not keys & set(exam.keys(IDENTITY | {name: "other"}))
    assert not keys & set(exam_in(tmp_path, CHOICE.replace("{{text}}", "a {{text}}")).keys(IDENTITY))
    assert keys == set(exam_in(tmp_path, CHOICE.replace("task: t", "task: another") + "metric_list: [{metric: acc_norm}]\n", seed=3).keys(IDENTITY))
    assert keys > set(first(exam, 4).keys(IDENTITY)) and not keys & set(exam.keys(IDENTITY, together=True))
    assert not set(exam.keys(IDENTITY, together=True)) & set(first(exam, 4).keys(IDENTITY, together=True))
    free = set(exam_in(tmp_path, FREE).keys(IDENTITY))
    for other in (FREE.replace("4", "5"), FREE.replace("[]", "[b]"), FREE + "repeats: 2\n", FREE.replace("max_gen", "temperature: 1.0, max_gen")):
        assert not free & set(exam_in(tmp_path, other).keys(IDENTITY))
    assert free == set(exam_in(tmp_path, FREE, seed=1).keys(IDENTITY))  # greedy answers have no seed
    drawn = FREE.replace("max_gen", "temperature: 1.0, max_gen")
    assert not set(exam_in(tmp_path, drawn).keys(IDENTITY)) & set(exam_in(tmp_path, drawn, seed=1).keys(IDENTITY))


@pytest.mark.parametrize("text", [CHOICE, FREE], ids=("choice", "free"))
@pytest.mark.parametrize("rows", [ROWS, [{**row, "text": "abcdxy " * 4 + str(row["text"])} for row in ROWS[:5]]], ids=("short", "long"))
def test_what_a_press_covers_is_what_the_engine_compresses(text: str, rows: Any, model: LanguageModel, tmp_path: Path) -> None:
    exam, engine = exam_in(tmp_path, text, rows=rows), Engine(model, press=Snapkv(tokens=2))
    exam.ask(engine, Ledger(), IDENTITY)
    assert exam.covered(engine.layout) == engine.compressed_tokens > 0
    assert exam_in(tmp_path, ROLLING, rows=[{"text": letter} for letter in LETTERS]).covered(Layout(apart=True)) == 1  # the token before all texts


def test_sampled_answers_do_not_depend_on_what_is_asked_with_them(model: LanguageModel, tmp_path: Path) -> None:
    text = FREE.replace("max_gen", "temperature: 2.0, top_p: 0.9, max_gen") + "repeats: 3\nmetric_list: [{metric: pass@k}]\n"
    exam, ledger = exam_in(tmp_path, text), Ledger()
    whole = exam.ask(Engine(model), Ledger(), IDENTITY)
    assert exam.samples and not exam_in(tmp_path, FREE).samples
    ledger.add(dict(zip(exam.keys(IDENTITY)[3:9], [{"responses": list("abc"), "tokens": [1, 1, 1]}] * 6, strict=True)))
    part = exam.ask(Engine(model), ledger, IDENTITY)
    assert part[:3] + part[9:] == whole[:3] + whole[9:] and part[4].responses == list("abc")
    assert len({response for reply in whole for response in reply.responses}) > 3
    assert exam_in(tmp_path, text, seed=1).ask(Engine(model), Ledger(), IDENTITY) != whole


@pytest.mark.parametrize("text", [CHOICE, FREE, FREE.replace("max_gen", "temperature: 1.0, max_gen")], ids=("choice", "greedy", "sampled"))
def test_logits_that_are_no_numbers_are_refused_and_not_kept(text: str, tmp_path: Path) -> None:
    broken, ledger = replace(random_model(), tokenizer=tokenizer()), Ledger()
    with torch.no_grad():
        broken.model.lm_head.weight[5] = float("nan")
    with pytest.raises(NumericError, match="^t: the model's logits are no finite numbers for 14 questions .the first is 000000-"):
        exam_in(tmp_path, text).ask(Engine(broken), ledger, IDENTITY)
    assert len(ledger) == 0


def test_what_was_cut_and_what_reaches_across_is_counted(tmp_path: Path) -> None:
    exam = exam_in(tmp_path, longest=8)
    whole = exam_in(tmp_path)
    lost = [max(len(a.context) - len(b.context) for a, b in zip(one.sent, cut.sent, strict=True)) for one, cut in zip(whole.asked, exam.asked, strict=True)]
    assert exam.dropped == (sum(map(bool, lost)), max(lost)) != (0, 0) and whole.dropped == (0, 0)
    assert exam.longest == 9 and whole.longest == max(len(one.context) + len(one.continuation) for asked in whole.asked for one in asked.sent)
    assert exam_in(tmp_path, FREE).longest == max(len(asked.sent[0].context) for asked in exam_in(tmp_path, FREE).asked) + 4
    joined = "task: t\ndata: rows.jsonl\noutput_type: loglikelihood\ndoc_to_text: x\ndoc_to_target: '{{text}}'\n"
    assert exam_in(tmp_path, joined, rows=[{"x": "ax", "text": "yb"}, {"x": "ax", "text": "b"}]).unstable == 1
    assert whole.digest == exam_in(tmp_path).digest != exam.digest and len(first(whole, 5).asked) == 5


QUESTION = Question("7", (("p", " a"), ("p", " b")), ("a", "b"), (1,))
GRADED = {"acc": Value(1.0), "acc_norm": Value(0.0)}


def test_a_line_says_what_was_asked_and_said() -> None:
    assert record(QUESTION, Reply([-1.5, -math.inf], [True, False], tokens=[1, 2]), GRADED) == {
        "id": "7",
        "prompt": "p",
        "targets": [1],
        "choices": ["a", "b"],
        "loglikelihoods": [-1.5, None],
        "generation": [],
        "score": 1.0,
        "metrics": {"acc": 1.0, "acc_norm": 0.0},
        "tokens": [1, 2],
    }
    mutual = replace(QUESTION, requests=(*QUESTION.requests, ("", " a"), ("", " b")))
    line = record(mutual, Reply([-1.0, -2.0, -3.0, -4.0]), GRADED)
    assert (line["prompt"], line["loglikelihoods"], line["alone"]) == ("p", [-1.0, -2.0], [-3.0, -4.0])
    ends = replace(QUESTION, requests=(("one", " x"), ("other", " x")))  # choices that are ends of the prompt
    assert record(ends, Reply([-1.0, -2.0]), GRADED)["prompt"] == ["one", "other"]
    text = record(Question("8", (("", "a whole text"),)), Reply([-1.0, -2.0], tokens=[3, 1]), {"bits_per_byte": Value(-3.0, 12)})
    assert (text["prompt"], text["choices"], text["loglikelihoods"], text["score"]) == ("", ["a whole text"], [-1.0, -2.0], -3.0)
    spoken = record(Question("9", (("p", ""),), targets=("x",)), Reply(responses=["x", ""], tokens=[1, 0]), {"pass@1": Value(0.5)})
    assert (spoken["choices"], spoken["generation"], spoken["tokens"], spoken["loglikelihoods"]) == ([], ["x", ""], [1, 0], [])


def test_empty_answers_are_counted_one_by_one() -> None:
    assert empty_answers([Outcome(responses=["", "a", ""]), Outcome(responses=[" "]), Outcome([1.0])]) == 2


def test_choices_are_compared_without_those_that_have_no_context() -> None:
    assert choices_of(QUESTION, Outcome([-1.0, -2.0, -3.0, -4.0])).tolist() == [-1.0, -2.0]
    assert choices_of(Question("8", (("", "text"),)), Outcome([-1.0, -2.0])).tolist() == [-3.0]


def test_an_exam_is_named_after_its_task_or_otherwise(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert exam_in(tmp_path).name == "t"
    assert prepare(ask(tmp_path, CHOICE, ROWS), HarnessTokens(tokenizer(), 100), name="t (easy)").name == "t (easy)"
