"""Scorers that read the same forward pass share it, and get what they would get alone."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from curate.core import Row
from curate.exact_similarity import ExactSimilarity
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.passes import PassScorer, read
from curate.rowwise import score_rows
from curate.scorers.el2n import El2n
from curate.scorers.forgetting import Forgetting
from curate.scorers.grad_norm import GradNorm
from curate.scorers.less import Less
from curate.scorers.loss import Loss
from curate.scorers.margin import Margin
from curate.scorers.rds import Rds
from curate.scorers.self_influence import SelfInfluence
from curate.scorers.trak import Trak


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Counts the forward and backward passes of a model."""
    handles = []

    def watch(model: LanguageModel) -> dict[str, int]:
        calls = {"forward": 0, "backward": 0}
        original = torch.autograd.backward

        def backward(*arguments: Any, **keywords: Any) -> None:
            calls["backward"] += 1
            original(*arguments, **keywords)

        torch.autograd.backward = backward  # type: ignore[assignment]
        handles.append(lambda: setattr(torch.autograd, "backward", original))
        hook = model.model.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
        handles.append(hook.remove)
        return calls

    yield watch
    for undo in handles:
        undo()


def check_alone(scorers: list[tuple[PassScorer, ScoringContext]], found: list[torch.Tensor], model: LanguageModel, rows: list[Row]) -> None:
    for (scorer, context), together in zip(scorers, found, strict=True):
        alone = scorer.score(model.batch(rows), context)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_loss_rds_el2n_and_grad_norm_cost_one_forward_and_one_backward_pass(base: ScoringContext, some_rows: list[Row], counted: Any) -> None:
    model = base.model
    assert model is not None
    jobs: list[tuple[PassScorer, ScoringContext]] = [(Loss(), base), (Rds(), base), (El2n(), base), (GradNorm(), base)]
    calls = counted(model)
    found = read(jobs, model.batch(some_rows))
    assert calls == {"forward": 1, "backward": 1}
    check_alone(jobs, found, model, some_rows)


def test_scorers_of_a_warm_up_share_one_pass_a_checkpoint_and_one_more_for_another_objective(
    warmed: ScoringContext, some_rows: list[Row], counted: Any
) -> None:
    model = warmed.model
    assert model is not None
    context = replace(warmed, target=some_rows[:3])
    exact, own, trak = ExactSimilarity(of=Less()), SelfInfluence(), Trak(width=32)
    jobs: list[tuple[PassScorer, ScoringContext]] = [
        (Less(width=64), context),
        (exact, replace(context, state=exact.prepare([], context))),
        (El2n(at="every"), context),
        (Margin(), context),
        (Forgetting(), context),
        (GradNorm(at="last"), context),
        (own, replace(context, state=own.prepare([model.batch(some_rows)], context))),
    ]
    calls = counted(model)
    found = read(jobs, model.batch(some_rows))
    assert calls == {"forward": 2, "backward": 2}  # two checkpoints
    check_alone(jobs, found, model, some_rows)
    calls.update(forward=0, backward=0)
    read([*jobs, (trak, context)], model.batch(some_rows))
    assert calls == {"forward": 4, "backward": 4}  # trak's gradients are of the margin


def test_scorers_without_gradients_run_no_backward_pass(base: ScoringContext, some_rows: list[Row], counted: Any) -> None:
    model = base.model
    assert model is not None
    calls = counted(model)
    score_rows([(Loss(), base), (Rds(), base), (El2n(), base)], some_rows)
    assert calls == {"forward": 1, "backward": 0}
