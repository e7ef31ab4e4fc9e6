"""The gradient norm of a row is the norm of what autograd gives for it alone, however it is computed."""

import numpy as np
import pytest
import torch

from curate.core import Row
from curate.gradients import LayerGradient
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.scorers.grad_norm import GradNorm


def norm(model: LanguageModel, row: Row, names: list[str]) -> float:
    """Of the gradient of transformers' own loss in these weights."""
    batch = model.batch([row])
    model.model.zero_grad()
    model.model(input_ids=batch.input_ids, labels=batch.input_ids.masked_fill(~batch.supervised, -100)).loss.backward()
    total = sum(float(model.names[name].grad.double().square().sum()) for name in names)  # type: ignore[union-attr]
    model.model.zero_grad(set_to_none=True)
    return total**0.5


def linear(model: LanguageModel) -> list[str]:
    return [name for name in model.names if name.endswith("proj.weight")]


def test_it_is_the_norm_over_all_linear_layers_of_the_base_model(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    found = GradNorm().score(model.batch(some_rows), base)
    assert found.tolist() == pytest.approx([norm(model, row, linear(model)) for row in some_rows], rel=1e-4)


def test_modules_leave_the_others_out(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    found = GradNorm(modules=["v_proj"]).score(model.batch(some_rows), base)
    wanted = [norm(model, row, [name for name in linear(model) if "v_proj" in name]) for row in some_rows]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)


def test_over_checkpoints_squared_norms_are_averaged(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    found = GradNorm(at="every").score(model.batch(some_rows), warmed)
    squares = np.zeros(len(some_rows))
    for checkpoint in warmed.checkpoints:
        model.use(checkpoint)
        squares += [norm(model, row, list(model.names)) ** 2 / len(warmed.checkpoints) for row in some_rows]
    assert found.tolist() == pytest.approx(np.sqrt(squares).tolist(), rel=1e-4)


@pytest.mark.parametrize(("tokens", "width"), [(3, 64), (200, 8)], ids=["by pairs of tokens", "by the gradient"])
def test_both_ways_give_the_norm_of_the_sum_of_outer_products(tokens: int, width: int) -> None:
    torch.manual_seed(0)
    inputs, deltas = torch.randn(4, tokens, width), torch.randn(4, tokens, width + 1)
    layer = LayerGradient("w", inputs, deltas)
    wanted = torch.einsum("bto,bti->boi", deltas.double(), inputs.double()).flatten(1).norm(dim=1).square()
    torch.testing.assert_close(layer.squared_norms, wanted, rtol=1e-4, atol=1e-6)
    assert ("dense" in vars(layer)) == (tokens == 200)
