"""The inverse empirical Fisher of a sample of gradients, through the sample's Gram matrix.

With sample gradients G (m, D), F = lambda I + (1/m) G^T G, and by Woodbury's identity

    F^{-1} x = (x - G^T (m lambda I + G G^T)^{-1} G x) / lambda.

One m x m Cholesky root serves every product: the same answer as M-FAC's recursion over the rows (Frantar et al.,
"M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", NeurIPS 2021), without its cancellation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, overload

import torch
from torch import Tensor

from curate.curvature import cholesky, finite, ridge, stored, tensors
from curate.errors import DataError

Layers = Mapping[str, Tensor]
FLAT = "all"  # the layer's name where gradients come as one matrix
_BLOCK = 2**23  # numbers that are widened to float64 at a time
_SAME = 1e-3  # squared distance, in units of |x|^2, below which a row is one of the sample, in other batches or bfloat16 too


@dataclass(frozen=True)
class EmpiricalFisher:
    """F^{-1} of m sampled gradients, whole or spread over layers; G is kept in float32 (or float64 if it came so).

    Build O(m^2 D + m^3), product O(m D) and 4 m D bytes for each row. The unit of F is a squared gradient. Layers are the parts of one long
    gradient: the Gram matrix is their sum, so that F keeps what the layers have in common, and layers may be visited one at a time.

    A row of the sample meets itself in F, which takes most of its product away where m < D: x^T F^{-1} x is below m for it, but about
    |x|^2 / lambda, up to D / c, for others. To compare rows of the sample with others, use `held_out`, which leaves a row that
    is found in the sample out of the F that it is measured by, exactly and at no cost to speak of.
    """

    layers: Layers  # (m, P_l) each, D = sum of P_l
    root: Tensor  # (m, m) float64, lower: root root^T = m lambda I + G G^T
    ridge: float  # lambda

    @classmethod
    def build(cls, gradients: Tensor | Layers, damping: float, *, absolute: bool = False) -> Self:
        """From sample gradients, (m, D) or by layer; lambda is `damping`, or that times tr((1/m) G^T G) / D, the mean eigenvalue.

        A row that is not finite in some layer takes no part. Errors: DataError without rows or if layers differ in their number, NumericError
        if no row has a gradient, ConfigError for a damping that is not positive.
        """
        layers = {name: stored(part) for name, part in _by_layer(gradients).items()}
        good = _finite_rows(layers)
        if not bool(good.all()):
            layers = {name: part[good] for name, part in layers.items()}
        if not int(good.sum()):
            raise DataError("empirical Fisher: the sample has no row whose gradient is finite; sample more rows, or look at their losses")
        gram = _sum(_products(part, part) for part in layers.values())
        m, width = len(gram), sum(part.shape[1] for part in layers.values())
        value = ridge(damping, float(gram.trace()) / (m * width), absolute=absolute, where="empirical Fisher")
        return cls(layers, cholesky(gram + m * value * torch.eye(m, dtype=gram.dtype, device=gram.device), "empirical Fisher"), value)

    @overload
    def apply(self, rows: Tensor, *, held_out: bool = False) -> Tensor: ...
    @overload
    def apply(self, rows: Layers, *, held_out: bool = False) -> dict[str, Tensor]: ...
    def apply(self, rows: Tensor | Layers, *, held_out: bool = False) -> Tensor | dict[str, Tensor]:
        """F^{-1} x for rows x, (B, D) or by layer as they came; float32 unless the rows are float64."""
        solution = self.read(rows).solution(held_out=held_out)
        solved = {name: self.correct(name, part, solution) for name, part in _by_layer(rows).items()}
        return solved[FLAT] if isinstance(rows, Tensor) else solved

    def quadratic(self, rows: Tensor | Layers, *, held_out: bool = False) -> Tensor:
        """x^T F^{-1} x (B,) in float64: positive unless x is zero; the self-influence of a row."""
        return self.read(rows).quadratic(held_out=held_out)

    def inner(self, left: Tensor | Layers, right: Tensor | Layers, *, held_out: bool = False) -> Tensor:
        """x^T F^{-1} y for every pair of rows, (B, B') in float64; with `held_out`, rows x of the sample are left out of F, rows y are not.

        In one pass over the layers: add up the plain products, and take `half(x)^T half(y)` of two first passes off them, over lambda.
        """
        one, other = self._matched(left), self._matched(right)
        plain = _sum(_products(part, other[name]) for name, part in one.items())
        return (plain - self.read(one).half(held_out=held_out).T @ self.read(other).half()) / self.ridge

    def read(self, rows: Tensor | Layers) -> "FirstPass":
        """The first pass over rows that are in memory."""
        first = FirstPass(self)
        for name, part in self._matched(rows).items():
            first.add(name, part)
        return first

    def correct(self, name: str, rows: Tensor, solution: Tensor) -> Tensor:
        """The second pass: one layer (B, P_l) of F^{-1} x, from that layer of x and the first pass's `solution()` (B, m)."""
        sample = self._layer(name, rows)
        found = torch.empty_like(stored(rows))
        for part in _columns(rows.shape[1], len(rows) + len(sample)):
            found[:, part] = (rows[:, part].double() - solution @ sample[:, part].double()) / self.ridge
        return found

    def state(self) -> dict[str, Tensor]:
        """What `from_state` rebuilds it from."""
        parts = {f"gradients.{name}": part.contiguous() for name, part in self.layers.items()}
        return {**parts, "root": self.root.contiguous(), "ridge": torch.tensor([self.ridge], dtype=torch.float64)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: str = "cpu") -> Self:
        held = tensors(state, device)
        layers = {key.split(".", 1)[1]: part for key, part in held.items() if key.startswith("gradients.")}
        return cls(layers, held["root"], float(held["ridge"]))

    def _layer(self, name: str, rows: Tensor) -> Tensor:
        if name not in self.layers or self.layers[name].shape[1] != rows.shape[1]:
            shapes = ", ".join(f"{known} {part.shape[1]}" for known, part in list(self.layers.items())[:3])
            raise DataError(f"empirical Fisher: it has no layer {name} of width {rows.shape[1]} (it has {shapes}, ...); build both from the same model")
        return self.layers[name]

    def _matched(self, rows: Tensor | Layers) -> Layers:
        given = _by_layer(rows)
        if set(given) != set(self.layers):
            odd = min(set(given) ^ set(self.layers))
            raise DataError(f"empirical Fisher: rows and sample do not have the same layers ({odd} is in one of them only); build both from the same model")
        for name, part in given.items():
            self._layer(name, part)
        return given


class FirstPass:
    """Reads the layers of some rows x one at a time, in any order, and keeps G x (B, m) and |x|^2 only.

    Quadratic forms need no more than this one pass. `EmpiricalFisher.correct` with `solution()` gives F^{-1} x in a second.
    """

    def __init__(self, fisher: EmpiricalFisher) -> None:
        self._fisher = fisher
        self._read: set[str] = set()
        self._products: Tensor | None = None
        self._squares: Tensor | None = None

    def add(self, name: str, rows: Tensor) -> None:
        """Take in one layer (B, P_l) of the rows."""
        sample = self._fisher._layer(name, rows)
        if name in self._read:
            raise DataError(f"empirical Fisher: layer {name} was read twice; add up the parts of a gradient before")
        if self._products is not None and len(self._products) != len(rows):
            raise DataError(f"empirical Fisher: layer {name} has {len(rows)} rows, the layers before it {len(self._products)}")
        products, squares = _products(rows, sample), torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
        self._products = products if self._products is None else self._products + products
        self._squares = squares if self._squares is None else self._squares + squares
        self._read.add(name)

    def solution(self, *, held_out: bool = False) -> Tensor:
        """s = (m lambda I + G G^T)^{-1} G x, (B, m) in float64; with `held_out`, s_i = 0 for x = g_i and the rest is that of F without row i."""
        solved = torch.cholesky_solve(self._finished()[0].T, self._fisher.root).T
        if held_out:
            self._hold_out(solved)
        return solved

    def half(self, *, held_out: bool = False) -> Tensor:
        """root^{-1} G x, (m, B) in float64; inner products of these are what the sample takes off those of the rows."""
        if held_out:
            return self._fisher.root.T @ self.solution(held_out=True).T
        found: Tensor = torch.linalg.solve_triangular(self._fisher.root, self._finished()[0].T, upper=False)
        return found

    def quadratic(self, *, held_out: bool = False) -> Tensor:
        """x^T F^{-1} x, (B,) in float64."""
        products, squares = self._finished()
        taken = (self.solution(held_out=True) * products).sum(1) if held_out else self.half().square().sum(0)
        return (squares - taken) / self._fisher.ridge

    def _hold_out(self, solved: Tensor) -> None:
        """Take C_i s_i / C_ii off s for each row that is row i of the sample, C being the inverse of m lambda I + G G^T: the rest solves without i."""
        (products, squares), root = self._finished(), self._fisher.root
        norms = root.square().sum(1) - len(root) * self._fisher.ridge
        nearest, place = (squares.unsqueeze(1) + norms - 2 * products).min(1)
        rows = (nearest < _SAME * squares).nonzero().squeeze(1)
        place, order = place[rows], torch.arange(len(rows), device=rows.device)
        one = torch.zeros(len(rows), len(root), dtype=root.dtype, device=root.device)
        one[order, place] = 1
        inverse = torch.cholesky_solve(one.T, root).T
        solved[rows] -= inverse * (solved[rows, place] / inverse[order, place]).unsqueeze(1)

    def _finished(self) -> tuple[Tensor, Tensor]:
        absent = sorted(set(self._fisher.layers) - self._read)
        if absent or self._products is None or self._squares is None:
            raise DataError(f"empirical Fisher: layer {absent[0]} of the rows was not read; give every layer, zeros where there is no gradient")
        return self._products, self._squares


def _by_layer(rows: Tensor | Layers) -> Layers:
    return {FLAT: rows} if isinstance(rows, Tensor) else rows


def _finite_rows(layers: Layers) -> Tensor:
    counts = {name: len(part) for name, part in layers.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"empirical Fisher: the layers differ in their number of rows ({counts or 'no layer'}); give each row's gradient in every layer")
    return torch.stack([finite(part) for part in layers.values()]).all(0)


def _columns(width: int, rows: int) -> Iterator[slice]:
    """Slices of the columns that hold `_BLOCK` numbers of all rows at most."""
    step = max(1, _BLOCK // max(rows, 1))
    return (slice(start, min(start + step, width)) for start in range(0, width, step))


def _products(left: Tensor, right: Tensor) -> Tensor:
    """left right^T in float64, (B, P) and (m, P) to (B, m), a block of columns at a time."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for part in _columns(left.shape[1], len(left) + len(right)):
        total.addmm_(left[:, part].double(), right[:, part].double().T)
    return total


def _sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total += part
    return total
