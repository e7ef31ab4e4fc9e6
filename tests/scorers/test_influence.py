"""Influence and self-influence are dense products with an inverse Fisher that is formed as a matrix in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from curate.core import Row
from curate.errors import ConfigError
from curate.exact_similarity import ExactSimilarity
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.scorers.influence import Influence
from curate.scorers.less import Less
from curate.scorers.self_influence import SelfInfluence

LAYER = ["layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj"]
DAMPING = 0.2


def model_of(context: ScoringContext) -> LanguageModel:
    assert context.model is not None
    return context.model


def names_of(model: LanguageModel) -> list[str]:
    return sorted(name for name in model.names if any(part in name for part in LAYER))


def gradient(model: LanguageModel, row: Row) -> dict[str, torch.Tensor]:
    """By transformers' own loss and autograd, in float64 afterwards."""
    batch = model.batch([row])
    model.model.zero_grad()
    model.model(input_ids=batch.input_ids, labels=batch.input_ids.masked_fill(~batch.supervised, -100)).loss.backward()
    found = {name: model.names[name].grad.double().clone() for name in names_of(model)}  # type: ignore[union-attr]
    model.model.zero_grad(set_to_none=True)
    return found


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


@pytest.fixture
def split(warmed: ScoringContext, some_rows: list[Row]) -> tuple[ScoringContext, list[Row], list[Row]]:
    """The context with target rows, the pool rows and the sample."""
    model_of(warmed).use(warmed.checkpoints[-1])
    return replace(warmed, target=some_rows[6:]), some_rows[:4], some_rows[2:6]


def inverse_by_sample(model: LanguageModel, sample: list[Row], without: Row) -> torch.Tensor:
    """Of the sample's Fisher, without one row where that is among the sample; the count and the damping stay those of all."""
    rows = torch.stack([flat(gradient(model, row)) for row in sample])
    others = torch.stack([flat(gradient(model, row)) for row in sample if row is not without])
    damping = DAMPING * float((rows**2).sum(0).mean()) / len(rows)
    return torch.linalg.inv(others.T @ others / len(rows) + damping * torch.eye(rows.shape[1], dtype=torch.float64))


