"""The verbs: what a contributor implements. One abstract method each; the fields of a class are its configuration."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from numpy.typing import NDArray
from pydantic import Field

from curate.core import Budget, Certificate, Checkpoint, Config, Content, Features, Integers, Row, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from curate.compression.prefix import Prefix
    from curate.inference.stores import DecodeCache, Memory
    from curate.model import LanguageModel

T = TypeVar("T")
R = TypeVar("R")
Output = Literal["vectors", "scores", "similarity"]
Reads = Literal["text", "tokens", "logits", "hidden", "gradients"]
Stored = Literal["float32", "float16", "int8", "sign"]
Modules = Literal["all", "attention"] | Annotated[list[str], Field(min_length=1)]  # which layers, or the endings of their names
State = Mapping[str, Any]  # arrays and tensors by name: what `prepare` leaves, stored as safetensors


class Cluster(Protocol):
    """Runs a function over items; where, and how many at a time, never changes the answer."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Iterator[R]:
        """The results in the order of the items."""


class Serial:
    """The cluster of one: this process, one item after the other."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Iterator[R]:
        return map(function, items)


class Journal(Protocol):
    """Decisions that cost money or minutes, in the order they were made: what it holds is never asked for again."""

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """Every decision so far."""

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep a decision for good before the next is made; an entry holds what JSON can hold."""


@dataclass(frozen=True)
class Context:
    """What changes the time a method takes (device, cluster), the seed it draws from, and where it notes decisions that are dear to repeat."""

    seed: int = 0
    device: str = "cpu"
    cluster: Cluster = field(default_factory=Serial)
    journal: Journal | None = None
    folder: Path = Path()  # that relative paths in a method's fields start from
    previous: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # `Selection.state` of the pool before it grew; empty if it did not


@dataclass(frozen=True)
class ScoringContext(Context):
    """What a scorer may use besides its batch: the model, the warm-up's checkpoints, and whose rows these are."""

    model: "LanguageModel | None" = None
    checkpoints: Sequence[Checkpoint] = ()
    role: Literal["pool", "target"] = "pool"
    target: Sequence[Row] = ()  # (M,) the target's rows in the order of their ids
    state: State | None = None  # what `prepare` returned


@dataclass(frozen=True)
class Batch:
    """Right-padded rows on the model's device; `supervised` marks the tokens that carry loss."""

    input_ids: "Tensor"  # (B, T) int64
    mask: "Tensor"  # (B, T) bool, False on padding
    supervised: "Tensor"  # (B, T) bool
    content: Sequence[Content] = ()  # (B,) what the rows say


class Component(Config, ABC):
    """A named, immutable piece of a recipe: config and object are one thing."""

    name: str
    version: ClassVar[int] = 1  # bump when equal fields give different numbers

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__module__.startswith("curate.") and "name" in cls.__dict__ and cls.__module__ != __name__:
            stem = cls.__module__.rsplit(".", 1)[-1]
            expected = "".join(part.capitalize() for part in re.split("_", stem))
            if cls.__name__ != expected:
                raise TypeError(f"{cls.__module__} must define {expected}, not {cls.__name__}: the class is the CamelCase of its file")


class Scorer(Component):
    """Turns each row into a vector, a number or its similarities to the target, row by row: any batch and any order give the same rows."""

    output: ClassVar[Output]
    reads: ClassVar[Reads]  # text and tokens need no model
    targeted: ClassVar[bool] = False  # whether it reads the target's rows
    sample_rows: ClassVar[int | None] = 1024  # how many rows of the pool `prepare` reads, drawn by their ids; None for all of them

    @property
    def warmup(self) -> bool:
        """Whether it reads the checkpoints of a warm-up."""
        return False

    @abstractmethod
    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        """(B, D) float32 if the output is vectors, (B,) if it is scores, (B, M) to the rows of `context.target` if it is similarity."""

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> State | None:
        """What the scorer needs of the whole pool or of the target (document frequencies, curvature factors); computed once and stored."""
        return None

    @property
    def prepared(self) -> "Scorer":
        """The scorer that its state is stored for: itself, or itself with the fields that `prepare` does not read at their defaults."""
        return self

    @property
    def within(self) -> "Scorer | None":
        """A scorer that it is made of, and whose state it reads: under `of:` in the state of its context, already when it prepares its own."""
        return None

    def inputs(self, folder: Path) -> Mapping[str, str]:
        """Hashes of the files, beyond pool, target and model, that decide its numbers; an error that says which one is not to be had."""
        return {}


