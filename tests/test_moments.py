"""Adam's direction from saved moments is the step that torch's own AdamW takes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from curate.errors import ModelError
from curate.moments import Moments, load_moments
from curate.projection import CountSketch
from curate.store import atomic_write, canonical


def test_the_direction_is_the_step_that_torch_takes_from_the_same_state() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(40, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.0)
    for _ in range(7):
        weight.grad = torch.randn(40, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[weight]
    moments = Moments({"w": state["exp_avg"].clone()}, {"w": state["exp_avg_sq"].clone()}, 7, 0.9, 0.999, 1e-8)
    gradient = torch.randn(40, dtype=torch.float64)
    direction = moments.direction("w", gradient.unsqueeze(0))[0]
    before = weight.detach().clone()
    weight.grad = gradient
    optimizer.step()
    torch.testing.assert_close(direction, (before - weight.detach()) / 0.01, rtol=1e-9, atol=1e-9)


def test_the_published_formula_has_no_correction_and_epsilon_inside_the_root() -> None:
    m, v, g = torch.tensor([0.5]), torch.tensor([0.25]), torch.tensor([[2.0]])
    moments = Moments({"w": m}, {"w": v}, 3, 0.9, 0.999, 1e-8)
    wanted = (0.9 * 0.5 + 0.1 * 2.0) / np.sqrt(0.999 * 0.25 + 0.001 * 4.0 + 1e-8)
    assert moments.direction("w", g, published=True).item() == pytest.approx(wanted, rel=1e-6)


def test_a_parameter_without_history_or_of_another_shape_is_refused() -> None:
    moments = Moments({"w": torch.ones(3)}, {"w": torch.ones(3)}, 1, 0.9, 0.999, 1e-8)
    with pytest.raises(ModelError, match="does not belong"):
        moments.direction("other", torch.ones(2, 3))
    with pytest.raises(ModelError, match="does not belong"):
        moments.direction("w", torch.ones(2, 4))


def test_a_missing_optimizer_state_is_a_hard_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no optimizer state"):
        load_moments(tmp_path / "nothing")
    atomic_write(tmp_path / "half" / "state.json", canonical({"step": 1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}))
    with pytest.raises(ModelError, match="holds no optimizer state"):
        load_moments(tmp_path / "half")


def test_the_sketch_is_the_product_with_its_explicit_matrix_however_it_is_cut() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 300)
    sketch = CountSketch(64, seed=3, stream=2)
    into = torch.zeros(5, 64)
    for start in (0, 100, 250):
        stop = {0: 100, 100: 250, 250: 300}[start]
        sketch.add(into, values[:, start:stop], start)
    torch.testing.assert_close(into, values @ sketch.dense(300).T, rtol=1e-5, atol=1e-5)


def test_sketched_inner_products_err_by_one_over_root_width() -> None:
    generator = np.random.default_rng(0)
    x, y = torch.from_numpy(generator.standard_normal((2, 2000)).astype(np.float32))
    x, y = x / x.norm(), y / y.norm()
    width, errors = 256, []
    for seed in range(200):
        into = torch.zeros(2, width)
        CountSketch(width, seed=seed).add(into, torch.stack([x, y]), 0)
        errors.append(float(into[0] @ into[1] - x @ y))
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(200)  # unbiased
    assert np.std(errors) == pytest.approx(1 / np.sqrt(width), rel=0.2)
