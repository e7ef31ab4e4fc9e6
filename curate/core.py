"""The nouns of curate: plain, immutable values that every stage passes on.

Shape letters, everywhere: N pool rows, M target rows, D feature width, K kept rows, B batch rows,
T tokens.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from curate.errors import ConfigError, DataError, NumericError

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Strings = NDArray[np.str_]
Turns = tuple[tuple[str, str], ...]
Unit = Literal["rows", "fraction", "tokens", "supervised_tokens"]

_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<suffix>[kKmMbB]?)(?P<percent>\s*%)?(?:\s+(?P<unit>[a-z_]+))?")


class Config(BaseModel):
    """A frozen, strict record: unknown fields, silent conversions and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    def __hash__(self) -> int:
        """Of the fields as JSON, for a field may be a list."""
        return hash((type(self), self.model_dump_json()))


class Content(Protocol):
    """What a row says, apart from its tokens; rows on disk read it when it is asked for."""

    @property
    def turns(self) -> Turns:
        """(role, content) of every turn; plain text is one turn of role "", a row that came as token ids has none."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The columns that the row was read from."""


@dataclass(frozen=True)
class Written:
    """Content in memory."""

    turns: Turns = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One tokenised example; `supervised` marks the tokens that the loss is taken over, both (T,)."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    content: Content = Written()


