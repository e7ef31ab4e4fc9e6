"""Whether the model finds the right answer the likeliest of those offered."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from curate.interfaces import Answer, Item, Task
from curate.randomness import uniform


class MultipleChoice(Task):
    """1 if the right answer has the highest log-likelihood of all offered ones, else 0.

    The answers offered are `options`, or the distinct answers of all items; `candidates` limits them to the right
    one and others drawn by (seed, item id). `normalise` divides by tokens or bytes, for answers of unlike length.
    """

    name: Literal["multiple_choice"] = "multiple_choice"
    metric: ClassVar[str] = "accuracy"

    options: tuple[str, ...] | None = Field(None, description="The answers to offer; default: the distinct answers of all items.")
    candidates: int | None = Field(None, ge=2, description="How many answers to offer per item.")
    normalise: Literal["none", "tokens", "bytes"] = "none"
    seed: int = Field(0, ge=0)

    def choices(self, item: Item, references: Sequence[str]) -> Sequence[str]:
        offered = list(self.options or references)
        if item.reference not in offered:
            offered.append(item.reference)
        if self.candidates is not None and len(offered) > self.candidates:
            others = [answer for answer in offered if answer != item.reference]
            draw = uniform(self.seed, f"candidates {item.id}", np.array(others))
            offered = [item.reference] + [others[int(i)] for i in np.argsort(draw, kind="stable")[: self.candidates - 1]]
        return sorted(offered)

    def grade(self, item: Item, answer: Answer) -> float:
        lengths = {
            "none": [1] * len(answer.choices),
            "tokens": answer.tokens,
            "bytes": [max(1, len(choice.encode())) for choice in answer.choices],
        }[self.normalise]
        values = [value / length for value, length in zip(answer.loglikelihoods, lengths, strict=True)]
        return float(answer.choices[int(np.argmax(values))] == item.reference)
