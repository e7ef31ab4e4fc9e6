"""Training curves go where they are asked for, through the libraries' own files."""

from pathlib import Path

import pytest

from curate.errors import ConfigError
from curate.training.reporters import reporters, reporting


def test_tensorboard_reads_every_step_back(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with reporting(reporters(["tensorboard"]), tmp_path, "less-rr 5% seed 0") as report:
        for step in range(1, 4):
            report(step, {"loss": 1.0 / step, "learning_rate": 0.1})
    with reporting(("tensorboard",), tmp_path, "less-rr 5% seed 0") as report:  # a resumed run
        report(4, {"loss": 0.25})
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "less-rr 5% seed 0"))
    read.Reload()
    assert [(event.step, round(event.value, 6)) for event in read.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 0.333333), (4, 0.25)]
    assert [event.step for event in read.Scalars("train/learning_rate")] == [1, 2, 3]


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    with reporting((), tmp_path, "less-rr") as report:
        report(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("names", "told"), [(["comet"], "comet is unknown; there are tensorboard, wandb"), (["wandb"], r"pip install 'curate\[wandb\]'")])
def test_an_unknown_or_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch, names: list[str], told: str) -> None:
    monkeypatch.setattr("curate.training.reporters.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=told):
        reporters(names)
