"""Self-influence: how much a row would change the loss on itself, curvature counted."""

from typing import ClassVar, Literal

from curate.curved import Curved
from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import PassScorer, Reader


class SelfInfluence(Curved, PassScorer):
    """g(x)^T F^-1 g(x), the leverage of a row: how far the loss on it would fall if the model took it up.

    g is the gradient of the row's mean answer loss at the end of the warm-up and F the damped empirical Fisher of a sample
    (see `influence`), with woodbury without the row itself. Never negative, unit nats^2 / Fisher; high is rare, hard or
    mislabelled: nothing else in the sample points that way. Needs no target. Mean over checkpoints if there are several.

    Koh and Liang, ICML 2017; Feldman and Zhang, "What Neural Networks Memorize and Why", NeurIPS 2020.
    """

    name: Literal["self_influence"] = "self_influence"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "gradients"

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.readers import QuadraticForms

        return QuadraticForms(self.weights(context), self.modules, self.curvature, context)
