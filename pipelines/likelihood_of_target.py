"""The likelihood of the target rows, asked of every model: it moves before a task's metric does, and can move the other way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.core import Artifact, Evaluation
from curate.data.examples import opened
from curate.evaluate import Graded
from curate.model import LanguageModel, ModelHandle, micro_batches, row_means, token_losses

MOST_ROWS = 512
_TOKENS = 4096  # padded, of one forward pass


@dataclass(frozen=True)
class TargetLikelihood:
    """Mean negative log-likelihood of every target row, in nats per token that carries loss; the first `MOST_ROWS` in the order of their ids."""

    label: str
    target: str | None  # whose models are asked; None for all
    examples: Path
    inputs: tuple[str, ...]
    metric: str = "nll"
    higher_is_better: bool = False

    def identity(self) -> dict[str, Any]:
        """What of it decides the scores, besides the inputs."""
        return {"label": self.label, "likelihood of rows": MOST_ROWS}

    def ask(self, model: LanguageModel, handle: ModelHandle) -> Graded:
        """The loss of every row under this model."""
        import torch

        examples = opened(self.examples)
        count = min(len(examples), MOST_ROWS)
        losses = np.zeros(count, np.float64)
        with torch.no_grad():
            for chosen in micro_batches(examples.lengths[:count], _TOKENS):
                batch = model.batch([examples.rows[int(row)] for row in chosen])
                values, row = token_losses(model.model, batch)
                losses[chosen] = row_means(values, row, len(chosen)).cpu().numpy()
        ids = examples.ids[:count]
        records = [{"id": str(row), "score": float(loss)} for row, loss in zip(ids, losses, strict=True)]
        tokens = int(examples.lengths[:count].sum())
        return Graded(Evaluation(self.label, self.metric, ids, losses), records, tokens, tokens, 0, "")


def likelihood_of(name: str, target: Artifact) -> TargetLikelihood:
    """The examination of one target's rows; without a name, of all targets together."""
    return TargetLikelihood(f"likelihood of {name or 'the target'}", name or None, target.path, (target.key,))