class VectorScorer(Scorer):
    """A scorer whose output is vectors, and how they are kept on disk."""

    output: ClassVar[Output] = "vectors"

    store: Stored = Field("float32", description="Numbers on disk: float32, float16, int8 (scaled per row) or sign (one bit); the report says what it costs.")


class Selector(Component):
    """Chooses rows: a pure function of features, budget, target and seed."""

    needs: ClassVar[frozenset[str]] = frozenset()  # of {"vectors", "scores", "similarity"}
    needs_one_of: ClassVar[frozenset[str]] = frozenset()  # likewise, where any one of them will do
    seeded: ClassVar[bool] = True  # whether another seed may give other rows; if not, all seeds of a run share one selection
    heeds_target: ClassVar[bool] = True  # whether another target may give other rows; if not, all targets of a run share one selection
    diminishing: ClassVar[bool] = False  # whether gains of rows never rise, so that their elbow says where to stop
    diverse: ClassVar[bool] = False  # whether it takes no copy of a kept row while a different row fits

    @abstractmethod
    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        """Distinct rows of the pool, best first, within the budget."""

    def inputs(self, folder: Path) -> Mapping[str, str]:
        """Hashes of files, beyond features and target, that decide its rows; an error that says which one is not to be had."""
        return {}

    def certify(self, pool: Features, budget: Budget, rows: Integers, *, target: Features | None = None, context: Context = Context()) -> Certificate | None:
        """The certificate of these rows (K,), in the order they were taken, from the features alone; None where the method proves nothing.

        Computed from the definitions and not from what `select` remembered, so that anyone can hold it against the certificate of the selection.
        """
        return None


@dataclass(frozen=True)
class Item:
    """One question of an evaluation: the turns (role, content) before the answer, and the right answer."""

    id: str
    messages: tuple[tuple[str, str], ...]
    reference: str


@dataclass(frozen=True)
class Answer:
    """What the model said: log-likelihood (nats) and tokens of each offered answer, or the text it generated."""

    choices: Sequence[str] = ()
    loglikelihoods: Sequence[float] = ()
    tokens: Sequence[int] = ()
    generation: str = ""


class Task(Component):
    """An evaluation: which answers to offer the model, and how to grade what it says."""

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    generates: ClassVar[bool] = False  # free text instead of offered answers

    def choices(self, item: Item, references: Sequence[str]) -> Sequence[str]:
        """The answers to weigh for this item, out of all items' references (sorted, distinct); the right one is among them."""
        return [item.reference]

    @abstractmethod
    def grade(self, item: Item, answer: Answer) -> float:
        """The score of one item in the metric's unit."""

    def grades(self, items: Sequence[Item], answers: Sequence[Answer]) -> Sequence[float]:
        """The scores of all items; by default one after the other."""
        return [self.grade(item, answer) for item, answer in zip(items, answers, strict=True)]

    def check(self, items: Sequence[Item]) -> None:
        """Refuse, before any model is asked, what cannot be graded."""


class Press(Component):
    """Compresses the cache of a prefix: what its tokens are worth, how many each layer and head may keep, what becomes of the rest. Never exact."""

    simulated: ClassVar[bool] = False  # whether it only masks, and no byte is saved
    merges: ClassVar[bool] = False  # whether it stores entries that are no single token
    whole: ClassVar[Mapping[str, Any] | None] = None  # the fields that keep everything; by default `keep: 1`
    error: ClassVar[float] = 0.0  # how far logits are then from the full cache's, in standard deviations: for presses that round numbers

    covers: Literal["prefix", "prompt"] = Field(
        "prefix",
        description="What is compressed: what several requests begin with, or every prompt whole, one after the other.",
    )

    @property
    def reads_inputs(self) -> bool:
        """Whether it needs what every layer's attention is given, beside queries, keys and values."""
        return False

    @abstractmethod
    def compress(self, prefix: "Prefix") -> "Memory":
        """What is stored of a prefilled prefix; the tokens after it attend to this in its place, at their true positions."""

    def calibrate(self, model: "LanguageModel", texts: Sequence[Sequence[int]], seed: int) -> State | None:
        """What the press needs to know of the model, measured on token sequences: once, on the base model, and frozen for all of its variants."""
        return None

    def decoder(self, prefix: "Prefix", layer: int) -> "DecodeCache | None":
        """A cache of one layer that goes on evicting while one sequence is generated; None where generated tokens are simply added."""
        return None
