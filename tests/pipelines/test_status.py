"""Status sees a run from outside: going on, killed, stopped or finished, and what its log says, also where a kill tore it."""

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ClusterError, DataError
from curate.locks import is_held
from curate.pipelines.plan_file import recipe_digest
from curate.pipelines.status import read_events, status
from curate.pipelines.summarise import recipe_text
from curate.progress import Progress
from curate.recipe import read_recipe
from curate.report.planned import Plan, Planned
from curate.report.results import Cell, DataSummary, Results
from curate.report.standing import Standing
from curate.store import Workspace, locked
from tests.pipelines.standing import BEGAN, seen, told

Event = dict[str, Any]


def stage(after: float, name: str, label: str) -> Event:
    return {"time": BEGAN + after, "event": "stage", "stage": name, "label": label}


def tasks(after: float, label: str, done: int, total: int) -> Event:
    return {"time": BEGAN + after, "event": "progress", "label": label, "done": done, "total": total}


SCORING = [
    stage(1, "examples", "pool"),
    stage(3, "warmup", "warm-up"),
    stage(8, "features", "hidden (pool)"),
    stage(8.001, "features", "loss (pool)"),
    tasks(8.002, "hidden, loss (pool)", 0, 4),
    tasks(28.002, "hidden, loss (pool)", 1, 4),
]
TRAINING = [*SCORING, stage(100, "selection", "hard 20 seed 0"), stage(110, "train", "9 models"), tasks(111, "train and evaluate", 0, 6)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a run that was started, with nothing in its log."""
    directory = tmp_path / "runs" / "small"
    directory.mkdir(parents=True)
    touch(directory / "recipe.yaml", 0)
    return directory


def touch(file: Path, after: float, text: str | None = "") -> None:
    if text is not None:
        file.write_text(text)
    os.utime(file, (BEGAN + after, BEGAN + after))


def log(directory: Path, events: list[Event], torn: str = "") -> None:
    (directory / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + torn)


def finish(directory: Path, after: float, cells: list[Cell]) -> None:
    found = Results(
        name="small", version="0", created="", seconds=41.5, pool=DataSummary(rows_in=1, used=1, quarantined={}), cells=cells, warnings=["one seed"]
    )
    touch(directory / "run.json", after, "{}")
    touch(directory / "results.json", after, found.model_dump_json())


def opened(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder)


def _work(directory: Path, ready: Any) -> None:
    with locked(directory / ".lock", wait=False):
        os.utime(directory / "recipe.yaml")
        progress = Progress(directory / "log.jsonl", quiet=True)
        progress.stage("train", "9 models")
        progress.advance("train and evaluate", 0, 6)
        with locked(directory.parents[1] / "store" / ".part" / "features-ab.lock", wait=False):
            opened(directory.parents[1] / "store" / ".part" / "features-ab").commit("0.parquet", b"rows", {})
            ready.set()
            time.sleep(60)


@contextmanager
def running(directory: Path) -> Iterator[int]:
    """Another process that holds the run; its number."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_work, args=(directory, ready))
    worker.start()
    try:
        assert ready.wait(10)
        yield worker.pid or 0
    finally:
        worker.kill()
        worker.join(10)


def test_a_run_in_another_process_goes_on_until_it_is_killed(place: Path) -> None:
    with running(place) as process:
        going = seen(place)
        assert going.state == "going on" and going.seconds < 30 and going.cells is not None
        assert (going.cells.total, going.cells.done, going.cells.failed) == (9, 3, None)
        assert [(part.key, part.shards, part.building) for part in going.unfinished] == [("features-ab", 1, True)]
        with pytest.raises(ClusterError), locked(place / ".lock", wait=False):
            pass
        os.kill(process, signal.SIGKILL)
    killed = seen(place)
    assert killed.state == "killed"
    assert [(part.key, part.building) for part in killed.unfinished] == [("features-ab", False)]
    assert "run the same command again" in told(killed) and "ended in: train, 9 models" in told(killed)
    with locked(place / ".lock", wait=False):  # looking at it took nothing away
        pass
    assert seen(place).state == "stopped"


def test_a_run_that_goes_on_is_said_to_have_been_silent_since_its_last_line(place: Path) -> None:
    log(place, SCORING)
    with open(place / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert is_held(place / ".lock")
        found = seen(place)
    assert found.state == "going on" and abs(found.silent - (time.time() - BEGAN - 28.002)) < 5
    assert not is_held(place / ".lock") and not is_held(place / "absent")


def test_stages_have_the_time_that_passed_in_them_and_what_is_made_in_one_go_is_not_done(place: Path) -> None:
    log(place, SCORING)
    found = seen(place)
    assert [(one.stage, one.done, one.seconds) for one in found.stages] == [("examples", 1, 2.0), ("warmup", 1, 5.0)]
    assert found.current is not None and found.current.labels == ["hidden (pool)", "loss (pool)"]
    assert (found.current.done, found.current.total, found.current.since) == (1, 4, "2023-11-14T22:13:28+00:00")
    assert abs(found.current.seconds - 20.002) < 0.01 and abs(found.seconds - 28.002) < 0.01
    assert found.cells is None and found.left is None


def test_a_finished_run_has_the_cells_and_warnings_of_its_report(place: Path) -> None:
    log(place, [*TRAINING, tasks(130, "train and evaluate", 6, 6), stage(500, "retrain", "20 models of another command")])
    finish(place, 131, [Cell(arm="a", budget="1", seed=0), Cell(arm="b", budget="1", seed=0, failed="it diverged")])
    found = seen(place)
    assert found.state == "finished" and found.seconds == 41.5 and found.current is None and found.left is None
    assert found.cells is not None and (found.cells.total, found.cells.done, found.cells.failed) == (2, 1, 1)
    assert [one.stage for one in found.stages] == ["examples", "warmup", "features", "selection", "train"]
    assert [one.done for one in found.stages] == [1, 1, 2, 1, 9]
    assert found.warnings == ["one seed"] and "warning: one seed" in told(found)


def test_a_report_of_an_earlier_start_does_not_finish_a_later_one(place: Path) -> None:
    finish(place, 131, [])
    log(place, [*TRAINING, stage(1001, "examples", "pool")])
    touch(place / "recipe.yaml", 1000, None)
    found = seen(place)
    assert found.state == "stopped" and found.stages == [] and found.cells is None
    assert found.current is not None and found.current.labels == ["pool"] and abs(found.seconds - 1) < 0.01


def test_a_record_without_its_report_is_no_finished_run(place: Path) -> None:
    finish(place, 131, [])
    touch(place / "run.json", 140)
    assert seen(place).state == "stopped"
    assert "small: stopped after 0.0 s" in told(seen(place))


@pytest.mark.parametrize("torn", ['{"time": 1700000029.0, "ev', "\x00\x00\x00", '{"time": 1700000029.0, "event": "progress", "done": "x"}'])
def test_a_torn_last_line_is_passed_over(place: Path, torn: str) -> None:
    log(place, SCORING, torn)
    assert len(read_events(place / "log.jsonl")) == len(SCORING)
    assert seen(place).stages[-1].stage == "warmup"


def test_a_line_that_was_written_behind_a_torn_one_counts(place: Path) -> None:
    log(place, SCORING[:2], '{"time": 1700000029.0, "event": "mess' + json.dumps(SCORING[2]) + "\n")
    assert [event.label for event in read_events(place / "log.jsonl")] == ["pool", "warm-up", "hidden (pool)"]


def test_no_such_run_is_one_line_that_names_those_there_are(place: Path) -> None:
    log(place, SCORING)
    with pytest.raises(DataError, match=r"there is no run in .*other; runs in .*runs: small; --runs") as raised:
        seen(place.with_name("other"))
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="holds no run at all"):
        status(place / "a" / "b", place)


def test_looking_changes_nothing(place: Path) -> None:
    log(place, SCORING)
    opened(place.parents[1] / "store" / ".part" / "features-ab").commit("0.parquet", b"rows", {})
    (place / ".lock").touch()

    def everything() -> dict[str, tuple[int, int]]:
        return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in place.parents[1].rglob("*")}

    before = everything()
    assert seen(place).state == "killed"
    assert everything() == before


