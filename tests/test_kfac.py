"""K-FAC is the exact Fisher where its assumptions hold, EK-FAC is the best diagonal in its basis, and both are inverted, the right way round."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from curate.errors import ConfigError, DataError, NumericError
from curate.kfac import Eigenbasis, EigenvalueSums, FactorSums, KroneckerFisher

O, I, LAYER = 3, 4, "layers.0.weight"  # noqa: E741  the shape of the weight
Rows = list[tuple[Tensor, Tensor]]  # inputs (T, I) and deltas (T, O) of each row


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def factorial() -> Rows:
    """All combinations of five inputs with eight deltas that come in pairs of opposite sign, in rows of one and of two tokens.

    So a and delta are independent and tokens uncorrelated, exactly; the loss is the mean over a row's tokens.
    """
    inputs = normal(5, I) + 1
    half = normal(4, O, seed=1) * torch.tensor([1.0, 0.3, 4.0], dtype=torch.float64) @ normal(O, O, seed=2)
    pairs = list(itertools.product(inputs, torch.cat([half, -half])))
    one = [(a[None], delta[None]) for a, delta in pairs]
    two = [(torch.stack([a, b]), torch.stack([d, e]) / 2) for (a, d), (b, e) in itertools.product(pairs, pairs)]
    return one + two


def correlated() -> Rows:
    """Rows of one to four tokens whose deltas depend on their inputs, and tokens on each other."""
    rows = []
    for i in range(60):
        inputs = normal(1 + i % 4, I, seed=i) + normal(1, I, seed=1000 + i)
        rows.append((inputs, torch.tanh(inputs @ normal(I, O, seed=7)) + 0.3 * normal(len(inputs), O, seed=500 + i)))
    return rows


def gradients(rows: Rows) -> Tensor:
    return torch.stack([deltas.T @ inputs for inputs, deltas in rows])


def fisher(rows: Rows) -> np.ndarray:
    """E_rows[vec(G) vec(G)^T] by its definition, row-major."""
    flat = gradients(rows).flatten(1).numpy()
    return flat.T @ flat / len(flat)


def padded(rows: Rows, size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of rows, right-padded with numbers that must not count."""
    batches = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        width = max(len(inputs) for inputs, _ in batch)
        a, delta = torch.full((len(batch), width, I), math.nan).double(), torch.full((len(batch), width, O), 1e3).double()
        mask = torch.zeros(len(batch), width, dtype=torch.bool)
        for i, (inputs, deltas) in enumerate(batch):
            a[i, : len(inputs)], delta[i, : len(inputs)], mask[i, : len(inputs)] = inputs, deltas, True
        batches.append((a, delta, mask))
    return batches


def summed(rows: Rows, size: int = 64) -> FactorSums:
    sums = FactorSums()
    for a, delta, mask in padded(rows, size):
        sums.add(LAYER, a, delta, mask)
    return sums


def kfac(rows: Rows, damping: float = 0.1) -> KroneckerFisher:
    return summed(rows).curvature(damping)


def ekfac(rows: Rows, damping: float = 0.1) -> KroneckerFisher:
    sums = EigenvalueSums(kfac(rows))
    for part in gradients(rows).split(17):
        sums.add(LAYER, part)
    return sums.curvature(damping)


