"""A second language model beside the run's own, such as a teacher: it reads the same rows in tokens of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from curate.core import Content, Row, Turns
from curate.data.conversation import Conversation
from curate.data.template import Encoder
from curate.data.text import text_of
from curate.errors import DataError
from curate.interfaces import Batch
from curate.model import LanguageModel, ModelHandle, check_architecture, fresh, micro_batches, resolve, token_losses
from curate.model_folder import positions, read_config
from curate.settings import ModelSpec

Tokenization = tuple[str, str]  # hashes of a vocabulary and of a chat template: equal ones give a row the same tokens


@dataclass(frozen=True)
class Reading:
    """What a model makes of the answers of B rows."""

    nats: Tensor  # (B,) float64 sum over a row's answer tokens of -log p; NaN for a row that was not read or has none
    tokens: Tensor  # (B,) how many those are

    @classmethod
    def of(cls, losses: Tensor, batch: Batch) -> "Reading":
        """From the losses (S,) of all answer tokens of the batch; summed in one order, so that equal models read equal sums."""
        answers = batch.supervised[:, 1:]
        spread = torch.zeros(answers.shape, dtype=torch.float64, device=losses.device)
        spread[answers] = losses.double()
        tokens = answers.sum(1)
        return cls(spread.sum(1).masked_fill(tokens == 0, torch.nan), tokens)

    @classmethod
    def nothing(cls, rows: int, device: Any) -> "Reading":
        """Of rows that were not read."""
        return cls(torch.full((rows,), torch.nan, dtype=torch.float64, device=device), torch.zeros(rows, dtype=torch.int64, device=device))

    def put(self, places: Tensor, other: "Reading") -> None:
        """Take another reading for the rows at these places."""
        self.nats[places], self.tokens[places] = other.nats, other.tokens


@dataclass(frozen=True)
class Companion:
    """A loaded model with the encoder of its own tokenizer and template; for reading only."""

    model: LanguageModel
    encoder: Encoder  # its max_length is the most tokens that the model reads
    tokenization: Tokenization

    def read(self, batch: Batch, made_by: Tokenization) -> Reading:
        """The answers of the batch, whose tokens were made by that tokenization.

        Where it is the companion's own the tokens are read as they are, else the rows are encoded anew from their turns.
        A row that has no turns then, or that has more tokens than the model has positions, is not read.
        """
        return self._as_they_are(batch) if made_by == self.tokenization else self._anew(batch)

    def _as_they_are(self, batch: Batch) -> Reading:
        limit, found = self.encoder.max_length, Reading.nothing(len(batch.input_ids), batch.input_ids.device)
        fits = batch.mask.sum(1) <= limit
        if fits.any():
            ids, mask, supervised = (part[fits, :limit] for part in (batch.input_ids, batch.mask, batch.supervised))
            found.put(fits, self._losses(Batch(ids, mask, supervised)))
        return found

    def _anew(self, batch: Batch) -> Reading:
        found = Reading.nothing(len(batch.input_ids), batch.input_ids.device)
        rows = self._encoded(_contents(batch))
        places, lengths = np.array(list(rows), np.int64), np.array([len(row.input_ids) for row in rows.values()], np.int64)
        for part in micro_batches(lengths, batch.input_ids.numel()):
            chosen = places[part]
            found.put(torch.from_numpy(chosen).to(found.nats.device), self._losses(self.model.batch([rows[int(place)] for place in chosen])))
        return found

    def _encoded(self, contents: Sequence[Content]) -> dict[int, Row]:
        """The rows that have turns and fit, by their places."""
        said = {place: _conversation(turns) for place, content in enumerate(contents) if (turns := content.turns)}
        encoded = self.encoder.encode(list(said.values()))
        return {place: row for place, row in zip(said, encoded, strict=True) if isinstance(row, Row)}

    def _losses(self, batch: Batch) -> Reading:
        with torch.no_grad():
            return Reading.of(token_losses(self.model.model, batch)[0], batch)


@lru_cache(maxsize=8)
def locate(path: str, revision: str | None, dtype: Literal["float32", "bfloat16"], folder: Path) -> ModelHandle:
    """A model by folder, relative to `folder`, or Hub id, checked without its weights; ModelError says what is missing."""
    handle = resolve(ModelSpec(path=path, revision=revision, dtype=dtype), folder)
    check_architecture(handle)
    return replace(handle, max_length=positions(read_config(handle.path), handle.path))


@lru_cache(maxsize=2)
def load(handle: ModelHandle, device: str = "cpu") -> Companion:
    """The same companion for every task of this process: two are kept, beside the run's own model."""
    model = fresh(handle, device)
    return Companion(model, Encoder.of(model.tokenizer, handle.max_length), tokenization(model.tokenizer))


@lru_cache(maxsize=4)
def tokenization(tokenizer: Any) -> Tokenization:
    """What makes a row's tokens."""
    tokenizer("a")  # undoes the padding and truncation that were saved with it, which are no part of a row's tokens
    found = Encoder.of(tokenizer, 1).fingerprint()
    return found["vocabulary"], found["template"]


def answer_bytes(batch: Batch) -> Tensor:
    """(B,) float64 UTF-8 bytes of each row's answers, joined by line feeds; NaN for a row that has no turns."""
    texts = [text_of(content, "answer") for content in _contents(batch)]
    sizes = [float("nan") if text is None else float(len(text.encode("utf-8", "surrogatepass"))) for text in texts]
    return torch.tensor(sizes, dtype=torch.float64, device=batch.input_ids.device)


def _conversation(turns: Turns) -> Conversation:
    """A row as it was before any tokenizer saw it; the one turn of plain text has the role ""."""
    return Conversation(text=turns[0][1]) if turns[0][0] == "" else Conversation(messages=turns)


def _contents(batch: Batch) -> Sequence[Content]:
    if len(batch.content) != len(batch.input_ids):
        raise DataError(
            f"a model of another tokenizer reads the words of rows, and this batch has them for {len(batch.content)} of {len(batch.input_ids)} rows; "
            "give each row its content"
        )
    return batch.content
