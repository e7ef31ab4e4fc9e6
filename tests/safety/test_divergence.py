"""P10: no training whose loss, gradients or weights stop being finite ends well: alone, after a kill, with validation, in a warm-up, or in a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import train as module
from curate.errors import NumericError
from curate.model import ModelHandle, fresh, resolve
from curate.settings import Lora, ModelSpec, Optimizer
from curate.store import Workspace
from curate.train import HeldOut, plan_steps, train
from tests.training.sets import training_set

ONE_STEP = Optimizer(epochs=1, batch_size=12, micro_batch_tokens=40)
_take = module._Loop.take


def ruined(loop: Any, *arguments: Any) -> Any:
    """A step whose loss and gradient are fine, and that leaves weights beyond float32."""
    taken = _take(loop, *arguments)
    with torch.no_grad():
        next(iter(loop.model.names.values())).fill_(float("inf"))
    return taken


@pytest.fixture(autouse=True)
def ruinous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Loop, "take", ruined)


@pytest.fixture(scope="module")
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=2)), tiny)


def attempt(handle: ModelHandle, folder: Path, settings: Optimizer = ONE_STEP, *, weight: float = 1.0, **options: Any) -> None:
    data, model = training_set(12), fresh(handle, seed=3)
    data.weights[:] = weight
    folder.mkdir(exist_ok=True)
    train(model, data, plan_steps(data, settings, seed=7), settings, 7, Workspace(folder), save_every=1, **options)


def test_weights_that_only_the_last_step_ruins_are_no_result(handle: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match=r"training left .* with numbers that are not finite; lower the learning rate \(now 0\.0002\)"):
        attempt(handle, tmp_path / "run")


def test_a_killed_run_that_saved_ruined_weights_does_not_end_well_either(handle: ModelHandle, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "_check_finite", die)  # the process dies after its last checkpoint, before weights are looked at
        attempt(handle, tmp_path / "run")
    with pytest.raises(NumericError, match="training left"):
        attempt(handle, tmp_path / "run")


def test_a_step_that_ruins_the_weights_stops_at_the_next_one(handle: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match=r"training diverged at step 2 \(loss nan"):
        attempt(handle, tmp_path / "run", ONE_STEP.model_copy(update={"epochs": 2}))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_of_rows_that_are_not_finite_are_no_training(handle: ModelHandle, tmp_path: Path, weight: float) -> None:
    with pytest.raises(NumericError, match="training diverged at step 1"), np.errstate(invalid="ignore"):
        attempt(handle, tmp_path / "run", weight=weight)


def test_a_validation_of_ruined_weights_stops_the_run(handle: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match="the validation loss after step 1 is nan"):
        attempt(handle, tmp_path / "run", held_out=HeldOut(training_set(4, first=50), every=1, patience=2))


RECIPE = """name: bad
pool: {{synthetic: pool, rows: 20}}
target: {{rare: {{synthetic: target, rows: 4}}}}
model: {{path: {model}, max_length: 128, lora: {{r: 2}}}}
warmup: {{fraction: 100%, epochs: 1, batch_size: 64, warmup_ratio: 0.0}}
features: {{f: {feature}}}
arms: {{a: {{{slot}: f, selector: {selector}}}}}
budgets: [4]
seeds: [0]
baselines: []
train: {{epochs: 1, batch_size: 64, match: epochs, warmup_ratio: 0.0}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 4}}}}
"""


@pytest.mark.parametrize(
    ("feature", "slot", "selector"), [("bm25", "similarity", "round_robin"), ("less", "vectors", "round_robin")], ids=["cell", "warm-up"]
)
def test_a_run_whose_last_step_ruins_the_weights_ends_with_five_each_time(
    command_line: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: Path,
    tmp_path: Path,
    feature: str,
    slot: str,
    selector: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    Path("bad.yaml").write_text(RECIPE.format(model=tiny, feature=feature, slot=slot, selector=selector))
    for _ in range(2):  # the second time it meets what the first one left
        assert command_line("run", "bad.yaml", "--quiet", "--workers", "1", "--device", "cpu") == 5
        said = capsys.readouterr().err
        assert "with numbers that are not finite; lower the learning rate" in said and "Traceback" not in said
    assert not list(Path("store").glob("checkpoint-*")) and not list(Path("store").glob("warmup-*"))
