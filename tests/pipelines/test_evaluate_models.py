"""`curate evaluate`: scores are those of a plain forward pass graded by hand, and no answer is computed twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.errors import IntegrityError
from curate.inference.engine import Engine
from curate.inference.ledger import Ledger
from curate.presses.snapkv import Snapkv
from tests.pipelines.asked_tasks import (
    CHOICE,
    FREE,
    PROMPT,
    ROWS,
    WHOLE,
    adapter_in,
    evaluated,
    greedy,
    lines,
    nats,
    plain,
    scores,
    tasks_in,
    tokenizer_of,
    tokens,
)


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("adapters")
    return {
        "one": adapter_in(top / "one", tiny, 1),
        "two": adapter_in(top / "two", tiny, 2, r=8, target_modules=["k_proj", "o_proj"]),
    }


def by_hand(model: Path, adapter: Path | None) -> list[list[float]]:
    """The log-likelihoods of every row's choices."""
    said, tokenizer = plain(model, adapter), tokenizer_of(model)
    return [[nats(said, tokenizer, PROMPT.format(**row), f" {choice}") for choice in row["options"]] for row in ROWS]


def graded(found: list[list[float]]) -> tuple[float, float]:
    """acc and acc_norm."""
    acc = np.mean([int(np.argmax(own)) == row["label"] for own, row in zip(found, ROWS, strict=True)])
    by_length = [np.argmax(np.array(own) / [len(choice) for choice in row["options"]]) == row["label"] for own, row in zip(found, ROWS, strict=True)]
    return float(acc), float(np.mean(by_length))


def test_every_variant_scores_what_a_plain_forward_pass_scores(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks, log = tasks_in(tmp_path, choice=CHOICE), tmp_path / "items.jsonl"
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=list(adapters.values()), log_items=log)
    assert [one.variant for one in found.examined] == ["base", *adapters]
    logged = {(line["variant"], line["id"]): line for line in lines(log)}
    seen = []
    for one in found.examined:
        wanted = by_hand(tiny, adapters.get(one.variant))
        mine = [line for (variant, _), line in logged.items() if variant == one.variant]
        assert [line["loglikelihoods"] for line in mine] == [pytest.approx(own, abs=1e-4) for own in wanted]
        assert {metric.name: metric.value for metric in one.metrics} == dict(zip(("acc", "acc_norm"), graded(wanted), strict=True))
        assert one.metrics[0].standard_error == pytest.approx(np.std([line["score"] for line in mine], ddof=1) / np.sqrt(10))
        assert (one.task, one.version, one.items, one.exact, one.unshared) == ("choice", "3", 10, True, "")
        seen.append(sum(sum(own) for own in wanted))
    assert len({round(total, 2) for total in seen}) == 3  # so that no variant passes for another
    assert found.notes == [] and found.trust == [] and found.press is None and set(found.plans) == {"choice"}


def test_generated_answers_are_the_greedy_ones_and_empty_ones_are_wrong(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, free=FREE)
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=[adapters["one"]], log_items=tmp_path / "log")
    tokenizer = tokenizer_of(tiny)
    empty = {}
    for variant, folder in ((None, None), ("one", adapters["one"])):
        model, name = plain(tiny, folder), variant or "base"
        wanted = [greedy(model, tokenizer, row["question"], 6).partition("o")[0] for row in ROWS]
        mine = [line for line in lines(tmp_path / "log") if line["variant"] == name]
        assert [line["generation"] for line in mine] == [[text] for text in wanted]
        assert [line["score"] for line in mine] == [float(text == row["answer"] != "") for text, row in zip(wanted, ROWS, strict=True)]
        assert all(0 <= line["tokens"][0] <= 6 for line in mine) and any(line["tokens"][0] for line in mine)
        empty[name] = wanted.count("")
    assert {one.variant: one.empty for one in found.examined} == empty


def test_empty_answers_are_reported_even_where_nothing_would_be_right(tiny: Path, tmp_path: Path) -> None:
    text = FREE.replace('"{{question}}"', "question").replace("answer", "\"{{ '' }}\"").replace('["o"]', '["a", "e", "i", "o", "u", " ", "\\n"]')
    found = evaluated(tiny, tasks_in(tmp_path, free=text).values(), tmp_path).examined[0]
    assert found.empty > 0 and found.metrics[0].value == 0.0