def dense(layer: Eigenbasis, added: float = 0.0) -> np.ndarray:
    """Q (Lambda + added) Q^T over row-major vec."""
    basis = np.kron(layer.deltas.double().numpy(), layer.inputs.double().numpy())
    return basis @ np.diag(layer.eigenvalues.numpy().ravel() + added) @ basis.T


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("tokens", [1, 40])
def test_products_of_halves_are_products_through_the_inverse_by_either_way(tokens: int) -> None:
    fisher = kfac(correlated(), 0.05)
    left, right = normal(6, tokens, O, seed=11), normal(6, tokens, I, seed=12)
    whole = left.transpose(1, 2) @ right
    half = fisher.layers[LAYER].half(left, right).flatten(1).double()
    wanted = whole.flatten(1) @ fisher.apply(LAYER, whole).flatten(1).T
    torch.testing.assert_close(half @ half.T, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    basis = fisher.layers[LAYER]
    flipped = replace(basis, deltas=-basis.deltas, inputs=basis.inputs * torch.tensor([1.0, -1.0, -1.0, 1.0]))  # as another solver gives them
    torch.testing.assert_close(flipped.half(left, right).flatten(1).double(), half, rtol=1e-4, atol=1e-5 * float(half.abs().max()))


@pytest.mark.parametrize("tokens", ["one", "one or two"])
def test_kfac_is_the_exact_fisher_where_tokens_and_factors_are_independent(tokens: str) -> None:
    rows = [row for row in factorial() if tokens != "one" or len(row[0]) == 1]
    assert distance(dense(kfac(rows).layers[LAYER]), fisher(rows)) < 1e-6
    inputs, deltas = summed(rows).factors(LAYER)
    assert distance(np.kron(deltas.numpy(), inputs.numpy()), fisher(rows)) < 1e-12


def test_a_weight_kept_transposed_takes_the_factors_the_other_way_round() -> None:
    rows, sums = factorial(), FactorSums()
    for inputs, deltas in rows:
        sums.add(LAYER, deltas[None], inputs[None])
    flat = gradients(rows).transpose(1, 2).flatten(1).numpy()
    assert distance(dense(sums.curvature(0.1).layers[LAYER]), flat.T @ flat / len(flat)) < 1e-6


def test_ekfac_measures_the_eigenvalues_that_kfac_multiplies() -> None:
    rows = factorial()
    torch.testing.assert_close(ekfac(rows).layers[LAYER].eigenvalues, kfac(rows).layers[LAYER].eigenvalues, rtol=1e-5, atol=1e-7)


def test_ekfac_is_nearer_to_the_fisher_than_kfac_and_than_any_other_diagonal() -> None:
    rows = correlated()
    true, best = fisher(rows), ekfac(rows).layers[LAYER]
    error = distance(dense(best), true)
    assert error < 0.9 * distance(dense(kfac(rows).layers[LAYER]), true)
    assert float(best.eigenvalues.sum()) == pytest.approx(np.trace(true), rel=1e-6)
    for seed in range(20):
        other = best.eigenvalues * (1 + 0.05 * normal(O, I, seed=seed))
        assert distance(dense(Eigenbasis(best.deltas, best.inputs, other, 0.0)), true) > error


def test_the_published_orientation_would_be_seen() -> None:
    """Quad's code rotates as Q_S G Q_A^T when it measures the eigenvalues, and then by yet other sides."""
    rows = factorial()
    true, layer = fisher(rows), kfac(rows).layers[LAYER]
    q_s, q_a = layer.deltas.double(), layer.inputs.double()
    wrong = (q_s @ gradients(rows) @ q_a.T).square().mean(0)
    assert distance(dense(Eigenbasis(layer.deltas, layer.inputs, wrong, 0.0)), true) > 0.5
    for turned in (Eigenbasis(q_s.T, q_a, layer.eigenvalues, 0.0), Eigenbasis(q_s, q_a.T, layer.eigenvalues, 0.0)):
        assert distance(dense(turned), true) > 0.1
        assert distance(turned.rotate(gradients(rows)).square().mean(0).numpy(), layer.eigenvalues.numpy()) > 0.1


@pytest.mark.parametrize("kind", [kfac, ekfac])
def test_the_product_equals_a_dense_solve(kind: Callable[[Rows], KroneckerFisher]) -> None:
    found, rows = kind(correlated()), gradients(correlated())[:5]
    layer = found.layers[LAYER]
    assert layer.ridge == pytest.approx(0.1 * float(layer.eigenvalues.mean()))
    wanted = np.linalg.solve(dense(layer, layer.ridge), rows.flatten(1).numpy().T).T.reshape(-1, O, I)
    assert distance(found.apply(LAYER, rows).numpy(), wanted) < 1e-5
    narrow = found.apply(LAYER, rows.float())
    assert narrow.dtype == torch.float32 and distance(narrow.numpy(), wanted) < 1e-4
    forms = (rows.flatten(1).numpy() * wanted.reshape(5, -1)).sum(1)
    np.testing.assert_allclose(found.quadratic(LAYER, rows).numpy(), forms, rtol=1e-5)
    assert forms.min() > 0


def test_the_product_undoes_the_curvature_and_does_not_apply_it() -> None:
    found, rows = ekfac(correlated()), gradients(correlated())[:5]
    layer = found.layers[LAYER]
    curved = (rows.flatten(1).numpy() @ dense(layer, layer.ridge)).reshape(-1, O, I)
    assert distance(found.apply(LAYER, torch.from_numpy(curved)).numpy(), rows.numpy()) < 1e-5
    for i, j in itertools.product(range(O), range(I)):
        direction = torch.outer(layer.deltas[:, i], layer.inputs[:, j]).double()[None]
        assert float(found.apply(LAYER, direction).norm()) == pytest.approx(1 / (float(layer.eigenvalues[i, j]) + layer.ridge), rel=1e-5)


def test_a_large_damping_leaves_the_gradient_divided_by_it() -> None:
    rows = gradients(correlated())
    found = EigenvalueSums(kfac(correlated()))
    found.add(LAYER, rows)
    torch.testing.assert_close(found.curvature(1e9, absolute=True).apply(LAYER, rows), rows / 1e9, rtol=1e-5, atol=1e-14)
    assert summed(correlated()).curvature(2.5, absolute=True).layers[LAYER].ridge == 2.5


def test_a_relative_damping_has_no_unit_even_where_squares_fall_out_of_float32() -> None:
    tiny = [(inputs, deltas * 1e-23) for inputs, deltas in correlated()]
    found, wanted = ekfac(tiny).quadratic(LAYER, gradients(tiny)), ekfac(correlated()).quadratic(LAYER, gradients(correlated()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_neither_the_batches_nor_their_padding_change_the_factors() -> None:
    for found, wanted in zip(summed(correlated(), 1).factors(LAYER), summed(correlated(), 60).factors(LAYER), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_row_that_is_not_finite_takes_no_part() -> None:
    rows = correlated()
    spoilt = [*rows[:3], (rows[3][0], rows[3][1] * math.nan), *rows[4:]]
    kept = [*rows[:3], *rows[4:]]
    for found, wanted in zip(summed(spoilt).factors(LAYER), summed(kept).factors(LAYER), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    one, other = EigenvalueSums(kfac(kept)), EigenvalueSums(kfac(kept))
    one.add(LAYER, gradients(spoilt))
    other.add(LAYER, gradients(kept))
    torch.testing.assert_close(one.curvature(0.1).layers[LAYER].eigenvalues, other.curvature(0.1).layers[LAYER].eigenvalues)


def test_the_stored_state_gives_the_same_bits() -> None:
    rows, found = gradients(correlated()), ekfac(correlated())
    again = KroneckerFisher.from_state(load(save(found.state())))
    assert again.apply(LAYER, rows).equal(found.apply(LAYER, rows))
    assert again.quadratic(LAYER, rows).equal(found.quadratic(LAYER, rows))


def test_bad_input_is_refused_in_one_line() -> None:
    found, rows = kfac(correlated()), gradients(correlated())
    with pytest.raises(DataError, match=r"no layer of shape \(4, 3\), but one of shape \(3, 4\)"):
        found.apply(LAYER, rows.transpose(1, 2))
    with pytest.raises(DataError, match="curvature of other: .*1 others"):
        found.quadratic("other", rows)
    with pytest.raises(ConfigError, match="damping is -1"):
        kfac(correlated(), -1)
    with pytest.raises(NumericError, match="curvature of layers.0.weight: no row of the sample has a gradient"):
        kfac([(inputs, 0 * deltas) for inputs, deltas in correlated()])
    with pytest.raises(NumericError, match="no row of the sample is finite"):
        kfac([(inputs, math.nan * deltas) for inputs, deltas in correlated()])
    with pytest.raises(NumericError, match="gave it a finite gradient"):
        EigenvalueSums(found).curvature(0.1)