def test_control_characters_of_a_log_do_not_reach_the_terminal(place: Path) -> None:
    log(place, [stage(1, "examples", "\x1b[31mpool"), {"time": BEGAN + 2, "event": "message", "text": "\x1b]0;title\x07"}])
    assert "\x1b" not in told(seen(place)) and "said: " in told(seen(place))


def plan(directory: Path, recipe: Path, digest: str | None = None) -> None:
    typed = read_recipe(recipe, ())
    touch(directory / "recipe.yaml", 0, recipe_text(typed))
    lines = [
        Planned(stage="warmup", what="warm-up", labels=["warm-up"], count=1, seconds=7.0),
        Planned(stage="features", what="hidden", labels=["hidden (pool)"], count=1, seconds=40.0, at_once=2),
        Planned(stage="features", what="target", labels=["hidden (target)"], count=1, seconds=3.0),
        Planned(stage="selection", what="hard", labels=["hard 20 seed 0", "hard 20 seed 1"], count=2, seconds=10.0),
        Planned(stage="train", what="20", labels=["hard 20 seed 0"], count=8, found=["x"], seconds=70.0),
        Planned(stage="evaluate", what="all", labels=["hard 20 seed 0"], count=8, seconds=14.0, unknown="" if digest is None else "why"),
    ]
    made = Plan(recipe="small", version="0", digest=digest or recipe_digest(typed), device="cpu", workers=2, planned=lines)
    (directory / "plan.json").write_text(made.model_dump_json())