def test_a_second_call_computes_nothing_and_says_the_same(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE, free=FREE, whole=WHOLE)
    wanted = {"adapters": [adapters["one"], adapters["two"]]}
    first = evaluated(tiny, tasks.values(), tmp_path, log_items=tmp_path / "first", **wanted)
    again = evaluated(tiny, tasks.values(), tmp_path, log_items=tmp_path / "again", **wanted)
    assert all(tokens(first).values()) and not any(tokens(again).values())
    assert scores(first) == scores(again) and (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    other = evaluated(tiny, [tasks["whole"], tasks["choice"]], tmp_path)  # another set of tasks, in another order
    assert not any(tokens(other).values())
    longer = evaluated(tiny, [tasks["choice"]], tmp_path, limit=4, spec={"max_length": 300})  # all that decides is in the tokens
    assert not any(tokens(longer).values())


def test_what_decides_an_answer_decides_its_key(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    changes: list[dict[str, Any]] = [
        {},
        {"shots": 1},
        {"spec": {"dtype": "bfloat16"}},
        {"press": Snapkv(keep=0.5)},
        {"press": Snapkv(keep=0.25)},
        {"adapters": [adapters["one"]]},
        {"adapters": [adapters["two"]]},
    ]
    for change in changes:
        assert evaluated(tiny, tasks.values(), tmp_path, **change).examined[-1].forward_tokens > 0, change
    for change in changes[2:6:3]:
        assert not any(tokens(evaluated(tiny, tasks.values(), tmp_path, **change)).values()), change


def test_sampled_answers_belong_to_the_seed(tiny: Path, tmp_path: Path) -> None:
    text = FREE.replace("max_gen_toks: 6", "max_gen_toks: 6, temperature: 1.0") + "repeats: 3\nmetric_list: [{metric: pass@k, k: [1, 3]}]\n"
    tasks = tasks_in(tmp_path, free=text)
    found = {seed: evaluated(tiny, tasks.values(), tmp_path, seed=seed, log_items=tmp_path / str(seed)) for seed in (0, 1)}
    one, other = ([line["generation"] for line in lines(tmp_path / str(seed))] for seed in (0, 1))
    assert one != other and all(len(said) == 3 for said in one)
    assert [metric.name for metric in found[0].examined[0].metrics] == ["pass@1", "pass@3"]
    again = evaluated(tiny, tasks.values(), tmp_path / "anew", seed=0, log_items=tmp_path / "again")
    assert [line["generation"] for line in lines(tmp_path / "again")] == one and tokens(again)["free", "base"] > 0


def test_a_killed_run_goes_on_where_it_was(tiny: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, wanted = tasks_in(tmp_path, choice=CHOICE, free=FREE), [adapters["one"]]
    monkeypatch.setattr("curate.harness.exam.SCORED", 1000)
    monkeypatch.setattr("curate.harness.exam.GENERATED", 4)
    whole = evaluated(tiny, tasks.values(), tmp_path / "whole", adapters=wanted)
    add, spent = Ledger.add, []

    def dying(ledger: Ledger, results: dict[str, object]) -> None:
        if len(spent) == 5:
            raise SystemExit("killed")
        spent.append(len(results))
        add(ledger, results)

    monkeypatch.setattr(Ledger, "add", dying)
    with pytest.raises(SystemExit):
        evaluated(tiny, tasks.values(), tmp_path / "cut", adapters=wanted)
    monkeypatch.setattr(Ledger, "add", add)
    file = next((tmp_path / "cut" / "store" / "ledger").glob("*.jsonl"))
    file.write_bytes(file.read_bytes()[:-40])  # and its last line never reached the disk
    asked: list[int] = []
    score, generate = Engine.score, Engine.generate
    monkeypatch.setattr(Engine, "score", lambda engine, plan: (asked.append(len(plan.requests) // 3), score(engine, plan))[1])
    monkeypatch.setattr(Engine, "generate", lambda engine, prompts, **how: (asked.append(len(prompts)), generate(engine, prompts, **how))[1])
    found = evaluated(tiny, tasks.values(), tmp_path / "cut", adapters=wanted)
    assert scores(found) == scores(whole)
    assert spent == [5, 5, 4, 4, 2] and asked == [2, 5, 5, 4, 4, 2]  # the base's last two, which were cut off, and all of the adapter's
    assert 0 < sum(tokens(found).values()) < sum(tokens(whole).values())


def test_a_ledger_that_was_changed_is_refused(tiny: Path, tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    evaluated(tiny, tasks.values(), tmp_path)
    file = next((tmp_path / "store" / "ledger").glob("*.jsonl"))
    file.write_text(file.read_text().replace("-1", "-2", 1))
    with pytest.raises(IntegrityError, match="or was changed; restore the file, or remove it"):
        evaluated(tiny, tasks.values(), tmp_path)
