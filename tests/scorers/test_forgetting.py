"""Forgetting counts, per answer token, how often greedy prediction loses it between checkpoints."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.core import Checkpoint, Row
from curate.errors import ConfigError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.scorers.forgetting import Forgetting
from curate.testing import check_scorer


def predictions(model: LanguageModel, checkpoint: Checkpoint, rows: list[Row]) -> list[list[int]]:
    """The most likely next token at every position of every row, each run alone."""
    model.use(checkpoint)
    with torch.no_grad():
        return [model.model(input_ids=torch.from_numpy(row.input_ids).long()[None]).logits[0].argmax(-1).tolist() for row in rows]


def by_hand(traces: list[list[bool]]) -> float:
    """Mean over tokens of the events in their traces (right or wrong at each checkpoint)."""
    events = [sum(a and not b for a, b in zip(t, t[1:], strict=False)) if any(t) else len(t) for t in traces]
    return sum(events) / len(events)


@pytest.fixture(scope="module")
def swinging(warmed: ScoringContext, tmp_path_factory: pytest.TempPathFactory) -> ScoringContext:
    """Five checkpoints that go back and forth: the trained weights of the warm-up turned around, and made much larger."""
    from safetensors.torch import load_file, save_file

    folder, checkpoints = tmp_path_factory.mktemp("swinging"), []
    weights = load_file(warmed.checkpoints[-1].path / "weights.safetensors")
    for step, scale in enumerate((3.0, -8.0, 3.0, 3.0, -8.0)):
        path = Path(folder / str(step))
        path.mkdir()
        save_file({name: scale * tensor if "lora_B" in name else tensor for name, tensor in weights.items()}, path / "weights.safetensors")
        checkpoints.append(Checkpoint(path, step, 1e-3))
    return replace(warmed, checkpoints=tuple(checkpoints))


@pytest.fixture(scope="module")
def half_known(swinging: ScoringContext, some_rows: list[Row]) -> list[Row]:
    """Rows whose answers are in turn what the model says at one or the other checkpoint, and what it never says."""
    model = swinging.model
    assert model is not None
    said = [predictions(model, checkpoint, some_rows) for checkpoint in swinging.checkpoints[:2]]
    made = []
    for i, row in enumerate(some_rows):
        ids, end = row.input_ids.copy(), len(row.input_ids) - 1
        ids[end] = said[i % 2][i][end - 1] if i % 3 else ids[end]
        made.append(Row(ids, row.supervised))
    return made


def test_the_score_is_that_of_a_table_of_greedy_predictions(swinging: ScoringContext, half_known: list[Row]) -> None:
    model = swinging.model
    assert model is not None
    said = [predictions(model, checkpoint, half_known) for checkpoint in swinging.checkpoints]
    wanted, events = [], set()
    for i, row in enumerate(half_known):
        traces = [[bool(at[i][t - 1] == row.input_ids[t]) for at in said] for t in range(1, len(row.input_ids)) if row.supervised[t]]
        wanted.append(by_hand(traces))
        events |= {by_hand([trace]) for trace in traces}
    found = Forgetting().score(model.batch(half_known), swinging).tolist()
    assert found == pytest.approx(wanted, rel=1e-6)
    assert events == {1, 2, 5}, "the rows must hold tokens of every kind, or this test shows nothing"


def test_checkpoints_are_read_in_training_order(swinging: ScoringContext, half_known: list[Row]) -> None:
    assert swinging.model is not None
    batch = swinging.model.batch(half_known)
    turned = replace(swinging, checkpoints=swinging.checkpoints[::-1])
    assert Forgetting().score(batch, turned).tolist() == Forgetting().score(batch, swinging).tolist()


def test_it_keeps_the_contract_where_tokens_are_forgotten(swinging: ScoringContext, half_known: list[Row]) -> None:
    check_scorer(Forgetting(), swinging, half_known)


def test_one_checkpoint_tells_the_learned_from_the_never_learned(swinging: ScoringContext, half_known: list[Row]) -> None:
    model = swinging.model
    assert model is not None
    only = replace(swinging, checkpoints=swinging.checkpoints[:1])
    (said,) = [predictions(model, checkpoint, half_known) for checkpoint in only.checkpoints]
    wanted = [by_hand([[said[i][t - 1] == row.input_ids[t]] for t in np.flatnonzero(row.supervised[1:]) + 1]) for i, row in enumerate(half_known)]
    assert Forgetting().score(model.batch(half_known), only).tolist() == pytest.approx(wanted)
    assert min(wanted) < 1


def test_a_row_without_an_answer_is_nan_and_its_neighbours_keep_their_numbers(warmed: ScoringContext, some_rows: list[Row]) -> None:
    assert warmed.model is not None
    silent = Row(some_rows[0].input_ids, np.zeros(len(some_rows[0].input_ids), np.bool_))
    found = Forgetting().score(warmed.model.batch([silent, some_rows[1]]), warmed).tolist()
    alone = Forgetting().score(warmed.model.batch([some_rows[1]]), warmed).tolist()
    assert math.isnan(found[0]) and found[1] == alone[0]


def test_without_a_warm_up_it_says_what_it_needs(base: ScoringContext, some_rows: list[Row]) -> None:
    assert base.model is not None
    with pytest.raises(ConfigError, match="forgetting reads the checkpoints of a warm-up"):
        Forgetting().score(base.model.batch(some_rows), base)
