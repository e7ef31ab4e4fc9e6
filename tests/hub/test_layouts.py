"""Layouts of trainers: the rows in the columns that each reads, and a snippet that names what is there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from curate.errors import ExportError
from curate.exporting.layouts import LAYOUTS, Kind, Layout, companions, kind_of, shaped
from curate.pipelines.publish import Wanted, gathered
from tests.hub.client import Place

ONE = (("user", "2 + 2?"), ("assistant", "4"))
LED = (("system", "Be brief."), *ONE)
LONG = (*ONE, ("user", "3 + 3?"), ("assistant", "6"))


@pytest.mark.parametrize(("said", "kind"), [([ONE], "exchange"), ([ONE, LED], "exchange"), ([ONE, LONG], "messages"), ([(("", "plain"),)], "text")])
def test_rows_are_one_exchange_conversations_or_text(said: Any, kind: Kind) -> None:
    assert kind_of(said, [str(number) for number in range(len(said))]) == kind


@pytest.mark.parametrize(("said", "words"), [([ONE, ()], "row '1' came as token ids"), ([ONE, (("", "plain"),)], "row '1' is plain text and others")])
def test_rows_that_no_layout_holds_are_named(said: Any, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        kind_of(said, ["0", "1"])


@pytest.mark.parametrize(
    ("layout", "kind", "turns", "expected"),
    [
        ("trl", "exchange", ONE, {"prompt": [{"role": "user", "content": "2 + 2?"}], "completion": [{"role": "assistant", "content": "4"}]}),
        ("trl", "messages", ONE, {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}),
        ("llama-factory", "exchange", LED, {"instruction": "2 + 2?", "input": "", "output": "4", "system": "Be brief."}),
        ("axolotl", "exchange", ONE, {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}),
        ("axolotl", "text", (("", "plain"),), {"text": "plain"}),
    ],
)
def test_a_row_has_the_columns_that_the_trainer_reads(layout: Layout, kind: Kind, turns: Any, expected: Any) -> None:
    assert shaped(layout, kind, turns) == expected


def test_the_trl_snippet_loads_the_columns_that_are_there(exported: Callable[..., Path], tmp_path: Path) -> None:
    from datasets import load_dataset

    out = exported(["near"], "trl", budget="4")
    text = (out / "train_trl.py").read_text()
    compile(text, "train_trl.py", "exec")
    assert 'select_columns(["prompt", "completion"])' in text and "completion_only_loss=True" in text
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache")).select_columns(["prompt", "completion"])
    assert all(row["prompt"][-1]["role"] == "user" and row["completion"][0]["role"] == "assistant" and len(row["completion"]) == 1 for row in rows)


def test_dataset_info_describes_every_file_by_columns_that_it_has(exported: Callable[..., Path]) -> None:
    out = exported(["all"], "llama-factory")
    described = json.loads((out / "dataset_info.json").read_bytes())
    assert list(described) == ["near-4", "near-6", "cover-4", "cover-6"]
    for name, entry in described.items():
        lines = [json.loads(line) for line in (out / entry["file_name"]).read_text().splitlines()]
        assert entry["formatting"] == "alpaca" and len(lines) == int(name[-1])
        assert all(isinstance(line[column], str) for line in lines for column in entry["columns"].values())
    settings = yaml.safe_load((out / "train_llama_factory.yaml").read_text())
    assert settings["dataset"] in described and settings["dataset_dir"] == "." and settings["stage"] == "sft"


def test_the_axolotl_entry_names_a_file_and_the_field_that_it_has(exported: Callable[..., Path]) -> None:
    out = exported(["near"], "axolotl", budget="4")
    entry = yaml.safe_load((out / "train_axolotl.yaml").read_text())["datasets"][0]
    lines = [json.loads(line) for line in (out / entry["path"]).read_text().splitlines()]
    assert entry["type"] == "chat_template" and entry["roles_to_train"] == ["assistant"]
    mapped = entry["message_property_mappings"]
    assert all({mapped["role"], mapped["content"]} <= turn.keys() for line in lines for turn in line[entry["field_messages"]])


@pytest.mark.parametrize("kind", ["exchange", "messages", "text"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_snippet_parses_and_names_the_model(layout: Layout, kind: Kind) -> None:
    for name, text in companions(layout, kind, [("default", "data/default.jsonl")], "org/model").items():
        if name.endswith(".py"):
            compile(text, name, "exec")
        parsed = yaml.safe_load(text) if not name.endswith(".py") else {}
        assert "org/model" in text or name == "dataset_info.json" and parsed["default"]["file_name"] == "data/default.jsonl"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_ranks_weights_and_reasons_are_the_same_in_every_layout(place: Place, layout: Layout) -> None:
    plain, other = (gathered(place.runs, place.store, Wanted(["all"], layout=one)) for one in ("datasets", layout))
    assert [list(part.added().values()) for part in plain.parts] == [list(part.added().values()) for part in other.parts]


def test_all_arms_at_one_budget_and_what_there_is_not_is_told(place: Place) -> None:
    assert [part.name for part in gathered(place.runs, place.store, Wanted(["all"], budget="6")).parts] == ["near-6", "cover-6"]
    assert [part.name for part in gathered(place.runs, place.store, Wanted(["random", "near"], budget="4")).parts] == ["random-4", "near-4"]
    refused = {"several budgets": Wanted(["near"]), "no budget '7'": Wanted(["all"], budget="7"), "no selection of arm 'x'": Wanted(["near", "x"])}
    for words, wanted in refused.items():
        with pytest.raises(ExportError, match=words):
            gathered(place.runs, place.store, wanted)


def test_the_card_rolls_up_licences_and_records_what_the_rows_were_chosen_from(place: Place) -> None:
    card = gathered(place.runs, place.store, Wanted(["near"], budget="6")).card
    assert set(card.licenses) == {"mit", "cc-by-4.0"} and sum(sum(of.values()) for of in card.licenses.values()) == 6
    pool = card.inputs["stages"]["examples pool"]["sources"][0]["files_read"][0]
    assert pool["name"] == "pool.jsonl" and pool["bytes"] == (place.folder / "pool.jsonl").stat().st_size
    assert len(card.inputs["model"]["fingerprint"]) == 32 and card.inputs["seeds"] == [0] and card.versions["torch"]
    assert any(line.startswith("round_robin: Cycle through") for line in card.chosen[0].formulas)
    assert card.leaks is not None and card.leaks[0][0] == "set"
