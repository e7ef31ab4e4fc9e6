"""RDS+ is its formula on transformers' own hidden states."""

import numpy as np
import torch

from curate.core import Row
from curate.interfaces import ScoringContext
from curate.scorers.rds import Rds


def test_the_vector_is_the_position_weighted_mean_of_the_last_hidden_states(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    found = Rds().score(model.batch(some_rows), base)
    for i, row in enumerate(some_rows):
        with torch.no_grad():
            states = model.model(input_ids=torch.from_numpy(row.input_ids).long()[None], output_hidden_states=True).hidden_states[-1][0]
        wanted = sum((t + 1) * states[t] for t in range(len(states)))
        torch.testing.assert_close(found[i], wanted / wanted.norm(), rtol=1e-4, atol=1e-5)


def test_a_row_of_one_token_is_its_own_direction_and_a_copy_is_the_nearest(base: ScoringContext, some_rows: list[Row]) -> None:
    model = base.model
    assert model is not None
    single = Row(np.array([7], np.int32), np.array([True]))
    vectors = Rds().score(model.batch([single, *some_rows, some_rows[3]]), base)
    with torch.no_grad():
        state = model.model(input_ids=torch.tensor([[7]]), output_hidden_states=True).hidden_states[-1][0, 0]
    torch.testing.assert_close(vectors[0], state / state.norm(), rtol=1e-4, atol=1e-5)
    similarity = vectors[:-1] @ vectors[-1]
    assert int(similarity.argmax()) == 4 and float(similarity[4]) > 1 - 1e-5