def test_woodbury_is_the_inverse_of_the_dense_fisher_of_the_sample(split: tuple[ScoringContext, list[Row], list[Row]]) -> None:
    context, pool, sample = split
    model = model_of(context)
    scorer = ExactSimilarity(of=Influence(curvature="woodbury", damping=DAMPING, modules=LAYER))
    found = scorer.score(model.batch(pool), replace(context, state=scorer.prepare([model.batch(sample)], context)))
    wanted = torch.zeros(len(pool), len(context.target), dtype=torch.float64)
    for i, x in enumerate(pool):  # two of them are not in the sample
        inverse = inverse_by_sample(model, sample, without=x)
        wanted[i] = torch.stack([flat(gradient(model, x)) @ inverse @ flat(gradient(model, y)) for y in context.target])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_self_influence_is_the_quadratic_form_of_the_same_inverse(split: tuple[ScoringContext, list[Row], list[Row]]) -> None:
    context, pool, sample = split
    model = model_of(context)
    scorer = SelfInfluence(curvature="woodbury", damping=DAMPING, modules=LAYER)
    found = scorer.score(model.batch(pool), replace(context, state=scorer.prepare([model.batch(sample)], context)))
    wanted = [float(flat(gradient(model, x)) @ inverse_by_sample(model, sample, without=x) @ flat(gradient(model, x))) for x in pool]
    assert found.tolist() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_kronecker_influence_and_self_influence_are_products_with_the_dense_inverse_of_each_layer(
    split: tuple[ScoringContext, list[Row], list[Row]], kind: Any
) -> None:
    context, pool, sample = split
    model = model_of(context)
    scorer = ExactSimilarity(of=Influence(curvature=kind, damping=DAMPING, modules=LAYER))
    state = scorer.prepare([model.batch(sample)], context)
    found = scorer.score(model.batch(pool), replace(context, state=state))
    inverse = {}
    for name in names_of(model):
        deltas, inputs = (torch.as_tensor(state[f"of:0|{part}.{name}"]).double() for part in ("deltas", "inputs"))
        eigenvalues, ridge = (torch.as_tensor(state[f"of:0|{part}.{name}"]).double() for part in ("eigenvalues", "ridge"))
        basis = torch.kron(deltas, inputs)
        inverse[name] = basis @ torch.diag(1 / (eigenvalues.flatten() + ridge)) @ basis.T
        if kind == "ekfac":  # measured on the sample itself
            rotated = torch.stack([(deltas.T @ gradient(model, row)[name] @ inputs) ** 2 for row in sample]).mean(0)
            torch.testing.assert_close(eigenvalues, rotated, rtol=1e-3, atol=1e-5 * float(rotated.max()))
    grads = {id(row): gradient(model, row) for row in (*pool, *context.target)}

    def product(x: Row, y: Row) -> float:
        return sum(float(grads[id(x)][name].flatten() @ inverse[name] @ grads[id(y)][name].flatten()) for name in inverse)

    wanted = torch.tensor([[product(x, y) for y in context.target] for x in pool])
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-3 * float(wanted.abs().max()))
    single = SelfInfluence(curvature=kind, damping=DAMPING, modules=LAYER)
    own = single.score(model.batch(pool), replace(context, state=single.prepare([model.batch(sample)], context)))
    assert own.tolist() == pytest.approx([product(x, x) for x in pool], rel=2e-3)


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_vectors_estimate_the_exact_influence(split: tuple[ScoringContext, list[Row], list[Row]], kind: Any) -> None:
    context, pool, sample = split
    model = model_of(context)
    scorer = Influence(curvature=kind, damping=DAMPING, modules=LAYER, width=65536)
    exact = ExactSimilarity(of=scorer)
    wanted = exact.score(model.batch(pool), replace(context, state=exact.prepare([model.batch(sample)], context)))
    context = replace(context, state=scorer.prepare([model.batch(sample)], context))
    ours = scorer.score(model.batch(pool), context)
    theirs = scorer.score(model.batch(list(context.target)), replace(context, role="target"))
    sizes = ours.norm(dim=1, keepdim=True) * theirs.norm(dim=1)
    assert float(((ours @ theirs.T - wanted) / sizes).abs().max()) < 5 / 65536**0.5


def test_a_very_large_damping_leaves_the_plain_inner_product(split: tuple[ScoringContext, list[Row], list[Row]]) -> None:
    context, pool, sample = split
    model = model_of(context)
    last = replace(context, checkpoints=context.checkpoints[-1:])
    plain = ExactSimilarity(of=Less(direction="sgd", normalise="none", modules=LAYER))
    wanted = plain.score(model.batch(pool), replace(last, state=plain.prepare([], last)))
    scorer = ExactSimilarity(of=Influence(curvature="woodbury", damping=1e8, modules=LAYER))
    found = scorer.score(model.batch(pool), replace(context, state=scorer.prepare([model.batch(sample)], context)))
    torch.testing.assert_close(found / found.abs().max(), wanted / wanted.abs().max(), rtol=1e-3, atol=1e-4)


def test_influence_without_its_state_is_refused_in_one_line(split: tuple[ScoringContext, list[Row], list[Row]]) -> None:
    context, pool, _ = split
    with pytest.raises(ConfigError, match="needs the state that its `prepare` makes"):
        Influence(modules=LAYER, width=64).score(model_of(context).batch(pool), replace(context, role="target"))


def test_more_sampled_gradients_than_memory_holds_are_refused(split: tuple[ScoringContext, list[Row], list[Row]], monkeypatch: pytest.MonkeyPatch) -> None:
    context, _, sample = split
    monkeypatch.setattr("curate.fisher.MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="lower fisher_rows, name fewer modules, or use curvature: ekfac"):
        Influence(curvature="woodbury", modules=LAYER).prepare([model_of(context).batch(sample)], context)


def test_woodbury_has_no_vectors_and_no_modules_of_unit_length(split: tuple[ScoringContext, list[Row], list[Row]]) -> None:
    context, pool, _ = split
    with pytest.raises(ConfigError, match="has no vectors, only similarities"):
        Influence(curvature="woodbury").score(model_of(context).batch(pool), context)
    with pytest.raises(ValueError, match="cannot be normalised one by one"):
        Influence(curvature="woodbury", normalise="module")
