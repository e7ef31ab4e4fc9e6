"""Difference: what a better model knows of a row that a reference does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from curate.errors import ConfigError, ModelError
from curate.interfaces import Batch, Output, Reads, ScoringContext
from curate.passes import Forward, PassScorer, Reader, model_of

if TYPE_CHECKING:
    from torch import Tensor

    from curate.companion import Companion, Reading, Tokenization
    from curate.model import ModelHandle


class Difference(PassScorer):
    """log p_teacher - log p_reference of a row's answer, per token or per byte: high is what the teacher knows and the reference has yet to learn.

        difference(x) = (1 / n) sum over answer tokens t of log p_teacher(x_t | x_<t) - log p_reference(x_t | x_<t)

    0 where both are equal, negative where the reference is the better one; low also for what neither can predict (noise),
    and for what both know. The reference is the run's own base model unless one is named, so that the score is loss(x) less
    the teacher's loss. Over x drawn from the teacher its mean is KL(p_teacher || p_reference) / n.

    The unit belongs to the pair of models, never to a row. Two models that make the same tokens of a row (the same
    vocabulary and chat template) give nats per answer token. For any other two, n is the number of UTF-8 bytes of the
    row's answers, joined by line feeds, for both sums, each over its model's own answer tokens, those that end a turn
    included: nats per byte. A model of other tokens than the run's own encodes the row anew from its turns, by its own
    template. NaN for a row that then has no turns (it came as token ids), that a model's template refuses, or that has
    more tokens than a model has positions.

    Gu et al., "MiniPLM", ICLR 2025; with a model of held-out data for the teacher: Mindermann et al., "Prioritized Training
    on Points that are Learnable, Worth Learning, and Not Yet Learnt" (RHO-LOSS), ICML 2022; with one that is adapted to a
    target: Moore & Lewis, "Intelligent Selection of Language Model Training Data", ACL 2010.
    """

    name: Literal["difference"] = "difference"
    output: ClassVar[Output] = "scores"
    reads: ClassVar[Reads] = "logits"

    teacher: str = Field("", description="The better model: a folder, relative to the recipe, or a Hub id. It must be given.")
    teacher_revision: str | None = Field(None, description="Of a Hub id; None is main.")
    reference: str | None = Field(None, min_length=1, description="The model to compare with, likewise; None: the run's own base model.")
    reference_revision: str | None = Field(None, description="Of a Hub id; None is main.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Of the teacher's weights, and of a reference's that is named.")
    cap: float | None = Field(None, gt=0, description="Clip the score to [-cap, cap], in its unit: a very low p_reference is most often noise. None: no clip.")

    @model_validator(mode="after")
    def _revisions_are_of_something(self) -> Self:
        for model in ("teacher", "reference"):
            if getattr(self, f"{model}_revision") is not None and not getattr(self, model):
                raise ValueError(f"{model}_revision is that of a Hub model, and no {model} is named; add {model}, or leave {model}_revision out")
        return self

    def reader(self, batch: Batch, context: ScoringContext) -> Reader:
        from curate.companion import load, tokenization

        own = model_of(self, context)
        teacher, reference = self._handles(context.folder)
        others = load(teacher, own.device), load(reference, own.device) if reference else None
        return Comparison(batch, tokenization(own.tokenizer), *others, self.cap)

    def inputs(self, folder: Path) -> Mapping[str, str]:
        teacher, reference = self._handles(folder)
        return {"teacher": teacher.fingerprint} | ({"reference": reference.fingerprint} if reference else {})

    def _handles(self, folder: Path) -> "tuple[ModelHandle, ModelHandle | None]":
        if not self.teacher:
            raise ConfigError("difference needs a teacher, the model to learn from: set teacher to a folder, relative to the recipe, or to a Hub id")
        teacher = self._handle("teacher", self.teacher, self.teacher_revision, folder)
        return teacher, self._handle("reference", self.reference, self.reference_revision, folder) if self.reference else None

    def _handle(self, role: str, path: str, revision: str | None, folder: Path) -> "ModelHandle":
        from curate.companion import locate

        try:
            return locate(path, revision, self.dtype, folder)
        except ModelError as error:
            raise ModelError(f"difference.{role}: {str(error).removeprefix('model.')}") from error


class Comparison(Reader):
    """(B,) how much likelier the teacher finds the answers than the reference, which is the model of the shared pass unless another is given."""

    def __init__(self, batch: Batch, made_by: "Tokenization", teacher: "Companion", reference: "Companion | None", cap: float | None) -> None:
        self.batch, self.made_by, self.teacher, self.reference, self.cap = batch, made_by, teacher, reference, cap
        self.weights = () if reference else (None,)
        self.own: Reading | None = None

    def see(self, seen: Forward, number: int) -> None:
        from curate.companion import Reading

        self.own = Reading.of(seen.losses, seen.batch)

    def result(self) -> "Tensor":
        from curate.companion import answer_bytes

        reference = self.reference.read(self.batch, self.made_by) if self.reference else self.own
        if reference is None:
            raise ValueError("a reader of answers was shown none")
        teacher = self.teacher.read(self.batch, self.made_by)
        same = self.teacher.tokenization == (self.reference.tokenization if self.reference else self.made_by)
        score = (reference.nats - teacher.nats) / (teacher.tokens if same else answer_bytes(self.batch))
        return (score if self.cap is None else score.clamp(-self.cap, self.cap)).float()
