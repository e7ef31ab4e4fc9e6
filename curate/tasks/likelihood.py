"""How likely the model finds the right answers."""

from typing import ClassVar, Literal

from curate.interfaces import Answer, Item, Task


class Likelihood(Task):
    """Mean negative log-likelihood of the right answer, in nats per token of the answer; lower is better.

    The end of the turn belongs to the answer. It moves before accuracy does, and can move the other way.
    """

    name: Literal["likelihood"] = "likelihood"
    metric: ClassVar[str] = "nll"
    higher_is_better: ClassVar[bool] = False

    def grade(self, item: Item, answer: Answer) -> float:
        return -answer.loglikelihoods[0] / answer.tokens[0]
