"""Training that is killed goes on with the same rows and ends with the same bits; a loop that forgets something is caught."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import curate.train
from campaign.train_resume import Ground, Reference, swept, trial, unlike

ROWS = 12  # nine steps in three epochs


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground.laid(tmp_path_factory.mktemp("training"), 0, ROWS)


def in_folder(ground: Ground, folder: Path) -> Ground:
    return Ground(folder, ground.examples, ground.rows, ground.seed)


pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.mark.parametrize("way", ["packed", "warm-up"])
def test_a_run_that_is_killed_goes_on_with_the_same_rows_and_ends_with_the_same_bits(ground: Ground, tmp_path: Path, way: str) -> None:
    found = swept(in_folder(ground, tmp_path), way, 3, 1, lambda line: None)
    assert found["failures"] == []
    assert found["steps"] == 9 and found["landed"] == found["planned"] == found["passed"] == 4


def test_a_kill_at_a_step_that_never_comes_has_not_landed(ground: Ground, tmp_path: Path) -> None:
    here = in_folder(ground, tmp_path)
    one = trial(here, "plain", 99, Reference.of(here, "plain"))
    assert not one.landed and one.wrong == []


def forgetful(optimizer: torch.optim.AdamW, *names: str) -> None:
    for state in optimizer.state.values():
        for name in names:
            state[name].zero_()


BUGS = ("moments", "place", "dropout")


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_caught(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    restore = curate.train.restore_progress

    def restored(model: Any, optimizer: Any, workspace: Any) -> Any:
        progress = restore(model, optimizer, workspace)
        if bug == "moments" and progress.losses:
            forgetful(optimizer, "exp_avg", "exp_avg_sq")
        if bug == "place" and progress.losses:
            progress.losses.pop()  # one step is taken twice
        return progress

    monkeypatch.setattr(curate.train, "restore_progress", restored)
    if bug == "dropout":
        monkeypatch.setattr(curate.train, "_dropout_seed", lambda seed, step, part: os.getpid())
    here = in_folder(ground, tmp_path)
    one = trial(here, "plain", 4, Reference.of(here, "plain"))
    assert one.landed and one.wrong


def test_rows_in_another_order_left_out_or_seen_twice_and_lost_steps_are_told_apart() -> None:
    expected = [["a", "b"], ["c", "d"], ["e", "f"]]
    steps = [(1, number, rows) for number, rows in enumerate(expected)]
    assert unlike(steps, expected, 1) == []
    assert unlike([steps[0], (2, 0, ["a", "b"]), (2, 1, ["c", "d"]), (2, 2, ["e", "f"])], expected, 1) == []
    assert any("saw" in line for line in unlike([steps[0], (1, 1, ["d", "c"]), steps[2]], expected, 1))
    assert any("seen 0 times" in line for line in unlike(steps[:2], expected, 1))
    assert any("seen 2 times" in line for line in unlike([*steps, (1, 3, ["a", "b"])], expected, 1))
    lost = [steps[0], steps[1], *((2, number, rows) for number, rows in enumerate(expected))]
    assert any("went on with step 1" in line for line in unlike(lost, expected, 1)) and unlike(lost, expected, 7) == []
