"""Projecting both factors of a gradient is the Kronecker projection of the gradient, whoever else reads the pass."""

from dataclasses import replace

import pytest
import torch

from curate.core import Row
from curate.gradients import per_sample_gradients
from curate.interfaces import ScoringContext
from curate.passes import read
from curate.projection import factor
from curate.scorers.grad_norm import GradNorm
from curate.scorers.less import Less


@pytest.mark.parametrize("normalise", ["none", "row", "module"])
def test_it_is_the_explicit_projection_of_every_layer(warmed: ScoringContext, some_rows: list[Row], normalise: str) -> None:
    model = warmed.model
    assert model is not None
    context = replace(warmed, checkpoints=warmed.checkpoints[:1])
    width = 9 * len(model.names)  # three by three numbers a layer
    scorer = Less(direction="sgd", projection="factored", normalise=normalise, width=width)  # type: ignore[arg-type]
    found = scorer.score(model.batch(some_rows), context)
    model.use(context.checkpoints[0])
    grads: dict[str, torch.Tensor] = {}
    per_sample_gradients(model, model.batch(some_rows), lambda name, value: grads.__setitem__(name, value.double().clone()))
    parts = []
    for name in sorted(grads):
        left = factor(3, grads[name].shape[1], f"0/{name}/out", "cpu").double()
        right = factor(3, grads[name].shape[2], f"0/{name}/in", "cpu").double()
        part = (left @ grads[name] @ right.T).flatten(1)
        parts.append(part / grads[name].flatten(1).norm(dim=1, keepdim=True) if normalise == "module" else part)
    wanted = torch.cat(parts, 1)
    whole = torch.cat([grad.flatten(1) for grad in grads.values()], 1).norm(dim=1, keepdim=True)
    wanted = wanted / {"none": 1.0, "row": whole, "module": len(grads) ** 0.5}[normalise]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_sharing_the_pass_changes_nothing(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    scorer, batch = Less(direction="sgd", projection="factored", normalise="none", width=500), model.batch(some_rows)
    alone = scorer.score(batch, warmed)
    beside_one = read([(scorer, warmed), (GradNorm(at="last"), warmed)], batch)[0]  # which reads the second of two checkpoints
    torch.testing.assert_close(beside_one, alone, rtol=1e-4, atol=1e-6)


def test_a_direction_that_is_not_the_gradient_has_no_factors() -> None:
    with pytest.raises(ValueError, match="write direction: sgd, or projection: sketch"):
        Less(projection="factored")
