"""Whether the model writes the right answer."""

from typing import ClassVar, Literal

from pydantic import Field

from curate.answers import Extract, read_answer
from curate.interfaces import Answer, Item, Task


class ExactMatch(Task):
    """1 if the greedily generated answer equals the right one after trimming, else 0.

    With `extract: number` the last number of both is compared, without thousands separators.
    """

    name: Literal["exact_match"] = "exact_match"
    metric: ClassVar[str] = "exact_match"
    generates: ClassVar[bool] = True

    max_tokens: int = Field(32, ge=1, description="Longest generation.")
    extract: Extract = "text"
    ignore_case: bool = False

    def grade(self, item: Item, answer: Answer) -> float:
        said, right = self._read(answer.generation), self._read(item.reference)
        return float(said is not None and said == right)

    def _read(self, text: str) -> str | float | None:
        read = read_answer(text, self.extract)
        return read.lower() if self.ignore_case and isinstance(read, str) else read
