"""The whole job: one command, every arm beside its baselines, the same bytes for any number of workers and after any kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Command = Callable[..., int]


def hashes(store: Path, stages: tuple[str, ...] = ("features", "selection")) -> dict[str, Any]:
    """The bytes of every artifact of these stages, by key."""
    found = {}
    for path in store.iterdir():
        if path.name.startswith(stages):
            found[path.name] = json.loads((path / "manifest.json").read_bytes())["files"]
    return found


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store and the runs of one finished experiment."""
    folder = tmp_path_factory.mktemp("finished")
    command = [sys.executable, "-m", "curate", "run", str(recipe), "--store", str(folder / "store"), "--runs", str(folder / "runs"), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rr" in done.stdout and "random" in done.stdout
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / "small" / "results.json").read_bytes())
    return found


def test_every_arm_is_trained_and_evaluated_beside_the_baselines(finished: Path) -> None:
    cells = {(cell["arm"], cell["budget"], cell["seed"]) for cell in results(finished)["cells"]}
    wanted = {(arm, budget, seed) for arm in ("random", "full", "rr", "hard") for budget in ("20", "400 tokens") for seed in (0, 1)}
    assert cells == wanted | {("zero_shot", "", None)}
    for comparison in results(finished)["comparisons"]:
        assert (comparison["verdict"] == "") == (comparison["arm"] == "random")


def test_rows_that_were_set_aside_are_named_in_the_results(curate: Command, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["model.max_length=26", "hygiene.quarantine_limit=60%", "evaluate.1.shots=0"]
    assert curate("run", recipe, *limits, "--store", tmp_path / "store", "--runs", tmp_path / "runs", "--until", "prepare", "--json", "--quiet") == 0
    printed = json.loads(capsys.readouterr().out)
    named = [row for row in printed["quarantined"] if row["part"] == "pool"]
    assert len({row["id"] for row in named}) == printed["pool"]["quarantined"]["too_long"] == printed["pool"]["rows_in"] - printed["pool"]["used"] > 0
    assert all(row["reason"] == "too_long" and "at most 26" in row["detail"] for row in named)


def test_selections_keep_their_budgets_and_count_what_they_took(finished: Path) -> None:
    for row in results(finished)["selections"]:
        assert row["rows"] == 20 if row["budget"] == "20" else 300 < row["tokens"] <= 400
        assert sum(row["groups"].values()) == row["rows"]


def test_arms_are_trained_on_about_as_many_tokens(finished: Path) -> None:
    for budget in ("20", "400 tokens"):
        tokens = [cell["train_tokens"] for cell in results(finished)["cells"] if cell["budget"] == budget]
        assert max(tokens) - min(tokens) < 8 * 96  # at most a batch


def test_item_scores_average_to_the_reported_mean(finished: Path) -> None:
    for path in (finished / "store").glob("evaluation-*"):
        lines = [json.loads(line) for line in (path / "items.jsonl").read_bytes().splitlines()]
        summary = json.loads((path / "manifest.json").read_bytes())["summary"]
        assert len({line["id"] for line in lines}) == len(lines) == summary["n"]
        assert np.mean([line["score"] for line in lines]) == pytest.approx(summary["mean"])


def test_the_same_command_again_computes_nothing(curate: Command, recipe: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "store").rglob("*") if path.is_file()}
    assert curate("run", recipe, "--store", finished / "store", "--runs", finished / "runs", "--workers", 1, "--quiet") == 0
    after = {path: path.stat().st_mtime_ns for path in (finished / "store").rglob("*") if path.is_file()}
    assert after == before
    assert not list(finished.rglob("*.lock"))


def test_verify_passes_and_finds_a_flipped_bit(curate: Command, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert curate("verify", "small", "--store", copy / "store", "--runs", copy / "runs") == 0
    shard = next((copy / "store").glob("features-*/shard-000000.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert curate("verify", "small", "--store", copy / "store", "--runs", copy / "runs") == 8
    assert f"{shard.parent.name}/{shard.name} differs from its recorded hash" in capsys.readouterr().err


def test_the_exported_rows_are_the_selection(curate: Command, finished: Path, tmp_path: Path) -> None:
    import datasets

    where = ["--store", finished / "store", "--runs", finished / "runs"]
    assert curate("export", "small", "rr", tmp_path / "out", "--budget", "20", "--seed", "1", *where) == 0
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    key = next(row["key"] for row in results(finished)["selections"] if (row["arm"], row["budget"], row["seed"]) == ("rr", "20", 1))
    import pyarrow.parquet as pq

    assert rows["id"] == pq.read_table(finished / "store" / key / "selection.parquet")["id"].to_pylist()
    assert set(rows.column_names) >= {"prompt", "completion", "kind", "rank", "weight"}
    assert curate("export", "small", "rr", tmp_path / "other", *where) == 9  # which budget?
    assert curate("export", "small", "nobody", tmp_path / "other", *where) == 9


def test_two_workers_write_the_same_bytes_as_one(curate: Command, recipe: Path, finished: Path, tmp_path: Path) -> None:
    assert curate("run", recipe, "--store", tmp_path / "store", "--runs", tmp_path / "runs", "--workers", 2, "--until", "select", "--quiet") == 0
    assert hashes(tmp_path / "store") == {key: files for key, files in hashes(finished / "store").items()}


def test_a_run_killed_while_scoring_ends_with_the_same_bytes_and_repeats_at_most_one_shard(recipe: Path, finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "curate", "run", str(recipe), "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command += ["--workers", "1", "--until", "select"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "store").glob(".part/features-*/*.json")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / ".part").glob("features-*/shard-*.safetensors.json")}
    assert kept and not list((tmp_path / "store").glob("features-*"))
    assert subprocess.run(command, capture_output=True, timeout=600, check=False).returncode == 0
    assert hashes(tmp_path / "store") == hashes(finished / "store")
    for path, when in kept.items():
        assert (tmp_path / "store" / path.parent.name / path.name).stat().st_mtime_ns == when  # not computed again


def test_an_interrupted_run_says_so_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "curate", "run", str(recipe), "--store", str(tmp_path / "store"), "--runs", str(tmp_path / "runs")]
    command += ["--workers", "2", "--until", "select"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "store").glob(".part/warmup-*")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be interrupted"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # A shell says 130 of both: Python ends by the signal itself where it struck inside a library's `exec` of a text, handled or not.
    assert process.returncode in (130, -signal.SIGINT), said
    assert said.splitlines()[-1].startswith("interrupted: everything finished so far is kept")
    assert "Traceback" not in said
    assert subprocess.run(command, capture_output=True, timeout=600, check=False).returncode == 0


def test_two_drivers_on_one_run_are_refused(curate: Command, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from curate.store import locked

    with locked(tmp_path / "runs" / "small" / ".lock", wait=False):
        assert curate("run", recipe, "--store", tmp_path / "store", "--runs", tmp_path / "runs", "--quiet") == 6
    assert "in use by another curate process" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
