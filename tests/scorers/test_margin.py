"""The margin is the answer token's logit over the best of the others, averaged over tokens and checkpoints."""

import math

import numpy as np
import pytest
import torch

from curate.core import Row
from curate.errors import ConfigError
from curate.interfaces import ScoringContext
from curate.scorers.margin import Margin


def test_the_score_is_the_mean_margin_of_each_row_run_alone(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    found = Margin().score(model.batch(some_rows), warmed)
    wanted = np.zeros(len(some_rows))
    for checkpoint in warmed.checkpoints:
        model.use(checkpoint)
        for i, row in enumerate(some_rows):
            with torch.no_grad():
                logits = model.model(input_ids=torch.from_numpy(row.input_ids).long()[None]).logits[0].double().numpy()
            margins = []
            for t in np.flatnonzero(row.supervised[1:]) + 1:
                ranked = sorted(range(logits.shape[1]), key=lambda token: -logits[t - 1, token])
                rival = next(token for token in ranked if token != row.input_ids[t])
                margins.append(logits[t - 1, row.input_ids[t]] - logits[t - 1, rival])
            wanted[i] += np.mean(margins) / len(warmed.checkpoints)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert found.std() > 0.1


def test_the_token_that_the_model_would_say_is_above_zero_and_a_random_one_below(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    model.use(warmed.checkpoints[-1])
    row = some_rows[0]
    with torch.no_grad():
        best = model.model(input_ids=torch.from_numpy(row.input_ids).long()[None]).logits[0, -2].argmax()
    easy = Row(np.append(row.input_ids[:-1], int(best)).astype(np.int32), np.arange(len(row.input_ids)) == len(row.input_ids) - 1)
    hard = Row(row.input_ids, easy.supervised)
    found = Margin().score(model.batch([easy, hard]), ScoringContext(model=model, checkpoints=warmed.checkpoints[-1:])).tolist()
    assert found[0] >= 0 > found[1]


def test_a_row_without_an_answer_is_nan_and_its_neighbours_keep_their_numbers(warmed: ScoringContext, some_rows: list[Row]) -> None:
    assert warmed.model is not None
    silent = Row(some_rows[0].input_ids, np.zeros(len(some_rows[0].input_ids), np.bool_))
    found = Margin().score(warmed.model.batch([some_rows[1], silent]), warmed).tolist()
    alone = Margin().score(warmed.model.batch([some_rows[1]]), warmed).tolist()
    assert math.isnan(found[1]) and found[0] == pytest.approx(alone[0], rel=1e-4)


def test_without_a_warm_up_it_says_what_it_needs(base: ScoringContext, some_rows: list[Row]) -> None:
    assert base.model is not None
    with pytest.raises(ConfigError, match="margin reads the checkpoints of a warm-up"):
        Margin().score(base.model.batch(some_rows), base)
