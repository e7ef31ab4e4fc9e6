"""LESS equals its formula, computed row by row with autograd in an independent way."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from curate.core import Checkpoint, Row
from curate.errors import ConfigError, ModelError
from curate.exact_similarity import ExactSimilarity
from curate.gradient_features import offsets
from curate.interfaces import ScoringContext
from curate.projection import CountSketch
from curate.scorers.less import Less
from tests.scorers.oracle import direction, gradient, similarity


def vectors(scorer: Less, context: ScoringContext, rows: list[Row], role: str) -> torch.Tensor:
    assert context.model is not None
    return scorer.score(context.model.batch(rows), replace(context, role=role)).double()


@pytest.mark.parametrize("kind", ["adam", "adam_less", "sgd"])
@pytest.mark.parametrize("rebalance", [True, False])
def test_inner_products_are_the_formula_up_to_the_noise_of_the_sketch(
    warmed: ScoringContext, some_rows: list[Row], kind: str, rebalance: bool
) -> None:
    pool, target = some_rows[:4], some_rows[4:7]
    exact = np.array([[similarity(warmed, x, y, kind) for y in target] for x in pool])
    found = np.zeros((8, 4, 3))
    for seed in range(8):
        scorer = Less(width=4096, direction=kind, rebalance=rebalance, seed=seed)
        found[seed] = (vectors(scorer, warmed, pool, "pool") @ vectors(scorer, warmed, target, "target").T).numpy()
    spread = np.abs(found - exact).max()
    assert spread < 6 / np.sqrt(4096)
    assert np.abs(found.mean(0) - exact).max() < 4 / np.sqrt(8 * 4096)  # unbiased


@pytest.mark.parametrize("kind", ["adam", "adam_less"])
def test_without_momentum_a_row_is_what_it_adds_to_the_step(warmed: ScoringContext, some_rows: list[Row], kind: Any) -> None:
    model = warmed.model
    assert model is not None
    pool, target = some_rows[:4], some_rows[4:7]
    context = replace(warmed, target=target)
    scorer = ExactSimilarity(of=Less(direction=kind, momentum=False))
    found = scorer.score(model.batch(pool), replace(context, state=scorer.prepare([], context)))
    total = sum(checkpoint.learning_rate for checkpoint in warmed.checkpoints)
    wanted = torch.zeros(len(pool), len(target), dtype=torch.float64)
    for checkpoint in warmed.checkpoints:
        model.use(checkpoint)
        psi = torch.stack([gradient(model, row) for row in target])
        for i, row in enumerate(pool):
            g = gradient(model, row)
            added = direction(g, checkpoint, kind) - direction(torch.zeros_like(g), checkpoint, kind)
            wanted[i] += checkpoint.learning_rate / total * (psi @ added) / psi.norm(dim=1) / added.norm()
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=2e-4)
    with pytest.raises(ValueError, match="has no momentum to leave out"):
        Less(direction="sgd", momentum=False)


def test_a_vector_is_the_sum_of_independent_sketches_of_unit_directions(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    scorer = Less(width=512, rebalance=False)
    row = some_rows[0]
    total = sum(checkpoint.learning_rate for checkpoint in warmed.checkpoints)
    wanted = torch.zeros(512, dtype=torch.float64)
    for stream, checkpoint in enumerate(warmed.checkpoints):
        model.use(checkpoint)
        phi = direction(gradient(model, row), checkpoint, "adam")
        wanted += (checkpoint.learning_rate / total) ** 0.5 * CountSketch(512, 0, stream).dense(len(phi)).double() @ (phi / phi.norm())
    torch.testing.assert_close(vectors(scorer, warmed, [row], "pool")[0], wanted, rtol=1e-3, atol=2e-4)


def test_a_small_step_along_the_row_changes_the_target_loss_as_influence_says(warmed: ScoringContext, some_rows: list[Row]) -> None:
    """loss(y; theta - eta g(x)) - loss(y; theta) tends to -eta <g(y), g(x)>."""
    model = warmed.model
    assert model is not None
    model.use(warmed.checkpoints[1])
    x, y = some_rows[1], some_rows[5]
    influence = float(gradient(model, x) @ gradient(model, y))
    batch = model.batch([x])
    labels = batch.input_ids.masked_fill(~batch.supervised, -100)
    model.model(input_ids=batch.input_ids, attention_mask=batch.mask.long(), labels=labels).loss.backward()
    step = {name: p.grad.clone() for name, p in model.names.items()}  # type: ignore[union-attr]

    def loss_of_target() -> float:
        batch = model.batch([y])
        with torch.no_grad():
            output = model.model(input_ids=batch.input_ids, labels=batch.input_ids.masked_fill(~batch.supervised, -100))
        return float(output.loss.double())

    eta = 2e-4
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in model.names.items():
                parameter.add_(step[name], alpha=-sign * eta)
        losses.append(loss_of_target())
        model.use(warmed.checkpoints[1])
    model.model.zero_grad(set_to_none=True)
    assert (losses[0] - losses[1]) / 2 == pytest.approx(-eta * influence, rel=0.05)


def test_a_missing_or_foreign_optimizer_state_is_refused(warmed: ScoringContext, some_rows: list[Row], tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="warm-up"):
        vectors(Less(width=64), replace(warmed, checkpoints=()), some_rows, "pool")
    source = warmed.checkpoints[0].path
    for name in ("weights.safetensors", "state.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    without = replace(warmed, checkpoints=(Checkpoint(tmp_path, 3, 1e-3),))
    with pytest.raises(ModelError, match="holds no optimizer state"):
        vectors(Less(width=64), without, some_rows, "pool")
    assert json.loads((source / "state.json").read_bytes())["step"] == 3


def test_offsets_follow_the_names_and_leave_no_gap() -> None:
    assert offsets({"b": 5, "a": 3, "c": 2}) == {"a": 0, "b": 3, "c": 8}
