"""Activated adapters through `curate evaluate`: PEFT's own numbers, behind a prefix that is computed once for all of them and the base."""

from pathlib import Path

import pytest

from curate.errors import ConfigError
from curate.presses.snapkv import Snapkv
from tests.pipelines.asked_tasks import CHOICE, FREE, INVOCATION, PROMPT, ROWS, adapter_in, evaluated, lines, nats, plain, tasks_in, tokenizer_of, tokens


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("adapters")
    start = tokenizer_of(tiny)(INVOCATION)["input_ids"]
    return {
        "one": adapter_in(top / "one", tiny, 1),
        "late": adapter_in(top / "late", tiny, 3, alora_invocation_tokens=start),
        "later": adapter_in(top / "later", tiny, 4, alora_invocation_tokens=start, r=8),
    }


def test_their_scores_are_those_of_peft_without_a_cache(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    found = evaluated(tiny, tasks.values(), tmp_path, adapters=list(adapters.values()), log_items=tmp_path / "log", limit=6)
    assert [one.variant for one in found.examined] == ["base", *adapters]
    assert [one.cache_bytes is None for one in found.examined] == [True, False, True, True] and all(one.exact for one in found.examined)
    tokenizer, totals = tokenizer_of(tiny), set()
    for name, folder in ((None, None), *adapters.items()):
        model = plain(tiny, folder)
        mine = [line for line in lines(tmp_path / "log") if line["variant"] == (name or "base")]
        for line, row in zip(mine, ROWS, strict=False):
            wanted = [nats(model, tokenizer, PROMPT.format(**row), f" {choice}") for choice in row["options"]]
            assert line["loglikelihoods"] == pytest.approx(wanted, abs=1e-4)
        totals.add(round(sum(sum(line["loglikelihoods"]) for line in mine), 2))
    assert len(totals) == 4


def test_activated_adapters_share_the_base_s_tokens(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE)
    base = tokens(evaluated(tiny, tasks.values(), tmp_path / "alone"))["choice", "base"]
    both = tokens(evaluated(tiny, tasks.values(), tmp_path / "both", adapters=[adapters["late"], adapters["one"], adapters["later"]]))
    assert both["choice", "base"] == both["choice", "one"] == base
    tail = len(tokenizer_of(tiny)(INVOCATION + " dark green")["input_ids"])
    assert 0 < both["choice", "late"] <= len(ROWS) * 3 * tail and abs(both["choice", "late"] - both["choice", "later"]) <= 1
    assert both["choice", "late"] <= base / 2
    again = evaluated(tiny, tasks.values(), tmp_path / "alone", adapters=[adapters["late"], adapters["later"]])  # the base is known, its heads are needed
    assert tokens(again)["choice", "base"] == 0 and 0 < tokens(again)["choice", "late"] < base
    more = evaluated(tiny, tasks.values(), tmp_path / "both", adapters=[adapters["later"], adapters["late"]])
    assert set(tokens(more).values()) == {0}


def test_questions_without_the_invocation_are_named(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    rows = tasks_in(tmp_path, choice=CHOICE.replace("Answer:", "{% if label %}Answer{% else %}Reply{% endif %}:").replace("num_fewshot: 2", "num_fewshot: 0"))
    found = evaluated(tiny, rows.values(), tmp_path, adapters=[adapters["late"]], log_items=tmp_path / "log")
    assert found.notes == ["choice: in 4 of 10 questions late's invocation does not occur, so its answers there are the base's"]
    logged = {(line["variant"], line["id"]): line["loglikelihoods"] for line in lines(tmp_path / "log")}
    same = [logged["base", name] == logged["late", name] for variant, name in logged if variant == "base"]
    assert sum(same) == 4


def test_what_cannot_be_shared_is_refused_before_anything_is_computed(tiny: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path, choice=CHOICE, free=FREE)
    with pytest.raises(ConfigError, match="^late is an activated adapter, which is evaluated by log-likelihoods alone, and task free generates; leave one"):
        evaluated(tiny, tasks.values(), tmp_path, adapters=[adapters["one"], adapters["late"]])
    with pytest.raises(ConfigError, match="^late is an activated adapter, which shares the base's exact prefix; leave --press out, or the adapter$"):
        evaluated(tiny, [tasks["choice"]], tmp_path, adapters=[adapters["late"]], press=Snapkv())
    assert not (tmp_path / "store").exists()
