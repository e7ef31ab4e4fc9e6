"""The inverse empirical Fisher equals a dense solve in float64, whole or layer by layer, and keeps its accuracy in float32."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from curate.curvature import cholesky
from curate.errors import ConfigError, DataError, NumericError
from curate.woodbury import EmpiricalFisher, FirstPass

M, D, B = 12, 40, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def dense(gradients: Tensor, damping: float, *, absolute: bool = False) -> np.ndarray:
    """F by its definition, without Woodbury."""
    g = gradients.double().numpy()
    covariance = g.T @ g / len(g)
    return covariance + (damping if absolute else damping * np.trace(covariance) / len(covariance)) * np.eye(len(covariance))


def error(found: Tensor, wanted: np.ndarray) -> float:
    """Of the worst row, relative to its norm."""
    return float((np.linalg.norm(found.double().numpy() - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max())


def split(rows: Tensor) -> dict[str, Tensor]:
    return {"a.weight": rows[:, :7], "b.weight": rows[:, 7:30], "c": rows[:, 30:]}


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("absolute", [True, False])
def test_the_product_equals_a_dense_solve(damping: float, absolute: bool) -> None:
    gradients, rows = normal(M, D), normal(B, D, seed=1)
    wanted = np.linalg.solve(dense(gradients, damping, absolute=absolute), rows.numpy().T).T
    found = EmpiricalFisher.build(gradients, damping, absolute=absolute).apply(rows)
    assert found.dtype == torch.float64
    assert error(found, wanted) < 1e-9
    narrow = EmpiricalFisher.build(gradients.float(), damping, absolute=absolute).apply(rows.float())
    assert narrow.dtype == torch.float32
    assert error(narrow, wanted) < 1e-4


def test_quadratic_forms_and_inner_products_equal_those_of_the_dense_inverse() -> None:
    gradients, left, right = normal(M, D), normal(B, D, seed=1), normal(B + 2, D, seed=2)
    fisher, inverse = EmpiricalFisher.build(gradients, 0.1), np.linalg.inv(dense(gradients, 0.1))
    np.testing.assert_allclose(fisher.inner(left, right).numpy(), left.numpy() @ inverse @ right.numpy().T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fisher.quadratic(left).numpy(), np.diag(left.numpy() @ inverse @ left.numpy().T), rtol=1e-9)


def test_a_large_damping_leaves_the_row_divided_by_it() -> None:
    rows = normal(B, D, seed=1)
    found = EmpiricalFisher.build(normal(M, D), 1e9, absolute=True).apply(rows)
    assert error(found, rows.numpy() / 1e9) < 1e-7


def test_a_relative_damping_has_no_unit() -> None:
    gradients, rows = normal(M, D), normal(B, D, seed=1)
    wanted = EmpiricalFisher.build(gradients, 0.1).quadratic(rows)
    for scale in (1e-12, 1e8):
        found = EmpiricalFisher.build((gradients * scale).float(), 0.1).quadratic((rows * scale).float())
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_float32_rows_lose_nothing_where_the_inverse_cancels_most() -> None:
    """Sample rows themselves, one direction far above the rest and weak damping: |x|^2 / lambda is 1e7 times the answer."""
    wide = 20_000
    gradients = (1e-3 * normal(M, wide) + 30 * normal(M, 1, seed=3) * normal(1, wide, seed=4)).float()
    fisher = EmpiricalFisher.build(gradients, 1e-3)
    gram = gradients.double().numpy() @ gradients.double().numpy().T
    wanted = M * np.diag(np.linalg.solve(gram + M * fisher.ridge * np.eye(M), gram))  # G F^{-1} G^T without a difference
    found = fisher.quadratic(gradients)
    assert float((gradients.double().square().sum(1) / fisher.ridge / found).min()) > 1e6
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)
    assert bool((found > 0).all()) and float(found.max()) < M


def test_a_row_of_the_sample_can_be_left_out_of_what_it_is_measured_by() -> None:
    gradients, other = normal(M, D), normal(B, D, seed=1)
    noise = 1 + 3e-3 * normal(M, D, seed=2)  # what another batch in bfloat16 makes of the same row
    fisher, rows = EmpiricalFisher.build(gradients, 0.02, absolute=True), torch.cat([other, gradients * noise])
    products, forms = fisher.apply(rows, held_out=True), fisher.quadratic(rows, held_out=True)
    for i in range(M):
        rest = torch.cat([gradients[:i], gradients[i + 1 :]])
        without = dense(rest, 0.02 * M / (M - 1), absolute=True) * (M - 1) / M  # the same lambda and the same 1/m
        wanted = np.linalg.solve(without, rows[B + i].numpy())
        assert error(products[B + i], wanted) < 1e-8
        assert float(forms[B + i]) == pytest.approx(float(rows[B + i].numpy() @ wanted), rel=1e-8)
    torch.testing.assert_close(products[:B], fisher.apply(other), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forms[:B], fisher.quadratic(other), rtol=1e-12, atol=0)
    torch.testing.assert_close(fisher.inner(rows, rows, held_out=True), products @ rows.T, rtol=1e-8, atol=1e-6)
    assert float(fisher.quadratic(rows)[B:].max()) < 2 * M < float(forms[B:].min())
    bad = rows.clone()
    bad[0] = math.nan
    torch.testing.assert_close(fisher.quadratic(bad, held_out=True)[1:], forms[1:], rtol=1e-9, atol=0)


def test_layers_are_the_parts_of_one_gradient() -> None:
    gradients, rows = normal(M, D), normal(B, D, seed=1)
    flat, layered = EmpiricalFisher.build(gradients, 0.1), EmpiricalFisher.build(split(gradients), 0.1)
    found = layered.apply(split(rows))
    assert list(found) == list(split(rows))
    torch.testing.assert_close(torch.cat(list(found.values()), 1), flat.apply(rows), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layered.quadratic(split(rows)), flat.quadratic(rows), rtol=1e-10, atol=0)
    torch.testing.assert_close(layered.inner(split(rows), split(gradients)), flat.inner(rows, gradients), rtol=1e-10, atol=1e-10)


def test_layers_may_come_one_at_a_time_in_any_order() -> None:
    fisher, rows = EmpiricalFisher.build(split(normal(M, D)), 0.1), split(normal(B, D, seed=1))
    first = FirstPass(fisher)
    for name in reversed(rows):
        first.add(name, rows[name])
    torch.testing.assert_close(first.quadratic(), fisher.quadratic(rows), rtol=1e-12, atol=0)
    solution = first.solution()
    for name, wanted in fisher.apply(rows).items():
        torch.testing.assert_close(fisher.correct(name, rows[name], solution), wanted, rtol=1e-12, atol=1e-12)


def test_blocks_of_columns_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, rows = normal(M, D), normal(B, D, seed=1)
    wanted = EmpiricalFisher.build(gradients, 0.1).apply(rows)
    monkeypatch.setattr("curate.woodbury._BLOCK", 3 * (M + B))  # 3 columns of rows and sample, which does not divide 40
    torch.testing.assert_close(EmpiricalFisher.build(gradients, 0.1).apply(rows), wanted, rtol=1e-10, atol=1e-10)


def test_the_stored_state_gives_the_same_bits() -> None:
    rows = {name: part.float() for name, part in split(normal(B, D, seed=1)).items()}
    fisher = EmpiricalFisher.build({name: part.float() for name, part in split(normal(M, D)).items()}, 0.1)
    again = EmpiricalFisher.from_state(load(save(fisher.state())))
    mapped = EmpiricalFisher.from_state({name: np.asarray(value) for name, value in fisher.state().items()})
    for other in (again, mapped):
        assert other.quadratic(rows).equal(fisher.quadratic(rows))
        assert all(part.equal(fisher.apply(rows)[name]) for name, part in other.apply(rows).items())


def test_a_row_that_is_not_finite_spoils_neither_the_curvature_nor_its_neighbours() -> None:
    gradients, rows = normal(M, D), normal(B, D, seed=1)
    spoilt, bad = gradients.clone(), rows.clone()
    spoilt[3, 35], bad[2, 0] = math.nan, math.inf
    fisher = EmpiricalFisher.build(split(spoilt), 0.1)
    kept = EmpiricalFisher.build(gradients[[i for i in range(M) if i != 3]], 0.1)
    torch.testing.assert_close(fisher.quadratic(split(rows)), kept.quadratic(rows), rtol=1e-10, atol=0)
    found, good = kept.apply(bad), [0, 1, 3, 4]
    assert not bool(torch.isfinite(found[2]).any())
    torch.testing.assert_close(found[good], kept.apply(rows)[good], rtol=1e-12, atol=1e-12)


def test_bad_input_is_refused_in_one_line() -> None:
    gradients, rows = split(normal(M, D)), split(normal(B, D))
    fisher = EmpiricalFisher.build(gradients, 0.1)
    with pytest.raises(ConfigError, match="damping is 0"):
        EmpiricalFisher.build(gradients, 0.0)
    with pytest.raises(NumericError, match="no row of the sample has a gradient"):
        EmpiricalFisher.build(torch.zeros(M, D), 0.1)
    with pytest.raises(DataError, match="no row whose gradient is finite"):
        EmpiricalFisher.build(torch.full((M, D), math.nan), 0.1)
    with pytest.raises(DataError, match="differ in their number of rows"):
        EmpiricalFisher.build({**gradients, "c": normal(M - 1, 10)}, 0.1)
    with pytest.raises(DataError, match="no layer c of width 9"):
        fisher.apply({**rows, "c": rows["c"][:, 1:]})
    with pytest.raises(DataError, match="c is in one of them only"):
        fisher.quadratic({name: rows[name] for name in ("a.weight", "b.weight")})
    for singular in (torch.ones(3, 3), torch.diag(torch.tensor([1.0, 1e-16, 1.0]))):  # the second has a root
        with pytest.raises(NumericError, match="singular to rounding; raise damping"):
            cholesky(singular.double(), "empirical Fisher")


def test_a_pass_that_read_too_little_or_too_much_is_refused() -> None:
    fisher, rows = EmpiricalFisher.build(split(normal(M, D)), 0.1), split(normal(B, D))
    first = FirstPass(fisher)
    first.add("c", rows["c"])
    with pytest.raises(DataError, match="a.weight of the rows was not read"):
        first.quadratic()
    with pytest.raises(DataError, match="read twice"):
        first.add("c", rows["c"])
    with pytest.raises(DataError, match="has 4 rows, the layers before it 5"):
        first.add("a.weight", rows["a.weight"][1:])
