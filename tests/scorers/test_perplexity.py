"""Perplexity is the exponential of the loss that transformers computes for a row alone."""

import math

import pytest
import torch

from curate.core import Row
from curate.interfaces import ScoringContext
from curate.scorers.loss import Loss
from curate.scorers.perplexity import Perplexity


def test_it_is_the_exponential_of_the_mean_loss(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    found = Perplexity().score(model.batch(some_rows), base)
    for i, row in enumerate(some_rows):
        ids = torch.from_numpy(row.input_ids).long()[None]
        with torch.no_grad():
            loss = model.model(input_ids=ids, labels=ids.masked_fill(~torch.from_numpy(row.supervised)[None], -100)).loss
        assert float(found[i]) == pytest.approx(math.exp(float(loss)), rel=1e-3)


def test_over_checkpoints_losses_are_averaged_before_the_exponential(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    found = Perplexity(at="every").score(model.batch(some_rows), warmed)
    torch.testing.assert_close(found, Loss(at="every").score(model.batch(some_rows), warmed).exp(), rtol=1e-5, atol=1e-6)
