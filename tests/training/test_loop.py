"""The loop with everything on: what it saves, what it skips, and that no death of the process changes a bit."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.core import Row
from curate.errors import NumericError
from curate.model import ModelHandle, fresh, resolve
from curate.settings import Lora, ModelSpec, Optimizer
from curate.store import Workspace
from curate.train import HeldOut, TrainingLog, TrainingSet, plan_steps, train, trained_tensors
from curate.training.order import Step, supervised_tokens, walk
from curate.training.pruning import Infobatch, Pruning, Seta
from tests.training.sets import training_set

SETTINGS = Optimizer(learning_rate=2e-3, epochs=3, batch_size=4, micro_batch_tokens=40)
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, dropout=0.2)), tiny)


@pytest.fixture(scope="module")
def plain(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=4)), tiny)


class Killed(Exception):
    """Stands for the death of the process."""


def attempt(handle: ModelHandle, folder: Path, *, settings: Optimizer = SETTINGS, death: int | None = None, **options: Any) -> tuple[Tensors, TrainingLog]:
    def die(step: int, optimizer: object) -> None:
        if step == death:
            raise Killed

    data = training_set(12)
    model = fresh(handle, seed=3)
    plan = plan_steps(data, settings, seed=7)
    folder.mkdir(exist_ok=True)
    log = train(model, data, plan, settings, 7, Workspace(folder), save_every=1, after_step=die, **options)
    return {name: tensor.clone() for name, tensor in trained_tensors(model).items()}, log


EVERYTHING: dict[str, dict[str, Any]] = {
    "plain": {},
    "infobatch": {"pruning": Infobatch(ratio=0.5)},
    "seta": {"pruning": Seta(groups=3, window=0.67, drop=0.2)},
    "validated": {"held_out": HeldOut(training_set(4, first=50), every=2, patience=2)},
    "packed": {"settings": SETTINGS.model_copy(update={"packing": True})},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_run_killed_after_every_single_step_ends_with_the_same_bits(handle: ModelHandle, tmp_path: Path, name: str) -> None:
    options = EVERYTHING[name]
    whole, log = attempt(handle, tmp_path / "whole", **options)
    (tmp_path / "torn").mkdir()
    for step in range(1, log.steps + 1):
        with pytest.raises(Killed):
            attempt(handle, tmp_path / "torn", death=step, **options)
    resumed, again = attempt(handle, tmp_path / "torn", **options)
    assert again == log
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert not list((tmp_path / "torn").iterdir())


def steps_of(pruning: Pruning | None, losses: Callable[[int], float], epochs: int = 3) -> tuple[TrainingSet, list[Step]]:
    """The steps of a run in which row i always has the loss losses(i)."""
    data = training_set(12)
    settings = SETTINGS.model_copy(update={"epochs": epochs})
    seen = np.full(len(data), np.nan, np.float32)
    found = []
    for step in walk(data, plan_steps(data, settings, 7), settings, 7, pruning, seen):
        found.append(step)
        seen[step.rows] = [losses(int(row)) for row in step.rows]
    return data, found


def test_without_pruning_every_row_is_seen_as_often_as_there_are_epochs() -> None:
    _, steps = steps_of(None, float)
    assert set(Counter(np.concatenate([step.rows for step in steps]).tolist()).values()) == {3}


def test_infobatch_skips_only_learned_rows_and_divides_by_a_constant() -> None:
    data, steps = steps_of(Infobatch(ratio=0.9, anneal=0), lambda row: 0.1 if row < 6 else 5.0)
    times = Counter(np.concatenate([step.rows for step in steps]).tolist())
    assert all(times[row] == 3 for row in range(6, 12))
    assert sum(times[row] for row in range(6)) < 18
    usual = 4 * supervised_tokens(data.rows) / 12
    assert {step.denominator for step in steps} == {usual}
    later = [(int(row), float(factor)) for step in steps[3:] for row, factor in zip(step.rows, step.factors, strict=True)]
    assert later and all(factor == pytest.approx(10.0 if row < 6 else 1.0) for row, factor in later)


def test_a_pruned_run_ends_where_the_plan_does_and_its_rate_falls_as_far() -> None:
    _, steps = steps_of(Infobatch(ratio=0.9, anneal=0), lambda row: 0.1 if row < 6 else 5.0)
    positions = [step.position for step in steps]
    assert positions == sorted(positions) and positions[0] == 0 and 7 <= positions[-1] < 9


def test_pruning_saves_the_tokens_that_the_log_says(handle: ModelHandle, tmp_path: Path) -> None:
    _, whole = attempt(handle, tmp_path / "a")
    _, pruned = attempt(handle, tmp_path / "b", pruning=Infobatch(ratio=0.9, anneal=0))
    assert whole.tokens == whole.planned_tokens == pruned.planned_tokens > pruned.tokens


def test_the_weights_of_the_lowest_validation_loss_are_kept_and_training_stops(plain: ModelHandle, tmp_path: Path) -> None:
    held_out = HeldOut(training_set(4, first=50), every=1, patience=2)
    settings = SETTINGS.model_copy(update={"learning_rate": 0.05, "epochs": 8, "schedule": "constant"})
    kept, log = attempt(plain, tmp_path, settings=settings, held_out=held_out)
    lowest = min(range(len(log.validation)), key=lambda i: log.validation[i][1])
    assert log.best_step == log.validation[lowest][0] == log.steps - 2 < 24
    assert log.tokens < log.planned_tokens
    stopped = settings.model_copy(update={})
    data, model = training_set(12), fresh(plain, seed=3)
    at_best: Tensors = {}

    def look(step: int, optimizer: object) -> None:
        if step == log.best_step:
            at_best.update({name: tensor.clone() for name, tensor in trained_tensors(model).items()})

    train(model, data, plan_steps(data, stopped, 7), stopped, 7, Workspace(tmp_path / "again"), save_every=99, after_step=look)
    assert all(torch.equal(kept[name], tensor) for name, tensor in at_best.items())


WAYS: dict[str, dict[str, Any]] = {
    "packed": {"packing": True},
    "chunked": {"chunk_tokens": 16, "micro_batch_tokens": 60},
    "checkpointed": {"gradient_checkpointing": True},
    "packed and checkpointed": {"packing": True, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_through_the_model_trains_the_same(plain: ModelHandle, tmp_path: Path, way: str) -> None:
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-4})  # where rounding is not blown up by Adam's first steps
    usual, log = attempt(plain, tmp_path / "a", settings=settings)
    other, same = attempt(plain, tmp_path / "b", settings=settings.model_copy(update=WAYS[way]))
    assert same.losses == pytest.approx(log.losses, rel=1e-5)
    moved = sum(float((tensor - fresh(plain, seed=3).names[name].detach()).norm()) for name, tensor in list(usual.items())[:2])
    assert moved > 0
    for name, tensor in usual.items():
        assert torch.allclose(other[name], tensor, atol=5e-6), name


def test_bfloat16_products_leave_weights_and_moments_in_float32(plain: ModelHandle, tmp_path: Path) -> None:
    usual, log = attempt(plain, tmp_path / "a")
    mixed, other = attempt(plain, tmp_path / "b", settings=SETTINGS.model_copy(update={"precision": "bfloat16"}))
    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32}
    assert other.losses != log.losses and other.losses == pytest.approx(log.losses, rel=0.02)


@pytest.mark.parametrize("lora", [Lora(r=4, dora=True), Lora(r=4, rslora=True), Lora(r=4, alpha=8.0)])
def test_adapters_of_every_kind_are_trained_and_put_back(tiny: Path, tmp_path: Path, lora: Lora) -> None:
    handle = resolve(ModelSpec(path=str(tiny), lora=lora), tiny)
    trained, log = attempt(handle, tmp_path)
    assert log.losses[-1] < log.losses[0]
    assert any("lora_magnitude_vector" in name for name in trained) == lora.dora
    assert not any(".default" in name for name in trained)


def test_rank_stabilised_adapters_scale_by_the_root_of_the_rank(tiny: Path) -> None:
    model = fresh(resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, alpha=8.0, rslora=True)), tiny)).model
    scales = [module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")]
    assert scales and set(scales) == {8.0 / 2}


def test_a_report_hears_of_every_step(plain: ModelHandle, tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, float]]] = []
    _, log = attempt(plain, tmp_path, report=lambda step, numbers: heard.append((step, dict(numbers))))
    assert [step for step, _ in heard] == list(range(1, log.steps + 1))
    assert [numbers["loss"] for _, numbers in heard] == log.losses


def test_a_validation_loss_that_is_not_finite_stops_the_run(plain: ModelHandle, tmp_path: Path) -> None:
    rows = training_set(2, first=9)
    held_out = HeldOut(TrainingSet(rows.ids, [rows.rows[0], Row(rows.rows[1].input_ids, rows.rows[1].supervised)], rows.lengths, rows.weights), 1, 1)
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "warmup_ratio": 0.0})
    with pytest.raises(NumericError, match="lower the learning rate"):
        attempt(plain, tmp_path, settings=settings, held_out=held_out)
