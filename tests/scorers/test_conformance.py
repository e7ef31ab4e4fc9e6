"""The conformance suite notices every way in which a scorer can break its contract, and says which."""

from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from curate.core import Row
from curate.errors import ConfigError
from curate.interfaces import Batch, Scorer, ScoringContext
from curate.model import LanguageModel, row_means, token_losses
from curate.testing import Nonconforming, check_scorer


def model_of(context: ScoringContext) -> LanguageModel:
    assert context.model is not None
    return context.model


class Honest(Scorer):
    """The mean of a row's token embeddings."""

    name: Literal["honest"] = "honest"
    output: ClassVar[Literal["vectors", "scores"]] = "vectors"
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]] = "tokens"

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return self.mean(batch, context).detach()

    def mean(self, batch: Batch, context: ScoringContext) -> Tensor:
        states = model_of(context).model.get_input_embeddings()(batch.input_ids) * batch.mask.unsqueeze(-1)
        mean: Tensor = states.sum(1) / batch.mask.sum(1, keepdim=True)
        return mean


class Standardised(Honest):
    """Centres on the batch."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        return mean - mean.mean(0)


class Ordered(Honest):
    """Drops to half precision when the second row is longer than the first, as if batches came sorted."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        return mean.bfloat16().float() if batch.mask[0].sum() < batch.mask[1:2].sum() else mean


class Padded(Honest):
    """Divides by the width of the batch."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context) * batch.mask.sum(1, keepdim=True) / batch.mask.shape[1]


class Unmasked(Honest):
    """Reads the tokens that pad the batch."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(replace(batch, mask=torch.ones_like(batch.mask)), context)


class Crowded(Honest):
    """Drops to half precision when the batch is wide, as a memory-saving path might."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        return mean.bfloat16().float() if batch.mask.any(0).sum() > 40 else mean


class Half(Honest):
    """Returns half precision."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context).half()


class Flat(Honest):
    """Returns one number per row though it promises vectors."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context).sum(1)


class Undefined(Honest):
    """Divides nothing by nothing."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context) * torch.nan


class Attached(Honest):
    """Returns numbers that autograd still follows."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return self.mean(batch, context)


class Backward(Honest):
    """Leaves a gradient behind."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        with torch.enable_grad():
            losses, row = token_losses(model_of(context).model, batch)
            row_means(losses, row, len(batch.mask)).sum().backward()
        return super().score(batch, context)


class Training(Honest):
    """Leaves one module in train mode."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        model_of(context).model.get_input_embeddings().train()
        return super().score(batch, context)


class Frozen(Honest):
    """Freezes a weight and forgets to thaw it."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        model_of(context).model.get_input_embeddings().requires_grad_(False)
        return super().score(batch, context)


class Stepping(Honest):
    """Moves a weight."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        with torch.no_grad():
            model_of(context).model.get_input_embeddings().weight[0, 0] += 1
        return mean


class Masking(Honest):
    """Writes into the batch."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        mean = super().score(batch, context)
        batch.supervised[:, 0] = ~batch.supervised[:, 0]
        return mean


class Drawn(Honest):
    """Adds noise from the generator that everyone shares, too little to matter within the tolerance."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return super().score(batch, context) * (1 + 1e-5 * torch.rand(1))


class Remembering(Honest):
    """Scores the pool on the scale of the role it was last asked for."""

    last: ClassVar[list[float]] = [1.0]

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        scale = self.last[0]
        self.last[0] = {"pool": 1.0, "target": 1.00001}[context.role]
        return super().score(batch, context) * scale


class Wandering(Honest):
    """Reads checkpoints without saying so."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        if not context.checkpoints:
            raise ConfigError("wandering reads the checkpoints of a warm-up, and none was given")
        return super().score(batch, context)


class Mutable(Honest, frozen=False):
    """Can be changed after it was made."""


class Silent(Honest):
    __doc__ = None


