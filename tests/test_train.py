"""Training: the loss it minimises, the order it visits rows in, and a resume that changes no bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.errors import NumericError
from curate.model import LanguageModel, ModelHandle, fresh, resolve, token_losses
from curate.settings import Lora, ModelSpec, Optimizer
from curate.store import Workspace
from curate.train import TrainingSet, learning_rate, plan_steps, train, trained_tensors
from tests.training.sets import training_set

SETTINGS = Optimizer(learning_rate=1e-3, epochs=2, batch_size=4, micro_batch_tokens=40)


@pytest.fixture(scope="module")
def handle(tiny: Path) -> ModelHandle:
    return resolve(ModelSpec(path=str(tiny), lora=Lora(r=4, dropout=0.2)), tiny)


def test_every_epoch_visits_every_row_once_and_in_another_order() -> None:
    plan = plan_steps(training_set(), SETTINGS, seed=5)
    visited = np.concatenate(plan)
    assert sorted(visited[:10]) == sorted(visited[10:]) == list(range(10))
    assert list(visited[:10]) != list(visited[10:])


def test_a_plan_by_tokens_stops_at_the_first_batch_that_reaches_them() -> None:
    data = training_set()
    plan = plan_steps(data, SETTINGS, seed=5, tokens=300)
    seen = [int(data.lengths[rows].sum()) for rows in plan]
    assert sum(seen) >= 300 > sum(seen[:-1])


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    settings = Optimizer(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 and rates[-1] == pytest.approx(1 / 90)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def first_step(model: LanguageModel, data: TrainingSet, settings: Optimizer, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients that the first step saw, and its loss."""
    seen: dict[str, torch.Tensor] = {}

    def keep(step: int, optimizer: torch.optim.Optimizer) -> None:
        seen.update({name: p.grad.clone() for name, p in model.names.items() if p.grad is not None})

    log = train(model, data, [np.arange(10)], settings, 0, Workspace(folder), save_every=100, after_step=keep)
    return seen, log.losses[0]


def test_the_step_is_the_weighted_mean_over_all_supervised_tokens_however_it_is_cut(tiny: Path, tmp_path: Path) -> None:
    plain = resolve(ModelSpec(path=str(tiny), lora=Lora(r=4)), tiny)
    weights = np.linspace(1, 3, 10).astype(np.float32)
    data = training_set(weights=weights)
    oracle = fresh(plain, seed=1)
    total = torch.zeros(())
    for row, weight in zip(data.rows, weights / weights.mean(), strict=True):
        losses, _ = token_losses(oracle.model, oracle.batch([row]))
        total = total + float(weight) * losses.sum()
    loss = total / sum(int(row.supervised[1:].sum()) for row in data.rows)
    loss.backward()
    for tokens in (16, 10_000):
        settings = SETTINGS.model_copy(update={"micro_batch_tokens": tokens, "max_grad_norm": 1e9})
        gradients, value = first_step(fresh(plain, seed=1), data, settings, tmp_path / str(tokens))
        assert value == pytest.approx(float(loss.detach()), rel=1e-5)
        for name, parameter in oracle.names.items():
            assert parameter.grad is not None
            assert (gradients[name] - parameter.grad).norm() <= 1e-5 * max(float(parameter.grad.norm()), 1e-3), name


class Killed(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize("death", [1, 2, 3, 5])
def test_a_run_killed_at_any_step_ends_with_the_same_bits(handle: ModelHandle, tmp_path: Path, death: int) -> None:
    data = training_set()
    plan = plan_steps(data, SETTINGS, seed=7)

    def attempt(folder: Path, after_step: object = None) -> tuple[dict[str, torch.Tensor], list[float]]:
        model = fresh(handle, seed=3)
        extra = {"after_step": after_step} if after_step else {}
        folder.mkdir(exist_ok=True)
        log = train(model, data, plan, SETTINGS, 7, Workspace(folder), save_every=2, **extra)  # type: ignore[arg-type]
        return trained_tensors(model), log.losses

    def die(step: int, optimizer: object) -> None:
        if step == death:
            raise Killed

    torch.set_num_threads(1)
    whole, losses = attempt(tmp_path / "whole")
    (tmp_path / "torn").mkdir()
    with pytest.raises(Killed):
        attempt(tmp_path / "torn", die)
    resumed, again = attempt(tmp_path / "torn")
    assert again == losses
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert not list((tmp_path / "torn").iterdir())  # nothing stale is left to be shipped with the result


def test_a_diverging_run_is_an_error_and_not_a_result(handle: ModelHandle, tmp_path: Path) -> None:
    model = fresh(handle)
    with torch.no_grad():
        next(iter(model.names.values())).fill_(float("nan"))
    data = training_set()
    with pytest.raises(NumericError, match="diverged at step 1"):
        train(model, data, plan_steps(data, SETTINGS, 0), SETTINGS, 0, Workspace(tmp_path), save_every=10)
