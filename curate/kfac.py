"""K-FAC and EK-FAC: the Fisher of each linear layer as a Kronecker product, inverted in its eigenbasis.

For y = W a with W (O, I), and delta_t the gradient of a row's loss at y_t, the row's gradient is G = sum over its tokens of delta_t a_t^T.
Taking tokens as independent of each other, and delta as independent of a, the Fisher over rows is

    E_rows[vec(G) vec(G)^T] ~ S x A,    A = E_tokens[a a^T],    S = E_rows[sum over tokens of delta delta^T],

with the Kronecker product x for vec in row-major order. The scale matters: a row's loss is the mean over its n answer tokens, so each delta carries
1/n, and S sums over a row's tokens and takes the mean over rows. The product is then of the Fisher's own size, the unit a squared gradient.
K-FAC's eigenvalues are the products of those of S and A; EK-FAC measures them, which is the best diagonal in that basis:

    Lambda = E_rows[(Q_S^T G Q_A)^2],    F^{-1} V = Q_S [(Q_S^T V Q_A) / (Lambda + lambda)] Q_A^T.

Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015; George et al., "Fast Approximate
Natural Gradient Descent in a Kronecker-factored Eigenbasis", NeurIPS 2018; Grosse et al., "Studying Large Language Model Generalization
with Influence Functions", 2023. Each layer is a block of its own: what layers have in common is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from curate.curvature import finite, ridge, stored, tensors
from curate.errors import DataError, NumericError
from curate.gradients import sums_of_outer_products


@dataclass(frozen=True)
class Eigenbasis:
    """The Fisher of one layer: Q (Lambda + lambda) Q^T with Q = Q_S x Q_A. Columns of Q_S and Q_A are eigenvectors."""

    deltas: Tensor  # Q_S (O, O) float32
    inputs: Tensor  # Q_A (I, I) float32
    eigenvalues: Tensor  # Lambda (O, I) float64: squares of small gradients fall out of float32
    ridge: float  # lambda

    def rotate(self, gradients: Tensor) -> Tensor:
        """Q_S^T V Q_A for V (B, O, I), in float64."""
        return self.deltas.double().T @ gradients.double() @ self.inputs.double()

    def apply(self, gradients: Tensor) -> Tensor:
        """F^{-1} V, (B, O, I) to (B, O, I)."""
        return self.deltas.double() @ (self.rotate(gradients) / (self.eigenvalues + self.ridge)) @ self.inputs.double().T


    def half(self, left: Tensor, right: Tensor) -> Tensor:
        """F^{-1/2} G for G = sum_t left_t right_t^T, (B, T, O) and (B, T, I) to (B, O, I) float32: its inner products are those through F^{-1}.

        The symmetric root, rotated back: which of many eigenbases the device's solver gave does not show. Rotations keep float32's precision,
        and nothing is divided by less than the ridge. Whichever is cheaper is rotated first, the factors or their product.
        """
        tokens, high, wide = left.shape[1], left.shape[2], right.shape[2]
        if tokens * (high**2 + wide**2) < high * wide * (high + wide):
            rotated = sums_of_outer_products(left.float() @ self.deltas, right.float() @ self.inputs)
        else:
            rotated = self.deltas.T @ sums_of_outer_products(left, right) @ self.inputs
        return self.deltas @ (rotated * (self.eigenvalues + self.ridge).rsqrt().float()) @ self.inputs.T


class FactorSums:
    """The first pass: A and S of each layer, from the activations of a sample; O(O^2 + I^2) float64 numbers a layer."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}  # of a a^T (I, I), of delta delta^T (O, O)
        self._counts: dict[str, tuple[int, int]] = {}  # tokens, rows

    def add(self, name: str, inputs: Tensor, deltas: Tensor, mask: Tensor | None = None) -> None:
        """Add a layer's inputs a (B, T, I) and deltas (B, T, O), of the tokens that `mask` (B, T) holds true (all if not given).

        Give the mask of all tokens that are not padding: prompt tokens have deltas too, through attention. A row that is not finite takes no part. For a
        weight that is kept transposed, (I, O), call the deltas inputs and the inputs deltas: the product of the factors is the same.
        """
        kept = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device) if mask is None else mask.bool()
        a, delta = (part.masked_fill(~kept.unsqueeze(2), 0) for part in (inputs, deltas))
        good = finite(a) & finite(delta)
        a, delta = a[good].flatten(0, 1).double(), delta[good].flatten(0, 1).double()
        tokens, rows = self._counts.get(name, (0, 0))
        self._counts[name] = (tokens + int(kept[good].sum()), rows + int(good.sum()))
        if name not in self._sums:
            self._sums[name] = (a.new_zeros(a.shape[1], a.shape[1]), delta.new_zeros(delta.shape[1], delta.shape[1]))
        for total, part in zip(self._sums[name], (a, delta), strict=True):
            total.addmm_(part.T, part)

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (I, I), the mean over tokens, and S (O, O), the sum over a row's tokens and mean over rows."""
        tokens, rows = self._counts[name]
        if not tokens:
            raise NumericError(f"curvature of {name}: no row of the sample is finite, so there is nothing to invert; look at the rows' losses")
        inputs, deltas = self._sums[name]
        return inputs / tokens, deltas / rows

    def curvature(self, damping: float, *, absolute: bool = False) -> "KroneckerFisher":
        """K-FAC; lambda is `damping`, or that times the mean of a layer's Lambda. O(O^3 + I^3) a layer, in float64."""
        layers = {}
        for name in self._sums:
            (on_inputs, basis_inputs), (on_deltas, basis_deltas) = (torch.linalg.eigh(factor) for factor in self.factors(name))
            # a covariance has no negative eigenvalue, but rounding gives some
            eigenvalues = torch.outer(on_deltas.clamp(min=0), on_inputs.clamp(min=0))
            added = ridge(damping, float(eigenvalues.mean()), absolute=absolute, where=f"curvature of {name}")
            layers[name] = Eigenbasis(basis_deltas.float().contiguous(), basis_inputs.float().contiguous(), eigenvalues, added)
        return KroneckerFisher(layers)


