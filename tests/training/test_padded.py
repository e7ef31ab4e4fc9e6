"""Padded rows without a mask have the losses and gradients of each row alone, on a CPU and on a GPU."""

import pytest
import torch

from curate.training.padded import padded_losses
from tests.training.tiny import FAMILIES, assert_close, checkpointing, factors_for, gradients, model_of, plain_losses, rows_of

ROWS = rows_of(13, 1, 29, 7, 20)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_each_row_alone(family: str, lora: bool) -> None:
    model = model_of(family, torch.float64, lora=lora)
    own = plain_losses(model, ROWS)
    (own * factors_for(own)).sum().backward()
    expected = gradients(model)
    losses = padded_losses(model, ROWS)
    (losses * factors_for(losses)).sum().backward()
    torch.testing.assert_close(losses.double(), own, rtol=1e-6, atol=1e-6)  # logits are compared in float32
    assert_close(gradients(model), expected, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_computed_again_in_backward_give_the_same(family: str) -> None:
    model = model_of(family, torch.float64, lora=True)
    padded_losses(model, ROWS).sum().backward()
    expected = gradients(model)
    checkpointing(model)
    padded_losses(model, ROWS).sum().backward()
    assert_close(gradients(model), expected, 1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(family: str) -> None:
    model = model_of(family, torch.float32, device="cuda")
    own = plain_losses(model, ROWS)
    (own * factors_for(own)).sum().backward()
    expected = gradients(model)
    losses = padded_losses(model, ROWS)
    (losses * factors_for(losses)).sum().backward()
    torch.testing.assert_close(losses, own, rtol=1e-4, atol=1e-4)
    assert_close(gradients(model), expected, 1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(padded_losses(model, ROWS), own, rtol=0.1, atol=0.1)
