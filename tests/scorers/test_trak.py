"""TRAK is its formula, with autograd's gradient of the margin, an explicit projection and a dense solve."""

from dataclasses import replace

import pytest
import torch

from curate.core import Row
from curate.errors import ConfigError
from curate.interfaces import ScoringContext
from curate.model import LanguageModel
from curate.projection import CountSketch
from curate.scorers.trak import Trak

WIDTH, DAMPING = 48, 0.1


def output(model: LanguageModel, row: Row) -> tuple[torch.Tensor, float]:
    """The mean over answer tokens of log(p / (1 - p)), and of 1 - p."""
    ids = torch.from_numpy(row.input_ids).long()
    p = model.model(input_ids=ids[None]).logits[0].double().softmax(-1)
    right = torch.stack([p[t - 1, ids[t]] for t in range(1, len(ids)) if row.supervised[t]])
    return (right.log() - (1 - right).log()).mean(), float((1 - right).mean().detach())


def feature(model: LanguageModel, row: Row, stream: int) -> tuple[torch.Tensor, float]:
    model.model.zero_grad()
    margin, doubt = output(model, row)
    margin.backward()
    flat = torch.cat([model.names[name].grad.flatten() for name in sorted(model.names)])  # type: ignore[union-attr]
    model.model.zero_grad(set_to_none=True)
    return CountSketch(WIDTH, 0, stream).dense(len(flat)).double() @ flat.double(), doubt


def test_inner_products_are_trak(warmed: ScoringContext, some_rows: list[Row]) -> None:
    model = warmed.model
    assert model is not None
    pool, target, sample = some_rows[:3], some_rows[3:5], some_rows
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    for stream, checkpoint in enumerate(warmed.checkpoints):
        model.use(checkpoint)
        phi = torch.stack([feature(model, row, stream)[0] for row in sample])
        kernel = phi.T @ phi
        inverse = torch.linalg.inv(kernel + DAMPING * kernel.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64))
        for i, x in enumerate(pool):
            own, doubt = feature(model, x, stream)
            for j, y in enumerate(target):
                wanted[i, j] += float(feature(model, y, stream)[0] @ inverse @ own) * doubt / len(warmed.checkpoints)
    scorer = Trak(width=WIDTH, damping=DAMPING)
    context = replace(warmed, state=scorer.prepare([model.batch(sample[:5]), model.batch(sample[5:])], warmed))
    ours = scorer.score(model.batch(pool), context)
    theirs = scorer.score(model.batch(target), replace(context, role="target"))
    assert ours.shape == (3, 2 * WIDTH)
    torch.testing.assert_close((ours @ theirs.T).double(), wanted, rtol=2e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_target_without_the_kernel_is_refused(warmed: ScoringContext, some_rows: list[Row]) -> None:
    assert warmed.model is not None
    with pytest.raises(ConfigError, match="needs the kernel"):
        Trak(width=WIDTH).score(warmed.model.batch(some_rows), replace(warmed, role="target"))
