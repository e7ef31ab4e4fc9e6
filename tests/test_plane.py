"""The plane is that of a principal component analysis, with signs that do not hang on the library."""

import numpy as np
import pytest

from curate.plane import plane


@pytest.mark.parametrize("shape", [(40, 3), (30, 200), (300, 90), (900, 400)])
def test_it_is_the_plane_of_scikit_learn(shape: tuple[int, int]) -> None:
    from sklearn.decomposition import PCA

    generator = np.random.default_rng(0)
    rows = generator.normal(size=shape) * np.linspace(3, 0.3, shape[1]) + 5
    found = plane(rows[:-7].astype(np.float32), rows[-7:].astype(np.float32))
    known = PCA(2, svd_solver="full").fit(rows.astype(np.float32).astype(np.float64))
    signs = np.sign((found.basis * known.components_).sum(1))
    assert found.basis == pytest.approx(known.components_ * signs[:, None], abs=1e-6)
    assert found.explained == pytest.approx(known.explained_variance_ratio_.sum(), rel=1e-6)
    assert found.place(rows) == pytest.approx(known.transform(rows) * signs, abs=1e-4)


def test_the_largest_component_of_a_direction_is_positive_so_that_mirrored_rows_turn_the_picture_over() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 90)) * np.linspace(2, 0.1, 90)
    found, mirrored = plane(rows, rows[:3]), plane(-rows, -rows[:3])
    assert (found.basis[np.arange(2), np.abs(found.basis).argmax(1)] > 0).all()
    assert mirrored.basis == pytest.approx(found.basis, abs=1e-8)


@pytest.mark.parametrize("n", [30, 200])
def test_rows_on_a_line_or_all_equal_have_no_second_direction(n: int) -> None:
    along = np.outer(np.linspace(-1, 1, n), np.linspace(1, 2, 100)) + 1
    found = plane(along, along[:2])
    assert found.explained == pytest.approx(1) and (found.basis[1] == 0).all() and found.place(along)[:, 0].std() > 1
    still = plane(np.ones((n, 100)), np.ones((2, 100)))
    assert still.explained == 0 and (still.place(np.ones((4, 100))) == 0).all()


def test_one_feature_is_one_direction() -> None:
    found = plane(np.array([[1.0], [2.0], [4.0]]), np.array([[3.0]]))
    assert found.basis.tolist() == [[1.0], [0.0]] and found.explained == pytest.approx(1) and found.mean.tolist() == [2.5]
