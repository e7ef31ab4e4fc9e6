"""The exact similarity is the formula of the scorer whose vectors estimate it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from curate.core import Row
from curate.errors import DataError
from curate.exact_similarity import ExactSimilarity
from curate.gradients import per_sample_gradients
from curate.interfaces import ScoringContext
from curate.scorers.influence import Influence
from curate.scorers.less import Less
from curate.testing.scorer import check_numbers
from tests.scorers.oracle import similarity


@pytest.mark.parametrize("kind", ["adam", "adam_less", "sgd"])
def test_it_is_the_formula_of_less_without_any_projection(warmed: ScoringContext, some_rows: list[Row], kind: str) -> None:
    model = warmed.model
    assert model is not None
    scorer = ExactSimilarity(of=Less(direction=kind))  # type: ignore[arg-type]
    context = replace(warmed, target=some_rows[4:])
    found = scorer.score(model.batch(some_rows[:4]), replace(context, state=scorer.prepare([], context)))
    wanted = np.array([[similarity(warmed, x, y, kind) for y in some_rows[4:]] for x in some_rows[:4]])
    assert np.abs(found.numpy() - wanted).max() < 2e-5


def test_modules_of_unit_length_are_compared_one_by_one(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    context = replace(warmed, target=some_rows[4:], checkpoints=warmed.checkpoints[:1])
    scorer = ExactSimilarity(of=Less(direction="sgd", normalise="module"))
    found = scorer.score(model.batch(some_rows[:4]), replace(context, state=scorer.prepare([], context)))
    model.use(context.checkpoints[0])
    grads: dict[str, torch.Tensor] = {}
    per_sample_gradients(model, model.batch(some_rows), lambda name, value: grads.__setitem__(name, value.flatten(1).double().clone()))
    unit = {name: grads[name] / grads[name].norm(dim=1, keepdim=True) for name in grads}
    wanted = torch.stack([unit[name][:4] @ unit[name][4:].T for name in grads]).mean(0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


def test_a_target_row_without_a_gradient_has_no_column(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    silent = Row(some_rows[0].input_ids, np.zeros(len(some_rows[0].input_ids), bool))
    scorer = ExactSimilarity(of=Less())
    context = replace(warmed, target=[some_rows[5], silent, some_rows[6]])
    state = scorer.prepare([], context)
    assert torch.as_tensor(state["columns"]).tolist() == [0, 2]
    found = scorer.score(model.batch(some_rows[:4]), replace(context, state=state))
    alone = replace(warmed, target=[some_rows[5], some_rows[6]])
    torch.testing.assert_close(found, scorer.score(model.batch(some_rows[:4]), replace(alone, state=scorer.prepare([], alone))))
    with pytest.raises(DataError, match="no target row has a gradient"):
        scorer.prepare([], replace(warmed, target=[silent]))
    with pytest.raises(DataError, match="needs target rows"):
        scorer.prepare([], warmed)


def test_it_keeps_the_contract_of_scorers(warmed: ScoringContext, some_rows: list[Row]) -> None:
    for scorer in (Less(), Influence(curvature="woodbury", checkpoint="every")):
        check_numbers(ExactSimilarity(of=scorer), replace(warmed, target=some_rows[:3]), some_rows)
