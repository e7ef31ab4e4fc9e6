"""Attribution against the truth: leaving rows out of a small language model's training, and rows of a skill planted among others.

Leave-one-out is judged where influence functions should hold: of the shipped model all is frozen but one adapter's lora_B in the
last block, which is trained with weight decay to a stationary point, in float64 and with all rows in every step. The rows are
of skills where the model knows the form of the answer but not the answer: its doubt is about right there, and where it
is, the empirical Fisher is near the Hessian. The damping is the weight decay, in the unit that the scorer asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import cross_entropy

from curate.core import Checkpoint, Row
from curate.data.skills import SKILLS
from curate.data.synthetic import DESK, FLAG, OTHER, Part, instructions
from curate.data.template import Encoder
from curate.exact_similarity import ExactSimilarity
from curate.gradient_scorer import GradientScorer
from curate.interfaces import ScoringContext
from curate.model import LanguageModel, decoder_of, fresh, resolve
from curate.scorers.influence import Influence
from curate.scorers.less import Less
from curate.scorers.loss import Loss
from curate.scorers.trak import Trak
from curate.settings import Lora, ModelSpec, Warmup
from curate.store import Workspace
from curate.train import TrainingSet, plan_steps, save_checkpoint, train

LAYER, RANK = "layers.3.mlp.down_proj", 2
DOUBTED = ("add", "subtract", "larger", "smaller", "member", "weekday")
EACH, ASKED, LEFT_OUT, DECAY = 20, 4, 24, 1e-4  # rows of each skill in pool and target, rows left out, of the squared weights
RARE, OTHERS, WANTED = 12, 120, 8  # rows of each planted skill, rows of twenty others, target rows of each


def adapted(tiny: Path, lora: Lora) -> LanguageModel:
    torch.set_num_threads(1)
    return fresh(resolve(ModelSpec(path=str(tiny), max_length=128, lora=lora), tiny))


def row_of(encoder: Encoder, prompt: str, completion: str) -> Row:
    row = encoder.row(({"role": "user", "content": prompt}, {"role": "assistant", "content": completion}))
    assert row is not None
    return row


def exactly(scorer: GradientScorer, context: ScoringContext, pool: Sequence[Row]) -> Tensor:
    """(N, M) similarities to the target without a sketch; the pool is the sample that curvature is measured on."""
    assert context.model is not None
    batch, exact = context.model.batch(pool), ExactSimilarity(of=scorer)
    return exact.score(batch, replace(context, state=exact.prepare([batch], context))).double()


@dataclass(frozen=True)
class Answers:
    """The answer tokens of some rows, and what the frozen part of the model makes of them."""

    inputs: Tensor  # (S, I) of the adapted layer
    states: Tensor  # (S, H) after the last block, lora_B being zero
    labels: Tensor  # (S,)
    row: Tensor  # (S,)

    @classmethod
    def of(cls, model: LanguageModel, rows: Sequence[Row]) -> "Answers":
        batch, seen = model.batch(rows), list[Tensor]()
        layer = next(module for name, module in model.model.named_modules() if name.endswith(LAYER))
        hooks = [
            layer.register_forward_hook(lambda module, given, output: seen.append(given[0])),
            decoder_of(model.model).norm.register_forward_hook(lambda module, given, output: seen.append(given[0])),
        ]
        with torch.no_grad():
            model.hidden_states(batch)
        for hook in hooks:
            hook.remove()
        row, place = torch.nonzero(batch.supervised[:, 1:], as_tuple=True)
        return cls(seen[0][row, place].double(), seen[1][row, place].double(), batch.input_ids[row, place + 1], row)


@dataclass(frozen=True)
class Ridge:
    """J(B) = 1/n sum_i kept_i loss_i(B) + decay / 2 |B|^2, written out from the last block on; rows left out keep the n."""

    model: LanguageModel  # lora_B is zero
    pool: Sequence[Row]
    target: Sequence[Row]

    @cached_property
    def answers(self) -> tuple[Answers, Answers]:
        return Answers.of(self.model, self.pool), Answers.of(self.model, self.target)

    @cached_property
    def frozen(self) -> list[Tensor]:
        """lora_A, the final norm's weight, the head's."""
        first = next(p for name, p in self.model.model.named_parameters() if "lora_A" in name)
        return [p.detach().double() for p in (first, decoder_of(self.model.model).norm.weight, self.model.model.get_output_embeddings().weight)]

    def losses(self, flat: Tensor, of: Answers) -> Tensor:
        """The mean loss of each row's answer, nats per token."""
        first, norm, head = self.frozen
        states = of.states + of.inputs @ first.T @ flat.view(-1, RANK).T
        states = states * torch.rsqrt(states.square().mean(1, keepdim=True) + decoder_of(self.model.model).norm.variance_epsilon) * norm
        losses, counts = cross_entropy(states @ head.T, of.labels, reduction="none"), torch.bincount(of.row)
        return torch.zeros(len(counts), dtype=losses.dtype).index_add(0, of.row, losses) / counts

    def objective(self, flat: Tensor, kept: Tensor) -> Tensor:
        return (kept * self.losses(flat, self.answers[0])).mean() + DECAY / 2 * flat.square().sum()

    @cached_property
    def optimum(self) -> Tensor:
        """With all rows, by L-BFGS."""
        flat = torch.zeros(self.frozen[1].numel() * RANK, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([flat], max_iter=1000, history_size=50, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            value = self.objective(flat, torch.ones(len(self.pool)))
            value.backward()
            return value

        solver.step(closure)
        return flat.detach()

    @cached_property
    def hessian(self) -> Tensor:
        found: Tensor = torch.autograd.functional.hessian(lambda flat: self.objective(flat, torch.ones(len(self.pool))), self.optimum)
        return found

    def without(self, row: int, root: Tensor) -> Tensor:
        """The weights without one row: from the optimum to a stationary point, the slope solved by the Hessian of all rows."""
        kept, found = torch.arange(len(self.pool)) != row, self.optimum
        for _ in range(100):
            slope = torch.func.grad(self.objective)(found, kept)
            if float(slope.norm()) < 1e-8:
                return found
            found = found - torch.cholesky_solve(slope.unsqueeze(1), root).squeeze(1)
        raise AssertionError(f"training without row {row} does not converge")

    @cached_property
    def effects(self) -> Tensor:
        """(K, M) by how much the target's losses rise when each of the first rows is left out."""
        before, root = self.losses(self.optimum, self.answers[1]), torch.linalg.cholesky(self.hessian)
        return torch.stack([self.losses(self.without(row, root), self.answers[1]) - before for row in range(LEFT_OUT)])

    def gradients(self, of: Answers) -> Tensor:
        """(rows, P) of the losses, by autograd."""
        found: Tensor = torch.autograd.functional.jacobian(lambda flat: self.losses(flat, of), self.optimum)
        return found

    def agreement(self, scores: Tensor) -> float:
        """Spearman with the effects, over rows left out and target rows."""
        return float(spearmanr(scores[:LEFT_OUT].flatten(), self.effects.flatten())[0])


@pytest.fixture(scope="module")
def ridge(tiny: Path) -> Ridge:
    model, generator = adapted(tiny, Lora(r=RANK, alpha=RANK, targets=[LAYER])), np.random.default_rng(0)
    encoder, skills = Encoder.of(model.tokenizer, 128), [skill for skill in SKILLS if skill.name in DOUBTED]
    pool, target = ([row_of(encoder, *skill.example(generator)) for _ in range(each) for skill in skills] for each in (EACH, ASKED))
    for name, weight in model.names.items():
        weight.requires_grad_("lora_B" in name)
    return Ridge(replace(model, names={name: weight for name, weight in model.names.items() if weight.requires_grad}), pool, target)


@pytest.mark.slow
def test_influence_ranks_rows_by_what_retraining_without_them_does(ridge: Ridge, tmp_path: Path) -> None:
    slopes, asked = ridge.gradients(ridge.answers[0]), ridge.gradients(ridge.answers[1])
    newton = ridge.agreement(slopes @ torch.linalg.solve(ridge.hessian, asked.T))
    assert newton > 0.98  # a problem that influence functions solve, if the curvature is right

    model, (name,) = ridge.model, ridge.model.names
    save_file({name: ridge.optimum.view(-1, RANK).float()}, tmp_path / "weights.safetensors")
    context = ScoringContext(model=model, checkpoints=(Checkpoint(tmp_path, 1, 1.0),), target=ridge.target)
    model.use(context.checkpoints[0])
    found = Loss().score(model.batch(ridge.target), context).double()
    torch.testing.assert_close(found, ridge.losses(ridge.optimum, ridge.answers[1]), rtol=1e-4, atol=1e-5)  # what is retrained is the model

    damping = DECAY / float(slopes.square().mean())
    plain = ridge.agreement(exactly(Less(direction="sgd", normalise="none"), context, ridge.pool))
    woodbury, ekfac = (ridge.agreement(exactly(Influence(curvature=kind, damping=damping), context, ridge.pool)) for kind in ("woodbury", "ekfac"))
    assert woodbury > 0.83 and ekfac > 0.8
    assert min(woodbury, ekfac) > plain + 0.05
    assert ridge.agreement(slopes @ slopes.T @ slopes @ asked.T) < plain - 0.1  # the curvature in the place of its inverse


@dataclass(frozen=True)
class Planted:
    """Two rare skills that the model has never seen among twenty that it knows, after a short warm-up on all of them."""

    context: ScoringContext  # WANTED target rows of each rare skill, in sentences that the pool does not hold
    pool: list[Row]  # RARE rows of each rare skill, then the others

    def precision(self, scores: Tensor) -> float:
        """The share of a skill's own rows among the RARE rows that come first for its target rows; mean of the two skills."""
        first = scores.view(len(self.pool), 2, WANTED).mean(2).topk(RARE, dim=0).indices
        return float((first // RARE == torch.arange(2)).double().mean())


@pytest.fixture(scope="module")
def planted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    model, folder = adapted(tiny, Lora(r=4, alpha=8, targets="attention")), tmp_path_factory.mktemp("planted")
    encoder = Encoder.of(model.tokenizer, 128)

    def rows(part: Part, count: int, kind: str, first: int) -> list[Row]:
        made = [row for row in instructions(part, count, 0) if row["kind"] == kind]
        return [row_of(encoder, row["prompt"], row["completion"]) for row in made[:first]]

    pool = [*rows("pool", 600, DESK, RARE), *rows("pool", 600, FLAG, RARE), *rows("pool", 600, OTHER, OTHERS)]
    target = [*rows("target", 2 * WANTED, DESK, WANTED), *rows("target", 2 * WANTED, FLAG, WANTED)]
    settings = Warmup(learning_rate=1e-3, epochs=2, batch_size=8)
    lengths, ids = np.array([len(row.input_ids) for row in pool]), np.array([f"{i:03d}" for i in range(len(pool))])
    data = TrainingSet(ids, pool, lengths, np.ones(len(pool), np.float32))
    plan = plan_steps(data, settings, 0)
    checkpoints = [Checkpoint(folder / f"checkpoint-{step}", step, 1e-3) for step in (len(plan) // 2, len(plan))]

    def after_step(step: int, optimizer: torch.optim.AdamW) -> None:
        for checkpoint in checkpoints:
            if checkpoint.step == step:
                save_checkpoint(model, Workspace(folder), checkpoint.path.name, {"step": step, "learning_rate": 1e-3}, settings, optimizer)

    train(model, data, plan, settings, 0, Workspace(folder), save_every=len(plan), after_step=after_step)
    return Planted(ScoringContext(model=model, checkpoints=checkpoints, target=target), pool)


def by_trak(context: ScoringContext, pool: Sequence[Row]) -> Tensor:
    assert context.model is not None
    scorer, batch, target = Trak(width=512), context.model.batch(pool), context.model.batch(context.target)
    context = replace(context, state=scorer.prepare([batch], context))
    return scorer.score(batch, context) @ scorer.score(target, replace(context, role="target")).T


@pytest.mark.parametrize(
    ("scores", "least"),
    [
        (partial(exactly, Less()), 0.2),  # Adam's momentum, which all rows share, makes up most of a unit direction after so short a warm-up
        (partial(exactly, Less(normalise="none")), 0.5),
        (partial(exactly, Less(direction="sgd")), 0.4),
        (partial(exactly, Influence()), 0.55),
        (partial(exactly, Influence(curvature="woodbury")), 0.4),
        (by_trak, 0.3),
    ],
    ids=["less", "less-not-normalised", "less-sgd", "ekfac", "woodbury", "trak"],
)
def test_rows_of_the_target_skill_come_first(planted: Planted, scores: Callable[[ScoringContext, Sequence[Row]], Tensor], least: float) -> None:
    found = scores(planted.context, planted.pool)
    assert planted.precision(found) > least  # by chance, 12 of 144
    assert planted.precision(found) > planted.precision(found.roll(WANTED, 1)) + 0.1  # the other skill's target rows do not find them as well
