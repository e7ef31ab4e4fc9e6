"""EL2N is the distance of the predicted distribution from the token, averaged over tokens and checkpoints."""

import math

import pytest
import torch

from curate.core import Row
from curate.interfaces import ScoringContext
from curate.scorers.el2n import El2n


def test_the_score_is_the_norm_of_softmax_minus_onehot(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    found = El2n(at="every").score(model.batch(some_rows), warmed)
    wanted = torch.zeros(len(some_rows), dtype=torch.float64)
    for checkpoint in warmed.checkpoints:
        model.use(checkpoint)
        for i, row in enumerate(some_rows):
            with torch.no_grad():
                p = model.model(input_ids=torch.from_numpy(row.input_ids).long()[None]).logits[0].double().softmax(-1)
            errors = []
            for t in range(1, len(row.input_ids)):
                if row.supervised[t]:
                    onehot = torch.zeros(p.shape[1], dtype=torch.float64)
                    onehot[int(row.input_ids[t])] = 1
                    errors.append(float((p[t - 1] - onehot).norm()))
            wanted[i] += sum(errors) / len(errors) / len(warmed.checkpoints)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert float(found.max()) <= math.sqrt(2)
