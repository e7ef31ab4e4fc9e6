"""The stage between prepare and score: what leaks and what repeats is found, left out where the recipe says so, and every row is accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from curate.data.examples import open_examples, quarantined
from curate.hygiene.leaks import Gate

Command = Callable[..., int]
CLEAN = ("hygiene.decontaminate=true", "hygiene.deduplicate=near")


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "dirty" / "results.json").read_bytes())
    return found


def one(folder: Path, stage: str) -> Path:
    (found,) = (folder / "store").glob(f"{stage}-*")
    return found


def test_leaks_are_reported_unasked_and_nothing_is_left_out(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", "--until", "select", "--quiet", "--workers", "1") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "evaluation likelihood: 1 of its 3 items stand in the pool, in 1 rows" in said and "decontaminate: true" in said
    found = results(folder)["hygiene"]
    evaluation = next(one for one in found["benchmarks"] if one["role"] == "evaluation")
    assert (evaluation["verdict"], evaluation["dirty"], evaluation["rows_dirty"]) == ("dirty", 1, 1)
    shown = evaluation["shown"][0]
    assert "17 sheep in the valley" in shown["matched"] and "Solve this." in shown["row_text"] and "A farmer has 17" in shown["item_text"]
    assert results(folder)["pool"]["used"] == 28 and not list((folder / "store").glob("clean-*"))
    page = (folder / "runs" / "dirty" / "report.html").read_text()
    assert "Leaks and duplicates" in page and "17 sheep in the valley" in page
    assert "What of targets and evaluations stands in the pool" in (folder / "runs" / "dirty" / "report.md").read_text()


def test_what_leaks_and_what_repeats_goes_before_scoring(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0
    assert "3 were left out before scoring: 1 leak, 1 repeat another row, 1 almost repeat another row" in " ".join(capsys.readouterr().out.split())
    cleaned, whole = one(folder, "clean"), open_examples(next(path for path in (folder / "store").glob("examples-*") if len(open_examples(path)) == 28))
    kept = open_examples(cleaned)
    dropped = pq.read_table(cleaned / "dropped.parquet").to_pylist()
    assert {line["reason"] for line in dropped} == {"leak", "duplicate", "near_duplicate"}
    assert set(kept.ids.tolist()) | {line["id"] for line in dropped} == set(whole.ids.tolist()) and len(kept) + len(dropped) == 28
    said = {str(name): whole.rows[place].content.turns[0][1] for place, name in enumerate(whole.ids)}
    by_reason = {line["reason"]: line for line in dropped}
    assert said[by_reason["leak"]["id"]].startswith("Solve this.") and "17 sheep" in by_reason["leak"]["matched"]
    assert said[by_reason["duplicate"]["id"]].startswith("question 20:") and said[by_reason["duplicate"]["partner"]].startswith("Question 20:")
    assert by_reason["near_duplicate"]["likeness"] > 0.8 and by_reason["near_duplicate"]["partner"] in kept.ids
    assert [kept.rows[place].content.turns for place in range(len(kept))] == [
        whole.rows[int(place)].content.turns for place in whole.ids.searchsorted(kept.ids)
    ]
    assert {line["id"] for line in quarantined(cleaned)} == {line["id"] for line in dropped}
    assert results(folder)["pool"]["quarantined"] == {"duplicate": 1, "leak": 1, "near_duplicate": 1}
    taken = {line for path in (folder / "store").glob("selection-*") for line in pq.read_table(path / "selection.parquet")["id"].to_pylist()}
    assert not taken & {line["id"] for line in dropped}


def test_of_a_group_of_duplicates_the_first_stays_that_does_not_leak(curate: Command, folder: Path) -> None:
    rows = (folder / "first.jsonl").read_text().splitlines()
    leak, tale = rows[24], rows[25]
    (folder / "first.jsonl").write_text("\n".join([tale, *rows]) + "\n")
    (folder / "second.jsonl").write_text("\n".join([leak, tale]) + "\n")
    assert curate("run", *CLEAN, "--until", "prepare", "--quiet", "--workers", "1") == 0
    dropped = pq.read_table(one(folder, "clean") / "dropped.parquet").to_pylist()
    assert sorted(line["reason"] for line in dropped) == ["duplicate", "duplicate", "leak", "leak"]
    assert len({line["partner"] for line in dropped if line["reason"] == "duplicate"}) == 1


def test_the_same_bytes_for_any_number_of_workers(curate: Command, folder: Path, command_line: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("leaks", "duplicates"):
        monkeypatch.setattr(f"curate.pipelines.{module}.ROWS", 5)
    assert curate("run", *CLEAN, "--until", "prepare", "--quiet", "--workers", "1") == 0
    first = {path.name: json.loads((path / "manifest.json").read_bytes())["files"]["index.parquet"] for path in (folder / "store").glob("clean-*")}
    monkeypatch.undo()
    other = ("--store", folder / "other", "--runs", folder / "runs")
    assert command_line("run", folder / "dirty.yaml", *CLEAN, "--until", "prepare", "--quiet", "--workers", "2", *other) == 0
    assert {path.name: json.loads((path / "manifest.json").read_bytes())["files"]["index.parquet"] for path in (folder / "other").glob("clean-*")} == first


def test_verify_counts_kept_and_dropped_rows_by_id(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0
    assert curate("verify") == 0
    from curate.core import Artifact
    from curate.data.account import unaccounted

    cleaned, manifest = one(folder, "clean"), json.loads((one(folder, "clean") / "manifest.json").read_bytes())
    whole = Artifact("", folder / "store" / manifest["inputs"][0], {})
    assert unaccounted(Artifact("", cleaned, {}), whole) == []
    table = pq.read_table(cleaned / "index.parquet")
    pq.write_table(table.slice(1), cleaned / "index.parquet")
    assert "28 rows came in, but 24 are kept and 3 dropped" in unaccounted(Artifact("", cleaned, {}), whole)[0]


def test_a_target_that_is_part_of_an_evaluation_is_refused_unless_it_is_meant(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "target.jsonl").write_text((folder / "test.jsonl").read_text().replace("A farmer has", "a FARMER has"))
    assert curate("run", "--until", "prepare", "--quiet", "--workers", "1") == 3
    said = capsys.readouterr().err
    assert "target sheep: 3 of its 3 rows are items of evaluation likelihood" in said and "hygiene.target_overlap: 100% if it is meant" in said
    assert curate("run", "hygiene.target_overlap=100%", "--until", "prepare", "--quiet", "--workers", "1") == 0


def test_what_is_allowed_is_no_leak(curate: Command, folder: Path) -> None:
    phrase = "A farmer has 17 sheep in the valley and buys 25 more of them at the market before the winter. How many sheep does the farmer have now?"
    assert curate("run", f"hygiene.leaks.allow=['{phrase}']", "--until", "prepare", "--quiet", "--workers", "1") == 0
    assert [one["dirty"] for one in results(folder)["hygiene"]["benchmarks"]] == [0, 0]


def test_a_leak_that_slips_through_is_caught_in_what_was_taken(
    curate: Command, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.pipelines.hygiene.leaking_rows", lambda leaks, drop: {})
    assert curate("run", "hygiene.decontaminate=true", "budgets=[25]", "--until", "select", "--quiet", "--workers", "1") == 8
    assert "was taken, and it holds 100% of item" in capsys.readouterr().err


def test_a_second_run_finds_all_of_it_in_the_store(curate: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0
    monkeypatch.setattr(Gate, "scan", lambda *_: pytest.fail("scanned again"))
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0


def test_a_pool_of_nothing_but_leaks_is_refused(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        (folder / f"{name}.jsonl").write_text((folder / "test.jsonl").read_text())
    assert curate("run", "hygiene.decontaminate=true", "--until", "prepare", "--quiet", "--workers", "1") == 3
    assert "no row is left without leaks and duplicates" in capsys.readouterr().err


def test_explain_says_why_a_row_was_left_out_and_still_knows_the_others(curate: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0
    dropped = pq.read_table(one(folder, "clean") / "dropped.parquet").to_pylist()
    leak = next(line for line in dropped if line["reason"] == "leak")
    taken = pq.read_table(next((folder / "store").glob("selection-*")) / "selection.parquet")["id"].to_pylist()
    capsys.readouterr()
    assert curate("explain", leak["id"]) == 0
    assert "17 sheep" in " ".join(capsys.readouterr().out.split())
    assert curate("explain", taken[0]) == 0
    assert taken[0] in capsys.readouterr().out


def test_a_plan_is_made_of_a_run_that_leaves_rows_out(curate: Command) -> None:
    assert curate("plan", *CLEAN, "--quiet") == 0


def test_a_lookup_finds_the_clean_pool_and_all_that_hangs_on_it(curate: Command, folder: Path) -> None:
    from curate.pipelines.plan_found import look_up, lookup_session
    from curate.recipe import read_recipe

    recipe = read_recipe(folder / "dirty.yaml", CLEAN)
    assert curate("run", *CLEAN, "--until", "select", "--quiet", "--workers", "1") == 0
    lookup = lookup_session(folder / "store", folder / "runs", folder, "cpu", 1, None)
    assert look_up(recipe, lookup).pool.path == one(folder, "clean")
    stages = {stage for stage, _ in lookup.seen}
    assert {"leaks", "duplicates", "clean", "recheck", "features", "selection"} <= stages
    assert all(there for (stage, _), keys in lookup.seen.items() if stage not in ("train", "evaluate") for there in keys.values())
