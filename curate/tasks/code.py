"""Whether the program that the model writes passes the item's tests."""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from curate.errors import ConfigError, DataError
from curate.interfaces import Answer, Item, Task
from curate.sandbox import Limits, Outcome, Program, run_all

_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)  # language, content
_LANGUAGES = ("", "python", "python3", "py")
_PLACE = re.compile(r"\{(prompt|generation)\}")
_REFUSED = "task code runs programs that the model writes; set execute: true to allow that, in a sandbox with limits, without network and without your files"


class Code(Task):
    """1 if the greedily written program passes the tests, which are the right answer of the item, else 0.

    The program is the first fenced block of Python in the answer, or all of it, up to the first of `stop`, put into `template`;
    the tests run after it in the same interpreter. An empty program is wrong. Only Python's own library is there.
    What the sandbox keeps from a program, and what it does not, is said in `curate.sandbox`.
    """

    name: Literal["code"] = "code"
    metric: ClassVar[str] = "pass@1"
    generates: ClassVar[bool] = True

    execute: bool = Field(False, description="Allow programs that the model writes to run on this machine, in a sandbox.")
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="Longest generation.")
    template: str = Field("{generation}", description="The program; {prompt} is the item's last question, for models that continue it.")
    stop: tuple[str, ...] = Field((), description="Texts that end the program where they first stand, such as a line that starts a new class.")
    seconds: int = Field(10, ge=1, le=600, description="CPU time of a program; on the clock it may take three times as long.")
    memory: int = Field(1024, ge=128, le=65536, description="MiB of address space of a program.")

    @model_validator(mode="after")
    def _can_run(self, info: ValidationInfo) -> Self:
        if "{generation}" not in self.template:
            raise ValueError(f"template {self.template!r} lacks {{generation}}, so that nothing the model writes would run; put it where the program goes")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty text, which would end every program at once; remove it")
        if info.mode == "json" and not self.execute:  # how recipes are read: refused here, and not after hours
            raise ValueError(_REFUSED)
        return self

    def grade(self, item: Item, answer: Answer) -> float:
        return self.grades([item], [answer])[0]

    def grades(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[float]:
        return [float(outcome.passed) for outcome in self.outcomes(items, answers)]

    def check(self, items: Sequence[Item]) -> None:
        if not self.execute:
            raise ConfigError(_REFUSED)
        for item in items:
            if not item.reference.strip():
                raise DataError(f"item {item.id} has no tests, so that any program would pass; give its tests as the answer, or drop the item")

    def outcomes(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[Outcome]:
        """How each program went, several run at once; ConfigError without `execute`."""
        if not self.execute:
            raise ConfigError(_REFUSED)
        written = [self.program(item, answer.generation) for item, answer in zip(items, answers, strict=True)]
        asked = [program for program in written if program]
        limits = Limits(cpu_seconds=self.seconds, seconds=3.0 * self.seconds, memory=self.memory << 20)
        ran = iter(run_all(asked, limits))
        return [next(ran) if program else Outcome("failed", "the program is empty", 0.0, (), "") for program in written]

    def program(self, item: Item, generation: str) -> Program | None:
        """What is run for this answer; None if the model wrote no program."""
        blocks = (block[2] for block in _FENCE.finditer(generation) if block[1].lower() in _LANGUAGES)
        code = next(blocks, generation)
        ends = [place for text in self.stop if (place := code.find(text)) >= 0]
        code = code[: min(ends, default=len(code))]
        if not code.strip():
            return None
        parts = {"generation": code, "prompt": item.messages[-1][1]}
        return Program(_PLACE.sub(lambda place: parts[place[1]], self.template), item.reference)
