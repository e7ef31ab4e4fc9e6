"""Rules that a selection must keep whatever the method: which rows may be kept, which must be, and quotas per kind of row."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from curate.core import Config, Features, Strings
from curate.errors import DataError

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
REST = "*"  # in a quota: every kind that it does not name


class Amount:
    """Units of the budget, or a share of it."""

    def __init__(self, given: Any) -> None:
        text: Any = given.text if isinstance(given, Amount) else given
        share = _SHARE.fullmatch(text) if isinstance(text, str) else None
        number = share or (isinstance(text, int) and not isinstance(text, bool) and text >= 0)
        if not number or (share and float(share[1]) > 100):
            raise ValueError(f"{text!r} is no amount; write units of the budget (50) or a share of it (20%)")
        self.text: int | str = text
        self._share = float(share[1]) / 100 if share else None

    def of(self, capacity: int) -> float:
        """In units of a budget that allows `capacity` of them."""
        return float(self.text) if self._share is None else self._share * capacity

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amount) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


Amounts = dict[str, Annotated[Amount, PlainValidator(Amount), PlainSerializer(lambda amount: amount.text)]]


class Quota(Config):
    """At least and at most so much of the budget for the rows of each kind."""

    by: str = Field("group", description="What tells kinds apart: group, length, or a column of the pool such as license or language.")
    bands: list[int] = Field([], description="For by: length, the token counts at which a new band begins, such as [128, 512].")
    min: Amounts = Field({}, description="Least of a kind, in units of the budget (50) or as a share of it (20%).")
    max: Amounts = Field({}, description="Most of a kind; the kind '*' is every kind that is not named.")

    @model_validator(mode="after")
    def _sensible(self) -> "Quota":
        if (self.by == "length") != bool(self.bands):
            raise ValueError("bands belong to by: length, and by: length needs them, such as bands: [128, 512]")
        if sorted(set(self.bands)) != self.bands:
            raise ValueError(f"bands {self.bands} must rise, such as [128, 512]")
        if REST in self.min:
            raise ValueError("a least amount needs a kind; '*' is for the most only")
        if not self.min and not self.max:
            raise ValueError("a quota needs a min or a max, such as max: {wiki: 20%}")
        return self


class Rules(Config):
    """Which rows may be kept, which must be, and how much of each kind."""

    where: dict[str, list[str]] = Field({}, description="Only rows of these kinds, by group or by a column: {language: [en, de]}.")
    tokens: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(None, description="Only rows of so many tokens: [least, most].")
    force: list[str] = Field([], description="Ids of rows that are kept in any case, first of all.")
    forbid: list[str] = Field([], description="Ids of rows that are never kept.")
    quotas: list[Quota] = Field([], description="Least and most of each kind.")

    @model_validator(mode="after")
    def _consistent(self) -> "Rules":
        both = set(self.force) & set(self.forbid)
        if both:
            raise ValueError(f"row {min(both)} is both forced and forbidden; remove it from one of the lists")
        if self.tokens and not 0 <= self.tokens[0] <= self.tokens[1]:
            raise ValueError(f"tokens {self.tokens} hold no length; give the least and the most, such as [16, 1024]")
        return self

    @property
    def empty(self) -> bool:
        """Whether every selection keeps them."""
        return self == NO_RULES

    @property
    def columns(self) -> set[str]:
        """The columns of the pool that they read."""
        return {*self.where, *(quota.by for quota in self.quotas)} - {"group", "length"}


NO_RULES = Rules()


def kinds(pool: Features, by: str, bands: Sequence[int] = ()) -> Strings:
    """(N,) the kind of each row: its group, its band of length, or what a column says; DataError if no row has the column."""
    if by == "group":
        return pool.groups
    if by == "length":
        names = np.array([f"{low}-{high - 1}" for low, high in zip([0, *bands], bands, strict=False)] + [f"{bands[-1]}+"])
        return names[np.searchsorted(np.asarray(bands), pool.lengths, side="right")]
    if pool.content is None:
        raise DataError(f"rules by {by} need the columns of the pool, and these features carry no content; give Features content, or use group or length")
    found = [_said(row.fields, by) for row in pool.content]
    if all(value is None for value in found):
        raise DataError(f"no row of the pool has a column {by!r}; rules can go by group, length or a column of the pool")
    return np.array(["" if value is None else value for value in found], np.str_)


def _said(fields: Mapping[str, Any], column: str) -> str | None:
    value = fields.get(column)
    return None if value is None else str(value)


def allowed(pool: Features, rules: Rules) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(N,) which rows may be kept; DataError for ids that are not in the pool and for filters that leave nothing."""
    place = {str(row): i for i, row in enumerate(pool.ids)} if rules.force or rules.forbid else {}
    for name, ids in (("force", rules.force), ("forbid", rules.forbid)):
        absent = [row for row in ids if row not in place]
        if absent:
            raise DataError(f"rules.{name}: row {absent[0]} is not among the {len(pool)} usable rows of the pool ({len(absent)} such); remove it from the list")
    kept = np.ones(len(pool), np.bool_)
    for by, wanted in rules.where.items():
        kept &= np.isin(kinds(pool, by), wanted)
    if rules.tokens:
        kept &= (pool.lengths >= rules.tokens[0]) & (pool.lengths <= rules.tokens[1])
    if rules.force:
        kept[[place[row] for row in rules.force]] = True
    if rules.forbid:
        kept[[place[row] for row in rules.forbid]] = False
    if not kept.any():
        raise DataError(f"rules: none of the {len(pool)} rows of the pool may be kept; widen where or tokens")
    return kept