BROKEN = [
    (Standardised, "a row alone differs"),
    (Ordered, "another order of the batch"),
    (Padded, "more padding"),
    (Unmasked, "another token in it"),
    (Crowded, "much longer neighbour"),
    (Half, "must return float32, not float16"),
    (Flat, r"must return \(B, D\)"),
    (Undefined, "NaN or infinity"),
    (Attached, "hold on to the graph"),
    (Backward, "leaves another gradient in model.embed_tokens.weight"),
    (Training, "train mode"),
    (Frozen, "requires_grad of model.embed_tokens.weight"),
    (Stepping, "changes the weight model.embed_tokens.weight"),
    (Masking, "changes the batch"),
    (Drawn, "the same call twice gives different bits"),
    (Remembering, "another seed, role or batch"),
    (Wandering, "refuses ordinary rows .* none was given"),
    (Mutable, "must be frozen"),
    (Silent, "needs a docstring"),
]


def test_a_scorer_that_keeps_every_promise_passes(base: ScoringContext, some_rows: list[Row]) -> None:
    check_scorer(Honest(), base, some_rows)


@pytest.mark.parametrize(("broken", "promise"), BROKEN)
def test_the_suite_catches_a_scorer_that_breaks_a_promise(broken: type[Scorer], promise: str, base: ScoringContext, some_rows: list[Row]) -> None:
    before = [(parameter, parameter.detach().clone()) for parameter in model_of(base).model.parameters()]
    with pytest.raises(Nonconforming, match=promise) as caught:
        check_scorer(broken(), base, some_rows)
    assert len(str(caught.value).splitlines()) == 1
    for parameter, value in before:  # and hands the model back as it got it
        assert parameter.equal(value) and parameter.grad is None and parameter.requires_grad
    assert not any(module.training for module in model_of(base).model.modules())


class Trusting(Honest):
    """The first adapter's output, averaged over a row's tokens, under the last checkpoint; stumbles where there is none."""

    warmup: ClassVar[bool] = True

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        model_of(context).use(context.checkpoints[-1])
        return self.adapted(batch, context)

    def adapted(self, batch: Batch, context: ScoringContext) -> Tensor:
        return (self.mean(batch, context) @ next(iter(model_of(context).names.values())).T).detach()


class Trained(Trusting):
    """Refuses where there is none."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        if not context.checkpoints:
            raise ConfigError("trained reads the checkpoints of a warm-up, and none was given")
        return super().score(batch, context)


class Stale(Trusting):
    """Takes the weights as they lie."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        return self.adapted(batch, context)


class Undemanding(Honest):
    """Makes do without the warm-up that it says it needs."""

    warmup: ClassVar[bool] = True


class Wordy(Trained):
    """Refuses in more than a sentence."""

    def score(self, batch: Batch, context: ScoringContext) -> Tensor:
        if not context.checkpoints:
            raise ConfigError("no checkpoints were given\nsee the manual")
        return super().score(batch, context)


def test_a_warm_up_scorer_that_keeps_every_promise_passes(warmed: ScoringContext, some_rows: list[Row]) -> None:
    check_scorer(Trained(), warmed, some_rows)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (Stale, "weights that the model held before"),
        (Trusting, "must refuse a context without checkpoints .* not IndexError"),
        (Undemanding, "must refuse a context without checkpoints"),
        (Wordy, "CurateError of one line"),
    ],
)
def test_the_suite_catches_a_scorer_that_misuses_the_warm_up(broken: type[Scorer], promise: str, warmed: ScoringContext, some_rows: list[Row]) -> None:
    with pytest.raises(Nonconforming, match=promise):
        check_scorer(broken(), warmed, some_rows)


def test_the_trained_weights_are_handed_back_after_a_warm_up_scorer(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = model_of(warmed)
    model.use(warmed.checkpoints[0])
    before = {name: parameter.detach().clone() for name, parameter in model.names.items()}
    check_scorer(Trained(), warmed, some_rows)
    assert all(parameter.equal(before[name]) for name, parameter in model.names.items())


def test_a_context_that_cannot_tell_is_refused(base: ScoringContext, warmed: ScoringContext, some_rows: list[Row]) -> None:
    with pytest.raises(ConfigError, match="with a model"):
        check_scorer(Honest(), replace(base, model=None), some_rows)
    with pytest.raises(ConfigError, match="not all of one length"):
        check_scorer(Honest(), base, [some_rows[0]] * 3)
    with pytest.raises(ConfigError, match="context that has some"):
        check_scorer(Trained(), replace(warmed, checkpoints=()), some_rows)
