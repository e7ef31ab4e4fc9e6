"""The verbs: what a contributor implements. One abstract method each; the fields of a class are its configuration."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from curate.core import Budget, Checkpoint, Config, Features, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from curate.model import LanguageModel

T = TypeVar("T")
R = TypeVar("R")


class Cluster(Protocol):
    """Runs a function over items; where, and how many at a time, never changes the answer."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Iterator[R]:
        """The results in the order of the items."""


class Serial:
    """The cluster of one: this process, one item after the other."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Iterator[R]:
        return map(function, items)


@dataclass(frozen=True)
class Context:
    """What changes the time a method takes (device, cluster), and the seed it draws from."""

    seed: int = 0
    device: str = "cpu"
    cluster: Cluster = field(default_factory=Serial)


@dataclass(frozen=True)
class ScoringContext(Context):
    """What a scorer may use besides its batch: the model, the warm-up's checkpoints, and whose rows these are."""

    model: "LanguageModel | None" = None
    checkpoints: Sequence[Checkpoint] = ()
    role: Literal["pool", "target"] = "pool"
    state: Any = None  # what `prepare` returned


@dataclass(frozen=True)
class Batch:
    """Right-padded rows on the model's device; `supervised` marks the tokens that carry loss."""

    input_ids: "Tensor"  # (B, T) int64
    mask: "Tensor"  # (B, T) bool, False on padding
    supervised: "Tensor"  # (B, T) bool


class Component(Config, ABC):
    """A named, immutable piece of a recipe: config and object are one thing."""

    name: str
    version: ClassVar[int] = 1  # bump when equal fields give different numbers

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__module__.startswith("curate.") and cls.__module__ != __name__:
            stem = cls.__module__.rsplit(".", 1)[-1]
            expected = "".join(part.capitalize() for part in re.split("_", stem))
            if cls.__name__ != expected:
                raise TypeError(f"{cls.__module__} must define {expected}, not {cls.__name__}: the class is the CamelCase of its file")


class Scorer(Component):
    """Turns each row into a vector or a number, row by row: any batch and any order give the same rows."""

    output: ClassVar[Literal["vectors", "scores"]]
    reads: ClassVar[Literal["text", "tokens", "logits", "hidden", "gradients"]]
    warmup: ClassVar[bool] = False  # whether it reads checkpoints of a warm-up

    @abstractmethod
    def score(self, batch: Batch, context: ScoringContext) -> "Tensor":
        """(B, D) float32 if the output is vectors, (B,) if it is scores."""

    def prepare(self, sample: Iterable[Batch], context: ScoringContext) -> Any:
        """What the scorer needs of the whole pool (document frequencies, curvature factors); stored once."""
        return None


class Selector(Component):
    """Chooses rows: a pure function of features, budget, target and seed."""

    needs: ClassVar[frozenset[str]] = frozenset()  # of {"vectors", "scores", "similarity"}
    needs_one_of: ClassVar[frozenset[str]] = frozenset()  # likewise, where any one of them will do
    seeded: ClassVar[bool] = True  # whether another seed may give other rows; if not, all seeds of a run share one selection

    @abstractmethod
    def select(self, pool: Features, budget: Budget, *, target: Features | None = None, context: Context = Context()) -> Selection:
        """Distinct rows of the pool, best first, within the budget."""


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
