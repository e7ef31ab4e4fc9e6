"""Sentence embeddings by any encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from curate.data.text import Part
from curate.encoder_folder import Pooling
from curate.interfaces import Batch, Reads, ScoringContext, VectorScorer

if TYPE_CHECKING:
    from torch import Tensor


class Embed(VectorScorer):
    """The vector that a sentence encoder gives to the row's words: near in meaning is near in cosine.

    The encoder's last hidden states h_1 .. h_T are pooled over the T tokens of the text (mean: sum_t h_t / T, cls: h_1,
    last: h_T), pass through the encoder's own Dense and Normalize modules, and are scaled to unit length. Similarity is
    the cosine, in [-1, 1]. The words are the row's turns joined by line feeds, without the template of the model that is
    trained; a text longer than `max_length` tokens, special ones included, is cut at its end. Padding takes no part. A
    row without words (token ids, or a blank part) gives NaN. Needs no model, target or warm-up; one forward pass of the encoder.

    Reimers & Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019.
    """

    name: Literal["embed"] = "embed"
    reads: ClassVar[Reads] = "text"

    path: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="A folder, relative to the recipe, or a Hub id; sentence-transformers or plain transformers."
    )
    revision: str | None = Field(None, description="Of a Hub id; None is main.")
    part: Part = Field("all", description="all the turns, those before an answer (prompt), or the answers; plain text is all answer.")
    pooling: Pooling = Field("auto", description="mean, cls or last hidden state; auto: what the encoder's folder says, else mean.")
    max_length: int | None = Field(None, ge=1, description="Tokens, special ones included, that a text is cut to; None: what the encoder was made for.")
    normalise: bool = Field(True, description="Scale to unit length; False leaves the vector as the encoder's own modules do.")

    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        from curate.data.text import text_of
        from curate.encoder import load
        from curate.encoder_folder import locate
        from curate.errors import DataError

        if len(batch.content) != len(batch.input_ids):
            raise DataError(f"embed reads the words of rows, and this batch has them for {len(batch.content)} of {len(batch.input_ids)} rows")
        encoder = load(locate(self.path, self.revision, context.folder), context.device)
        texts = [text_of(content, self.part) for content in batch.content]
        return encoder.encode(texts, pooling=self.pooling, max_length=self.max_length, normalise=self.normalise).cpu()

    def inputs(self, folder: Path) -> Mapping[str, str]:
        from curate.encoder_folder import fingerprint, locate, read_layout

        path = locate(self.path, self.revision, folder, refresh=True)
        read_layout(path).settings(self.pooling, self.max_length)
        return {"encoder": fingerprint(path)}
