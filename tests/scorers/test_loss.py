"""The loss of a row is the one that transformers computes for it alone."""

import pytest
import torch

from curate.core import Row
from curate.interfaces import ScoringContext
from curate.scorers.loss import Loss


def test_each_row_has_the_mean_loss_of_its_supervised_tokens(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    found = Loss().score(model.batch(some_rows), base)
    for i, row in enumerate(some_rows):
        ids = torch.from_numpy(row.input_ids).long()[None]
        labels = ids.masked_fill(~torch.from_numpy(row.supervised)[None], -100)
        with torch.no_grad():
            assert float(found[i]) == pytest.approx(float(model.model(input_ids=ids, labels=labels).loss), rel=1e-4)
