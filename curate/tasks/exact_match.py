"""Whether the model writes the right answer."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from curate.interfaces import Answer, Item, Task

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class ExactMatch(Task):
    """1 if the greedily generated answer equals the right one after trimming, else 0.

    With `extract: number` the last number of both is compared, without thousands separators.
    """

    name: Literal["exact_match"] = "exact_match"
    metric: ClassVar[str] = "exact_match"
    generates: ClassVar[bool] = True

    max_tokens: int = Field(32, ge=1, description="Longest generation.")
    extract: Literal["text", "number"] = "text"
    ignore_case: bool = False

    def grade(self, item: Item, answer: Answer) -> float:
        said, right = self._read(answer.generation), self._read(item.reference)
        return float(said is not None and said == right)

    def _read(self, text: str) -> str | float | None:
        if self.extract == "number":
            found = _NUMBER.findall(text)
            return float(found[-1].replace(",", "")) if found else None
        trimmed = text.strip()
        return trimmed.lower() if self.ignore_case else trimmed
