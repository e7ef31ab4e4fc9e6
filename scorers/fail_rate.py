"""Fail rate: how often the model answers a row's question wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from curate.answers import Extract, read_answer
from curate.core import Row
from curate.errors import DataError
from curate.interfaces import Batch, Output, Reads, Scorer, ScoringContext, State
from curate.passes import model_of

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

ColumnIs = Literal["fail_rate", "pass_rate", "grades"]


class FailRate(Scorer):
    """The share of sampled answers to a row's question that are wrong, 1 - pass rate: in [0, 1], no unit, high is hard.

        fail_rate(x) = 1 - (1 / S) sum over samples s of [answer_s = the row's last answer]

    The number is read from a `column` of the row, and then needs no model, or S answers are sampled from the base model. The
    prompt is every token before the row's last answer; a sample ends at the tokenizer's end of text, at the special token
    that ends the row's own answer, or after `max_tokens`. An answer is right if its text, or its last number, equals the
    reference's. Sampled rates move in steps of 1 / S with a standard error of sqrt(f (1 - f) / S), 0.25 at most for S = 4.
    To collect c right answers takes c / (1 - f) trials in expectation (negative binomial), which is endless where f = 1.

    Draws are a function of (seed, prompt tokens, sample, step), so rows with one prompt share their samples. NaN for a row
    without an answer, with no token but special ones before it, or whose reference has no number where `extract` is number;
    from a column, for a value that is missing or not of the form that `column_is` says.

    Tong et al., "DART-Math: Difficulty-Aware Rejection Tuning for Mathematical Problem-Solving", NeurIPS 2024.
    """

    name: Literal["fail_rate"] = "fail_rate"
    output: ClassVar[Output] = "scores"
    version: ClassVar[int] = 2

    column: str | None = Field(None, min_length=1, description="A column of the rows that holds the number; null: sample answers from the base model.")
    column_is: ColumnIs = Field("fail_rate", description="What the column holds: a rate in [0, 1], or grades, a list of true/false or 1/0, true for right.")
    samples: int = Field(4, ge=1, description="Answers that are sampled for each row.")
    temperature: float = Field(1.0, gt=0, description="Logits are divided by it; towards 0 all samples are the greedy answer.")
    top_p: float = Field(0.95, gt=0, le=1, description="Tokens are drawn from the likeliest ones whose probabilities reach this sum.")
    max_tokens: int = Field(128, ge=1, description="Longest answer; a sample that is cut off here is graded as it stands.")
    extract: Extract = Field("text", description="What is compared: the whole text without white space around it, or its last number.")
    seed: int = Field(0, description="Of the samples.")

    @model_validator(mode="after")
    def _column_is_named(self) -> Self:
        if self.column is None and self.column_is != "fail_rate":
            raise ValueError(f"column_is: {self.column_is} says how to read a column, and none is named; add column, or leave column_is out")
        return self

    @property
    def reads(self) -> Reads:  # type: ignore[override]  # a column needs no model
        return "logits" if self.column is None else "text"

    @property
    def sample_rows(self) -> int | None:  # type: ignore[override]  # only a column is looked for
        return 0 if self.column is None else None

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State | None:
        """Nothing; DataError where no row has the column. It reads up to the first that does."""
        if self.column is not None and not any(self.column in content.fields for batch in sample for content in batch.content):
            raise DataError(f"fail_rate: no row of the pool has a column {self.column!r}; name one that the pool's files have")
        return None

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        import torch

        if self.column is not None:
            return torch.tensor([self._graded(content.fields.get(self.column)) for content in batch.content], dtype=torch.float32)
        model = model_of(self, context)
        rates = torch.full((len(batch.input_ids),), float("nan"), device=model.device)
        for row, rate in self._sampled(model, self._questions(batch, model)):
            rates[row] = rate
        return rates

    def _graded(self, value: Any) -> float:
        """The fail rate that a column's value stands for; NaN if it is none."""
        try:
            numbers = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            return float("nan")
        if self.column_is == "grades":
            graded = numbers.ndim == 1 and numbers.size > 0 and numbers.dtype.kind in "biuf" and bool(np.isin(numbers, (0, 1)).all())
            return 1 - float(numbers.mean()) if graded else float("nan")
        if numbers.ndim or numbers.dtype.kind not in "iuf" or not 0 <= numbers <= 1:
            return float("nan")
        return float(numbers) if self.column_is == "fail_rate" else 1 - float(numbers)

    def _questions(self, batch: Batch, model: "LanguageModel") -> "Iterator[_Question]":
        """What the rows ask, those left out that cannot be graded."""
        from curate.evaluate import split_answer

        special, end = frozenset(model.tokenizer.all_special_ids), model.tokenizer.eos_token_id
        positions = int(getattr(model.model.config, "max_position_embeddings", None) or 2**31)
        ids, supervised = batch.input_ids.cpu().numpy(), batch.supervised.cpu().numpy()
        for number in np.flatnonzero(supervised.any(1)):
            prompt, answer = split_answer(Row(ids[number], supervised[number]))
            right = read_answer(model.tokenizer.decode(answer, skip_special_tokens=True), self.extract)
            room = min(self.max_tokens, positions - len(prompt))
            if right is not None and room > 0 and not special.issuperset(prompt):
                closing = [token for token in answer if token in special][-1:]
                yield _Question(int(number), prompt, right, room, frozenset([*closing, *([end] if end is not None else [])]))

    def _sampled(self, model: "LanguageModel", questions: "Iterable[_Question]") -> Iterator[tuple[int, float]]:
        """(row, fail rate) of each question whose samples could be drawn."""
        from curate.inference.engine import Engine
        from curate.inference.sampling import Nucleus, sample

        engine, nucleus = Engine(model), Nucleus(self.temperature, self.top_p)
        alike: dict[tuple[int, frozenset[int]], list[_Question]] = {}
        for question in questions:
            alike.setdefault((question.room, question.stop), []).append(question)
        for (room, stop), asked in alike.items():
            prompts = [question.prompt for question in asked]
            answers = sample(engine, prompts, samples=self.samples, seed=self.seed, nucleus=nucleus, max_tokens=room, stop=sorted(stop))
            for question, said in zip(asked, answers, strict=True):
                if said is not None:
                    texts = [model.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said]
                    yield question.row, sum(read_answer(text, self.extract) != question.right for text in texts) / self.samples


@dataclass(frozen=True)
class _Question:
    """A row as something to be asked and graded."""

    row: int  # in the batch
    prompt: list[int]
    right: str | float  # what the reference says
    room: int  # tokens that an answer may have
    stop: frozenset[int]  # tokens that end it
