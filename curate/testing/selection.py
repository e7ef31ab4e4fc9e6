"""What a selection promises beyond its budget: certificates that anyone can recompute, no copies, and the same rows on any machine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from curate.core import Budget, Certificate, Features, Selection
from curate.interfaces import Context, Selector
from curate.order import subset
from curate.testing.component import require

T = TypeVar("T")
R = TypeVar("R")

_CLOSE = 1e-6


class Backwards:
    """A cluster that runs the last item first, as workers that finish in any order do."""

    def map(self, function: Callable[[T], R], items: Sequence[T], *, label: str = "") -> Iterator[R]:
        """The results in the order of the items."""
        done = [function(item) for item in reversed(items)]
        return reversed(done)


class OnDisk:
    """An array as features on disk offer it: length, shape, dtype and rows by slice or index, and no arithmetic."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)
        self.shape, self.dtype, self.ndim = self._values.shape, self._values.dtype, self._values.ndim

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> Any:
        return self._values[rows].copy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._values.astype(dtype or self.dtype)


def same(pool: Features, one: Selection, other_pool: Features, other: Selection) -> bool:
    """Whether two selections keep the same rows in the same order with the same weights."""
    return pool.ids[one.indices].tolist() == other_pool.ids[other.indices].tolist() and bool(np.allclose(one.weights, other.weights))


def check_promises(selector: Selector, pool: Features, target: Features) -> None:
    """Certificates, copies, and invariance to cluster and storage."""
    for budget in (Budget(amount=7), Budget(amount=float(pool.lengths.sum() // 3), unit="tokens")):
        kept = selector.select(pool, budget, target=target, context=Context(seed=5))
        _check_certificate(selector, pool, budget, target, kept)
        other = selector.select(pool, budget, target=target, context=Context(seed=5, cluster=Backwards()))
        require(same(pool, kept, pool, other), f"{selector.name}: the order in which workers finish changes the rows")
        arrays: dict[str, Any] = {name: OnDisk(getattr(pool, name)) for name in ("vectors", "similarity") if getattr(pool, name) is not None}
        stored = selector.select(replace(pool, **arrays), budget, target=target, context=Context(seed=5))
        require(same(pool, kept, pool, stored), f"{selector.name}: features on disk give other rows than the same features in memory")
    if selector.diminishing:
        gains = selector.select(pool, Budget(amount=12), target=target, context=Context(seed=5)).gains
        require(gains is not None, f"{selector.name}: calls its gains diminishing, but gives none")
        rise = float(np.diff(np.asarray(gains)).max(initial=0.0))
        require(rise <= _CLOSE, f"{selector.name}: calls its gains diminishing, but one rises by {rise:.3g}")
    if selector.diverse:
        _check_copies(selector, pool, target)


def _check_certificate(selector: Selector, pool: Features, budget: Budget, target: Features, kept: Selection) -> None:
    again = selector.certify(pool, budget, kept.indices, target=target, context=Context(seed=5))
    if kept.certificate is None or again is None:
        require(kept.certificate is again, f"{selector.name}: select and certify must both give a certificate, or neither")
        return
    require(again.kind == kept.certificate.kind, f"{selector.name}: certify gives a {again.kind}, select a {kept.certificate.kind}")
    for name in ("objective", "bound", "gap"):
        mine, theirs = getattr(kept.certificate, name), getattr(again, name)
        close = abs(mine - theirs) <= _CLOSE * max(1.0, abs(mine), abs(theirs))
        require(close, f"{selector.name}: {name} {mine!r} of the selection is {theirs!r} when certify computes it again")
    _check_bound(selector, again)


def _check_bound(selector: Selector, certificate: Certificate) -> None:
    slack = _CLOSE * max(1.0, abs(certificate.bound))
    ahead = certificate.objective - certificate.bound
    beyond = ahead if certificate.sense == "max" else -ahead
    require(beyond <= slack, f"{selector.name}: the objective {certificate.objective!r} is better than its bound {certificate.bound!r}")


def _check_copies(selector: Selector, pool: Features, target: Features) -> None:
    half = len(pool) // 2
    ones = np.ones(2 * half, np.int64)
    twice = replace(subset(pool, np.tile(np.arange(half), 2)), ids=pool.ids[: 2 * half], lengths=ones, supervised=ones)
    for rows in (half // 2, half):
        kept = selector.select(twice, Budget(amount=float(rows)), target=target, context=Context(seed=5)).indices % half
        require(len(np.unique(kept)) == rows, f"{selector.name}: takes a copy of a kept row while different rows are left")