class EigenvalueSums:
    """The second pass: EK-FAC's Lambda of each layer, from the gradients of the sample's rows in K-FAC's eigenbasis."""

    def __init__(self, bases: "KroneckerFisher") -> None:
        self._bases = bases
        self._sums = {name: torch.zeros_like(layer.eigenvalues) for name, layer in bases.layers.items()}
        self._rows = dict.fromkeys(bases.layers, 0)

    def add(self, name: str, gradients: Tensor) -> None:
        """Add a layer's gradients (B, O, I), one for each row; a row that is not finite takes no part."""
        layer = self._bases.layer(name, gradients)
        rows = gradients[finite(gradients)]
        self._sums[name] += layer.rotate(rows).square().sum(0)
        self._rows[name] += len(rows)

    def curvature(self, damping: float, *, absolute: bool = False) -> "KroneckerFisher":
        """EK-FAC; lambda is `damping`, or that times the mean of a layer's Lambda, which is E|G|^2 / (O I)."""
        layers = {}
        for name, layer in self._bases.layers.items():
            if not self._rows[name]:
                raise NumericError(f"curvature of {name}: no row of the sample gave it a finite gradient; look at the rows' losses")
            eigenvalues = self._sums[name] / self._rows[name]
            added = ridge(damping, float(eigenvalues.mean()), absolute=absolute, where=f"curvature of {name}")
            layers[name] = Eigenbasis(layer.deltas, layer.inputs, eigenvalues, added)
        return KroneckerFisher(layers)


@dataclass(frozen=True)
class KroneckerFisher:
    """F^{-1} layer by layer, K-FAC's or EK-FAC's: they differ in their eigenvalues only."""

    layers: Mapping[str, Eigenbasis]

    def apply(self, name: str, gradients: Tensor) -> Tensor:
        """F^{-1} V for one layer's V (B, O, I); float32 unless V is float64."""
        return self.layer(name, gradients).apply(gradients).to(stored(gradients).dtype)

    def quadratic(self, name: str, gradients: Tensor) -> Tensor:
        """One layer's share (B,) of g^T F^{-1} g in float64, positive unless its gradient is zero; layers add up to the self-influence."""
        layer = self.layer(name, gradients)
        return (layer.rotate(gradients).square() / (layer.eigenvalues + layer.ridge)).sum((1, 2))

    def state(self) -> dict[str, Tensor]:
        """What `from_state` rebuilds it from."""
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            found |= {f"{kind}.{name}": getattr(layer, kind) for kind in ("deltas", "inputs", "eigenvalues")}
            found[f"ridge.{name}"] = torch.tensor([layer.ridge], dtype=torch.float64)
        return found

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: str = "cpu") -> Self:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors(state, device).items():
            kind, name = key.split(".", 1)
            parts.setdefault(name, {})[kind] = value
        return cls({name: Eigenbasis(part["deltas"], part["inputs"], part["eigenvalues"], float(part["ridge"])) for name, part in parts.items()})

    def layer(self, name: str, gradients: Tensor) -> Eigenbasis:
        """The layer that these gradients (B, O, I) belong to; DataError if there is none of their shape."""
        found = self.layers.get(name)
        if found is None or tuple(found.eigenvalues.shape) != tuple(gradients.shape[1:]):
            has = f"one of shape {tuple(found.eigenvalues.shape)}" if found else f"{len(self.layers)} others"
            raise DataError(f"curvature of {name}: it has no layer of shape {tuple(gradients.shape[1:])}, but {has}; build both from the same model")
        return found