def test_what_is_left_is_the_pace_of_what_goes_on_and_the_plan_of_what_comes_after(place: Path, recipe: Path) -> None:
    plan(place, recipe)
    log(place, SCORING)
    assert seen(place).left == pytest.approx(20 * 3 + 3 + 10 + 70 + 14, abs=0.01)
    log(place, SCORING[:-1])  # nothing is done of it, so it takes as long as planned
    assert seen(place).left == pytest.approx(40 / 2 + 3 + 10 + 70 + 14, abs=0.01)
    log(place, TRAINING)  # six of the seven models that were planned
    assert seen(place).left == pytest.approx((70 + 14) * 6 / 7, abs=0.01)
    log(place, [*TRAINING, tasks(131, "train and evaluate", 2, 6)])
    assert seen(place).left == pytest.approx(10 * 4, abs=0.01)
    found = seen(place)
    assert found.cells is not None and (found.cells.done, found.cells.total) == (5, 9) and "left: about 40.0 s" in told(found)


def test_a_plan_of_another_recipe_foretells_nothing_but_training_has_its_own_pace(place: Path, recipe: Path) -> None:
    plan(place, recipe, digest="another")
    log(place, SCORING)
    assert seen(place).left is None
    log(place, [*TRAINING, tasks(131, "train and evaluate", 2, 6)])
    assert seen(place).left == pytest.approx(40, abs=0.01)


def test_status_loads_no_tensor_library_and_its_document_reads_back(place: Path, recipe: Path) -> None:
    plan(place, recipe)
    log(place, SCORING)
    code = (
        "import sys; from pathlib import Path; from curate.pipelines.status import status; import curate.report.standing\n"
        "print(status(Path(sys.argv[1]), Path(sys.argv[2])).model_dump_json())\n"
        "print(sorted({'torch', 'transformers', 'dask', 'pandas', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place), str(place.parents[1] / "store")], capture_output=True, text=True, check=True)
    document, loaded = done.stdout.splitlines()
    assert loaded == "[]" and Standing.model_validate_json(document).stages == seen(place).stages
