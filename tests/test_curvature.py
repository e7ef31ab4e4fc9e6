"""Curvature tells what leaving rows out does to a convex model: one row by Newton's step, half of them by retraining; and never in float32."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.stats import spearmanr
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from curate.curvature import FeatureKernel, KernelSum
from curate.errors import ConfigError, DataError, NumericError
from curate.kfac import EigenvalueSums, FactorSums
from curate.woodbury import EmpiricalFisher


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def kernel(features: Tensor, damping: float, **options: Any) -> FeatureKernel:
    sums = KernelSum()
    for part in features.split(7):
        sums.add(part)
    return sums.kernel(damping, **options)


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.5])
def test_the_kernel_solves_as_a_dense_solver_does(damping: float) -> None:
    features, rows = normal(50, 12), normal(4, 12, seed=1)
    plain = (features.T @ features).numpy()
    wanted = np.linalg.solve(plain + damping * np.trace(plain) / 12 * np.eye(12), rows.numpy().T).T
    np.testing.assert_allclose(kernel(features, damping).solve(rows).numpy(), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(kernel(features, damping).quadratic(rows).numpy(), (rows.numpy() * wanted).sum(1), rtol=1e-9)
    narrow = kernel(features.float(), damping).solve(rows.float())
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow.numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_a_sample_stands_for_the_rows_that_it_was_drawn_from() -> None:
    sample, rows = normal(50, 12), normal(4, 12, seed=1)
    pool = sample.repeat(20, 1)
    torch.testing.assert_close(kernel(sample, 0.1, rows=1000).solve(rows), kernel(pool, 0.1).solve(rows), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernel(sample, 3.0, rows=1000, absolute=True).solve(rows), kernel(pool, 3.0, absolute=True).solve(rows), rtol=1e-10, atol=1e-12)


def test_the_stored_kernel_gives_the_same_bits() -> None:
    found, rows = kernel(normal(50, 12), 0.1), normal(4, 12, seed=1)
    again = FeatureKernel.from_state(load(save(found.state())))
    assert again.solve(rows).equal(found.solve(rows)) and again.quadratic(rows).equal(found.quadratic(rows))


def test_bad_features_are_refused_in_one_line_and_a_bad_row_takes_no_part() -> None:
    features, rows = normal(50, 12), normal(4, 12, seed=1)
    spoilt = torch.cat([features, torch.full((1, 12), math.nan)])
    torch.testing.assert_close(kernel(spoilt, 0.1, rows=100).solve(rows), kernel(features, 0.1, rows=100).solve(rows))
    weighted, doubtful = KernelSum(), torch.ones(50).double()
    doubtful[3] = math.nan
    weighted.add(features, doubtful)
    without = torch.cat([features[:3], features[4:]])
    torch.testing.assert_close(weighted.kernel(0.1).solve(rows), kernel(without, 0.1).solve(rows))
    sums = KernelSum()
    with pytest.raises(NumericError, match="no row of the sample is finite"):
        sums.kernel(0.1)
    sums.add(features)
    with pytest.raises(DataError, match="width 11, those before them 12"):
        sums.add(features[:, 1:])
    with pytest.raises(DataError, match="rows have width 11, the kernel 12"):
        sums.kernel(0.1).solve(rows[:, 1:])
    with pytest.raises(ConfigError, match="damping is -0.1"):
        sums.kernel(-0.1)
    with pytest.raises(NumericError, match="singular to rounding"):
        kernel(normal(5, 12), 0.0)


class Logistic:
    """Logistic regression of signs y on x, features of very unequal variance, with the mean-loss ridge l2; fitted by Newton's method to rounding."""

    def __init__(self, n: int, d: int, l2: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        mix = np.geomspace(4, 0.25, d)[:, None] * np.linalg.qr(generator.standard_normal((d, d)))[0]
        self.x, self.unseen = (torch.from_numpy(generator.standard_normal((rows, d)) @ mix) for rows in (n, 20))
        right = torch.sigmoid(self.x @ torch.from_numpy(0.4 * generator.standard_normal(d)))
        self.y = torch.where(torch.from_numpy(generator.random(n)) < right, 1.0, -1.0).double()
        self.n, self.d, self.l2 = n, d, l2
        self.weights = self.fit(torch.ones(n, dtype=torch.float64))
        self.doubt = torch.sigmoid(-self.y * (self.x @ self.weights))  # 1 - p_i
        self.curve = self.doubt * (1 - self.doubt)
        self.margins = self.y[:, None] * self.x  # gradients of the outputs, TRAK's phi
        self.gradients = -self.doubt[:, None] * self.margins  # of the losses

    def loss(self, weights: Tensor, kept: Tensor) -> Tensor:
        """The sum over the rows kept, each counted so often."""
        return (kept * torch.nn.functional.softplus(-self.y * (self.x @ weights))).sum() + self.n * self.l2 / 2 * weights.square().sum()

    def fit(self, kept: Tensor) -> Tensor:
        weights = torch.zeros(self.d, dtype=torch.float64)
        for _ in range(20):
            doubt = torch.sigmoid(-self.y * (self.x @ weights))
            slope = -(kept * doubt * self.y) @ self.x + self.n * self.l2 * weights
            curve = (self.x.T * (kept * doubt * (1 - doubt))) @ self.x + self.n * self.l2 * torch.eye(self.d)
            weights = weights - torch.linalg.solve(curve, slope)
        assert float(slope.norm()) < 1e-9
        return weights

    def left_out(self, row: int) -> Tensor:
        kept = torch.ones(self.n, dtype=torch.float64)
        kept[row] = 0
        return kept


def test_a_newton_step_of_leaving_a_row_out_is_what_the_kernel_says() -> None:
    """The oracle takes slope and curvature of the loss without the row by automatic differentiation."""
    problem = Logistic(40, 5, 0.01, seed=0)
    wanted = []
    for row in range(problem.n):
        start, kept = problem.weights.clone().requires_grad_(True), problem.left_out(row)
        (slope,) = torch.autograd.grad(problem.loss(start, kept), start)
        curve = torch.autograd.functional.hessian(lambda weights, kept=kept: problem.loss(weights, kept), problem.weights)
        wanted.append(problem.unseen @ torch.linalg.solve(curve, slope))  # output with the row less output without it
    sums = KernelSum()
    sums.add(problem.margins, problem.curve)
    hessian = sums.kernel(problem.n * problem.l2, absolute=True)
    leverage = problem.curve * hessian.quadratic(problem.margins)
    effects = (hessian.solve(problem.unseen) @ problem.margins.T) * problem.doubt / (1 - leverage)
    torch.testing.assert_close(effects.T, torch.stack(wanted), rtol=1e-9, atol=1e-9)
    assert float(leverage.max()) > 0.05  # so that the denominator is seen


def test_trak_ranks_rows_by_what_retraining_without_them_does() -> None:
    problem = Logistic(60, 5, 0.01, seed=1)
    actual = torch.stack([(problem.weights - problem.fit(problem.left_out(row))) @ problem.unseen.T for row in range(problem.n)])
    trak = (kernel(problem.margins, 0.0).solve(problem.unseen) @ problem.margins.T * problem.doubt).T
    assert spearmanr(trak.flatten(), actual.flatten())[0] > 0.9


def datamodelling_score(problem: Logistic, effects: Tensor) -> float:
    """Mean over unseen rows of the rank correlation, over 50 random halves of the data, of the retrained output with the sum of the half's effects."""
    generator = np.random.default_rng(9)
    halves = torch.zeros(50, problem.n, dtype=torch.float64)
    for half in halves:
        half[generator.permutation(problem.n)[: problem.n // 2]] = 1
    actual, predicted = torch.stack([problem.fit(half) for half in halves]) @ problem.unseen.T, halves @ effects
    return float(np.mean([spearmanr(predicted[:, i], actual[:, i])[0] for i in range(len(problem.unseen))]))


def test_influence_predicts_exact_retraining_on_random_halves() -> None:
    problem = Logistic(200, 8, 0.01, seed=0)
    hessian = EmpiricalFisher.build(problem.curve.sqrt()[:, None] * problem.x, problem.l2, absolute=True)
    fisher = EmpiricalFisher.build(problem.gradients, 0.1)
    assert datamodelling_score(problem, -hessian.inner(problem.gradients, problem.unseen)) > 0.95
    assert datamodelling_score(problem, -fisher.inner(problem.gradients, problem.unseen)) > 0.9
    # What the inverse must beat: no curvature, and the curvature itself, which Quad's published code applies.
    assert datamodelling_score(problem, -problem.gradients @ problem.unseen.T) < 0.8
    applied = problem.gradients @ (problem.x.T * problem.curve) @ problem.x @ problem.unseen.T
    assert datamodelling_score(problem, -applied) < 0.6


class NoNarrowProducts(TorchDispatchMode):
    """Refuses every product of float32 matrices: TF32 would round it to 11 bits."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.overloadpacket.__name__.strip("_") in ("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "linalg_solve_triangular", "cholesky_solve"):
            self.seen += 1
            assert all(value.dtype == torch.float64 for value in args if isinstance(value, Tensor)), func
        return func(*args, **(kwargs or {}))


def results(device: str) -> list[Tensor]:
    """Everything that the services multiply, from float32 rows on the device."""
    rows, matrices = normal(30, 24).float().to(device), normal(30, 4, 6).float().to(device)
    fisher = EmpiricalFisher.build({"a": rows[:20, :9], "b": rows[:20, 9:]}, 0.1)
    parts = {"a": rows[:, :9], "b": rows[:, 9:]}
    sums = KernelSum()
    sums.add(rows, rows[:, 0].square())
    features = sums.kernel(0.1)
    factors = FactorSums()
    factors.add("a", matrices, matrices[:, :, :3])
    gradients = matrices[:, :3]
    corrected = EigenvalueSums(factors.curvature(0.1))
    corrected.add("a", gradients)
    bases = corrected.curvature(0.1)
    found = [*fisher.apply(parts).values(), fisher.quadratic(parts, held_out=True), fisher.inner(parts, parts, held_out=True), fisher.quadratic(parts)]
    found += [features.solve(rows), features.quadratic(rows), bases.apply("a", gradients), bases.quadratic("a", gradients)]
    return [result.cpu() for result in found]


def test_no_product_of_matrices_is_taken_in_float32() -> None:
    with NoNarrowProducts() as mode:
        results("cpu")
    assert mode.seen > 20


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_numbers_with_tf32_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    for found, wanted in zip(results("cuda"), results("cpu"), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
