"""The log says how a command ended, so that status tells Ctrl-C from an error, and a full disk that stops the log does not hide the error."""

import json
import os
from pathlib import Path

import pytest

from curate import fault
from curate.errors import DiskError, Interrupted
from curate.pipelines.status import read_events
from curate.progress import Progress
from curate.store import Workspace
from tests.pipelines.standing import BEGAN, seen, told


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a run that was started a while ago."""
    directory = tmp_path / "runs" / "small"
    directory.mkdir(parents=True)
    (directory / "recipe.yaml").touch()
    os.utime(directory / "recipe.yaml", (BEGAN, BEGAN))
    return directory


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (KeyboardInterrupt(), "interrupted", "small: interrupted after"),
        (Interrupted("interrupted: run again"), "interrupted", "small: interrupted after"),
        (DiskError("cannot write x: No space left on device; free the disk"), "failed", "error: cannot write x: No space left on device; free the disk"),
        (RuntimeError("a bug"), "failed", "error: RuntimeError: a bug"),
    ],
)
def test_a_run_that_was_interrupted_is_told_from_one_that_failed(place: Path, error: BaseException, state: str, said: str) -> None:
    os.utime(place / "recipe.yaml")
    progress = Progress(place / "log.jsonl", quiet=True)
    with pytest.raises(type(error)), progress.noting_end():
        progress.stage("train", "9 models")
        raise error
    progress.close()
    found = seen(place)
    assert found.state == state and said in told(found) and "run the same command again" in told(found)
    assert ("error:" in told(found)) == (state == "failed")


def test_a_new_start_is_not_told_by_how_the_last_one_ended(place: Path) -> None:
    (place / "log.jsonl").write_text(json.dumps({"time": BEGAN + 30, "event": "end", "how": "error", "text": "old"}) + "\n")
    assert seen(place).state == "failed"
    os.utime(place / "recipe.yaml", (BEGAN + 100, BEGAN + 100))
    assert seen(place).state == "stopped" and "old" not in told(seen(place))


def test_an_artifact_that_is_being_finished_is_shown_under_its_key(place: Path) -> None:
    closed = place.parents[1] / "store" / ".part" / "features-ab.closed"
    closed.mkdir(parents=True)
    Workspace(closed).write("manifest.json", b"{}")
    assert [part.key for part in seen(place).unfinished] == ["features-ab"]


def test_a_log_on_a_full_disk_ends_and_the_run_goes_on_to_its_own_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path / "log.jsonl")
    fault.arm(fault.Fault(2, "ENOSPC", lasting=True))
    try:
        with pytest.raises(DiskError, match="the real one"), progress.noting_end():
            progress.stage("train", "9 models")
            progress.stage("train", "10 models")
            raise DiskError("the real one")
    finally:
        fault.arm(None)
    progress.close()
    said = capsys.readouterr().err
    assert said.count("the run goes on without its log") == 1 and '"text": "the real one"' in said
    assert [event.label for event in read_events(tmp_path / "log.jsonl")] == ["9 models"]
