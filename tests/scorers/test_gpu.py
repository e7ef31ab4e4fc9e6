"""A GPU gives the rows that the CPU gives, within the tolerance of float32 sums in another order; the CPU twins are in the other files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from curate.core import Row
from curate.exact_similarity import ExactSimilarity
from curate.interfaces import Scorer, ScoringContext
from curate.model import LanguageModel, fresh, resolve
from curate.scorers.el2n import El2n
from curate.scorers.forgetting import Forgetting
from curate.scorers.grad_norm import GradNorm
from curate.scorers.influence import Influence
from curate.scorers.less import Less
from curate.scorers.loss import Loss
from curate.scorers.margin import Margin
from curate.scorers.rds import Rds
from curate.scorers.self_influence import SelfInfluence
from curate.scorers.trak import Trak
from curate.settings import Lora, ModelSpec
from curate.testing.scorer import check_numbers

pytestmark = pytest.mark.gpu

SCORERS = [
    Less(width=512),
    Less(width=512, direction="sgd", normalise="module"),
    Less(width=512, direction="sgd", projection="factored"),
    ExactSimilarity(of=Less()),
    ExactSimilarity(of=Influence()),
    Influence(width=512, curvature="kfac"),
    SelfInfluence(),
    SelfInfluence(curvature="woodbury"),
    Trak(width=6),
    Rds(),
    Loss(),
    El2n(),
    El2n(at="every"),
    Margin(),
    Forgetting(),
    GradNorm(),
]


@pytest.fixture(scope="session")
def models(tiny: Path) -> dict[str, LanguageModel]:
    """The model with adapters, and without, on the GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    lora = Lora(r=4, alpha=8, targets="attention")
    return {kind: fresh(resolve(ModelSpec(path=str(tiny), lora=given), tiny), "cuda") for kind, given in (("warm", lora), ("base", None))}


def on(context: ScoringContext, scorer: Scorer, rows: list[Row]) -> torch.Tensor:
    assert context.model is not None
    context = replace(context, target=rows[:3])
    state = scorer.prepare([context.model.batch(rows)], context)
    return scorer.score(context.model.batch(rows), replace(context, state=state)).cpu()


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: " ".join(str(value) for value in scorer.model_dump().values())[:60])
def test_a_gpu_gives_the_rows_of_the_cpu(
    scorer: Scorer, models: dict[str, LanguageModel], warmed: ScoringContext, base: ScoringContext, some_rows: list[Row]
) -> None:
    here = warmed if scorer.warmup else base
    there = replace(here, model=models["warm" if scorer.warmup else "base"], device="cuda")
    wanted = on(here, scorer, some_rows)
    torch.testing.assert_close(on(there, scorer, some_rows), wanted, rtol=2e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("scorer", [Less(width=512), ExactSimilarity(of=Less()), Rds(), GradNorm()], ids=lambda scorer: scorer.name)
def test_the_contract_of_scorers_holds_on_a_gpu(
    scorer: Scorer, models: dict[str, LanguageModel], warmed: ScoringContext, base: ScoringContext, some_rows: list[Row]
) -> None:
    here = warmed if scorer.warmup else base
    there = replace(here, model=models["warm" if scorer.warmup else "base"], device="cuda", target=some_rows[:3])
    check_numbers(scorer, there, some_rows, tolerance=1e-3)
