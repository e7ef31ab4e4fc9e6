"""The noise law predicts what a sketch does to similarities, and the pilot's measures are what they say."""

import numpy as np
import pytest
import torch

from curate.fidelity import agreement, faithful, law_of
from curate.projection import CountSketch, fold


def planted(rows: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pool rows with a large common part, and target rows; both of unit length."""
    generator = np.random.default_rng(seed)
    pool = generator.standard_normal((rows, size)) + 1.5 * generator.standard_normal(size)
    target = generator.standard_normal((8, size)) + 0.3 * pool[:8]
    return pool / np.linalg.norm(pool, axis=1, keepdims=True), target / np.linalg.norm(target, axis=1, keepdims=True)


def sketched(values: np.ndarray, width: int, seed: int = 0) -> np.ndarray:
    into = torch.zeros(len(values), width)
    CountSketch(width, seed).add(into, torch.from_numpy(values.astype(np.float32)), 0)
    return into.numpy().astype(np.float64)


@pytest.mark.parametrize("width", [256, 1024, 4096])
def test_the_law_predicts_the_correlation_of_sketched_with_exact_similarities(width: int) -> None:
    pool, target = planted(300, 20_000, seed=0)
    exact = pool @ target.T
    law = law_of(exact, sketched(pool, 16384), sketched(target, 16384))
    measured = []
    for seed in range(1, 9):
        found = sketched(pool, width, seed) @ sketched(target, width, seed).T
        measured += [np.corrcoef(exact[:, j], found[:, j])[0, 1] for j in range(8)]
    assert law.pearson(width) == pytest.approx(np.mean(measured), abs=0.05)


def test_the_width_is_the_smallest_power_of_two_that_reaches_the_correlation() -> None:
    pool, target = planted(200, 5_000, seed=1)
    law = law_of(pool @ target.T, sketched(pool, 8192), sketched(target, 8192))
    width = law.width(0.9)
    assert width & (width - 1) == 0
    assert law.pearson(width) >= 0.9 > law.pearson(width // 2)


def test_a_folded_sketch_is_the_sketch_of_that_width() -> None:
    pool, _ = planted(9, 3_000, seed=2)
    for width in (64, 512):
        torch.testing.assert_close(fold(torch.from_numpy(sketched(pool, 4096)), width).numpy(), sketched(pool, width), rtol=1e-5, atol=1e-6)


def test_agreement_counts_ranks_and_the_top_twentieth() -> None:
    exact = np.arange(40.0)[:, None] * np.array([[1.0, 1.0]])
    assert agreement(exact, exact * 3 + 1) == {"spearman": pytest.approx(1.0), "overlap": 1.0, "overlap_per_target": 1.0}
    turned = exact.copy()
    turned[:, 1] *= -1
    found = agreement(exact, turned)
    assert found["spearman"] == pytest.approx(0.0) and found["overlap_per_target"] == 0.5
    assert not faithful(found) and faithful(agreement(exact, exact))


def test_similarities_that_do_not_vary_have_no_width() -> None:
    flat = np.ones((10, 2))
    law = law_of(flat, np.ones((10, 4)), np.ones((2, 4)))
    assert law.pearson(1024) == 0.0