@dataclass(frozen=True)
class Examples:
    """Tokenised rows in the order of their ids; pool, target and evaluation set are roles of this type."""

    ids: Strings  # (N,) unique
    lengths: Integers  # (N,) tokens
    supervised: Integers  # (N,) tokens that carry loss
    groups: Strings  # (N,) source, label or sub-task
    rows: Sequence[Row]  # (N,) read from disk when indexed

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Features:
    """All that a selector sees of a set of rows: numbers aligned with ids, read-only, possibly memory-mapped.

    `similarity` (N, M) to the target rows takes the place of `vectors` for targeted selectors where it is given.
    """

    ids: Strings
    lengths: Integers
    vectors: Any = None  # (N, D), array-like: shape, dtype and row indexing
    scores: Floats | None = None
    similarity: Any = None  # (N, M), array-like
    groups: Strings = field(default_factory=lambda: np.zeros(0, np.str_))
    supervised: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    content: Sequence[Content] | None = None  # what the rows say, for selectors that read text
    metric: Literal["cosine", "inner"] = "cosine"  # how the vectors are meant to be compared

    @classmethod
    def from_arrays(
        cls,
        vectors: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        *,
        ids: Sequence[str] | None = None,
        lengths: ArrayLike | None = None,
        groups: Sequence[str] | None = None,
        similarity: ArrayLike | None = None,
        supervised: ArrayLike | None = None,
        content: Sequence[Content] | None = None,
    ) -> Self:
        """Features from arrays in memory; ids default to the row number, lengths to one token, groups to one group."""
        arrays = {"vectors": vectors, "scores": scores, "similarity": similarity}
        given: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        known = [len(value) for value in (*given.values(), ids, lengths, groups, content) if value is not None]
        if not known:
            raise DataError("Features need at least one of vectors, scores, similarity, ids, lengths, groups or content")
        n = known[0]
        width = max(1, len(str(max(n - 1, 0))))
        made = cls(
            ids=np.asarray(ids if ids is not None else [f"{i:0{width}d}" for i in range(n)], np.str_),
            lengths=np.ones(n, np.int64) if lengths is None else np.asarray(lengths).astype(np.int64),
            groups=np.full(n, "all") if groups is None else np.asarray(groups, np.str_),
            supervised=np.asarray(supervised if supervised is not None else (lengths if lengths is not None else np.ones(n))).astype(np.int64),
            content=content,
            **given,
        )
        made.check()
        return made

    def __len__(self) -> int:
        return len(self.ids)

    def check(self) -> None:
        """Refuse misaligned arrays, repeated ids and numbers that are not finite; one pass over the rows."""
        n = len(self)
        for name in ("lengths", "vectors", "scores", "similarity", "groups", "supervised", "content"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise DataError(f"features: {name} has {len(value)} rows but there are {n} ids; give one per row")
        if len(np.unique(self.ids)) != n:
            raise DataError("features: ids repeat; every row needs an id of its own")
        for name in ("vectors", "scores", "similarity"):
            value = getattr(self, name)
            for start in range(0, n if value is not None else 0, 4096):
                finite = np.isfinite(np.asarray(value[start : start + 4096]))
                if not finite.all():
                    row = start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
                    raise NumericError(f"features: {name} of row {self.ids[row]} is not finite; drop the row or score it again")

    def blocks(self, size: int = 4096) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32 vectors of up to `size` rows), in order, without holding the whole matrix."""
        if self.vectors is None:
            raise DataError("this method needs vectors, but the features carry none; score with a scorer whose output is vectors")
        for start in range(0, len(self), size):
            yield start, np.asarray(self.vectors[start : start + size], np.float32)


class Budget(Config):
    """How much may be kept: rows, a fraction of the rows (rounded down), tokens, or supervised tokens."""

    amount: float = Field(ge=0, description="How many of the unit; a fraction lies in [0, 1].")
    unit: Unit = "rows"
    elbow: bool = Field(default=False, description="Stop earlier, at the elbow of the gains, where the method has one.")

    @classmethod
    def parse(cls, text: "str | int | Budget") -> "Budget":
        """`1000`, `"5%"`, `"2M tokens"`, `"300k supervised_tokens"`, `"64 rows"`; `"elbow"` and `"elbow 5%"` end where gains level off."""
        if isinstance(text, Budget):
            return text
        if isinstance(text, str) and text.split()[:1] == ["elbow"]:
            return cls.parse(" ".join(text.split()[1:]) or "100%").model_copy(update={"elbow": True})
        match = _AMOUNT.fullmatch(str(text).strip()) if isinstance(text, str | int) and not isinstance(text, bool) else None
        unit = match["unit"] or "rows" if match else ""
        odd_share = match and match["percent"] and (unit != "rows" or match["suffix"])
        if not match or unit not in ("rows", "row", "tokens", "supervised_tokens") or odd_share:
            raise ConfigError(f"budget {text!r} is not understood; write a number of rows (1000), a share (5%), or tokens (2M tokens, 300k supervised_tokens)")
        amount = Fraction(match["number"]) * _SUFFIX[match["suffix"].lower()]
        if match["percent"]:
            if amount > 100:
                raise ConfigError(f"budget {text!r} is more than the whole pool; the largest share is 100%")
            return cls(amount=float(amount / 100), unit="fraction")
        return cls(amount=float(amount), unit="rows" if unit == "row" else unit)  # type: ignore[arg-type]

    def __str__(self) -> str:
        exact = Decimal(repr(self.amount))  # in all its digits: a recipe is written back with it
        number, share = (f"{value.normalize():f}" for value in (exact, exact * 100))
        size = {"fraction": f"{share}%", "rows": number}.get(self.unit, f"{number} {self.unit}")
        return f"elbow {size}" if self.elbow else size

    def costs(self, pool: Features) -> tuple[Integers, int]:
        """What each row costs (N,), and the capacity that a selection must not exceed."""
        if self.unit not in ("rows", "fraction"):
            return (pool.lengths if self.unit == "tokens" else pool.supervised), int(self.amount)
        share = Fraction(str(self.amount)) * len(pool) if self.unit == "fraction" else Fraction(str(self.amount))
        return np.ones(len(pool), np.int64), min(int(share), len(pool))

    def fill(self, order: ArrayLike, pool: Features) -> Integers:
        """Rows of `order` (best first) taken while they fit; a row that is too dear is passed over, later ones may fit."""
        costs, capacity = self.costs(pool)
        ordered = np.asarray(order, np.int64)
        if self.unit in ("rows", "fraction"):
            return ordered[:capacity]
        kept, left, cheapest = [], capacity, int(costs.min()) if len(costs) else 0
        for row in ordered:
            if left < cheapest:
                break
            if costs[row] <= left:
                kept.append(row)
                left -= int(costs[row])
        return np.asarray(kept, np.int64)


@dataclass(frozen=True)
class Certificate:
    """How far from optimal a selection can be: numbers that anyone can recompute from the features."""

    kind: str
    sense: Literal["max", "min"]
    objective: float
    bound: float
    gap: float  # relative, 0 is proven optimal
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The kept rows, best first, each with the weight of its loss."""

    indices: Integers  # (K,)
    weights: NDArray[np.float32]  # (K,) > 0
    gains: Floats | None = None  # (K,) what each row added when it was taken
    certificate: Certificate | None = None
    prefix_consistent: bool = True  # a smaller budget gives a prefix of this order
    curves: Mapping[str, Floats] = field(default_factory=dict)  # numbers over a method's own steps, by name, that a report draws
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # what the selection from a pool that has changed goes on from, and `ids` (N,)

    @classmethod
    def of(cls, indices: ArrayLike, *, weights: ArrayLike | None = None, **rest: Any) -> Self:
        """A selection of these rows, with weight one unless weights are given."""
        rows = np.asarray(indices, np.int64)
        return cls(rows, np.ones(len(rows), np.float32) if weights is None else np.asarray(weights, np.float32), **rest)

    def __len__(self) -> int:
        return len(self.indices)

    def validate(self, pool: Features, budget: Budget) -> Self:
        """Itself, if its rows are distinct, of the pool, within the budget and finitely weighted; an error otherwise."""
        costs, capacity = budget.costs(pool)
        rows = self.indices
        if len(rows) and (rows.min() < 0 or rows.max() >= len(pool)):
            raise DataError(f"selection names row {rows.max()} of a pool of {len(pool)}")
        if len(np.unique(rows)) != len(rows):
            raise DataError("selection takes a row twice")
        if costs[rows].sum() > capacity:
            raise DataError(f"selection costs {costs[rows].sum()} {budget.unit}, the budget allows {capacity}")
        if len(self.weights) != len(rows) or not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            raise NumericError("selection weights must be one positive finite number per kept row")
        if self.gains is not None and len(self.gains) != len(rows):
            raise DataError("selection gains must be one number per kept row")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """What training leaves: trainable weights, optimizer moments by parameter name, and how it got there."""

    path: Path  # weights.safetensors, moments.safetensors, state.json
    step: int
    learning_rate: float  # mean over the steps since the previous checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one task: per item (n,), and their mean with its standard error."""

    task: str
    metric: str
    ids: Strings
    scores: Floats

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if len(self.scores) else float("nan")

    @property
    def standard_error(self) -> float:
        """Of the mean over items, sqrt(s^2 / n); NaN below two items."""
        return float(np.std(self.scores, ddof=1) / np.sqrt(len(self.scores))) if len(self.scores) > 1 else float("nan")


@dataclass(frozen=True)
class Artifact:
    """An immutable directory found by content; its manifest names every file with size and hash."""

    key: str
    path: Path
    manifest: Mapping[str, Any]
