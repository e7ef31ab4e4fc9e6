"""Leaders by vectors against brute force over all pairs in float64, for all rows at once and around centroids."""

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.hygiene import leaders as module
from curate.hygiene.leaders import Leaders, leaders
from curate.hygiene.vectors import alike, near_by_vectors, share_alike, unit_rows
from curate.randomness import row_keys
from curate.redundancy import neighbourhoods

Rows = NDArray[np.float32]


def crowds(seed: int, crowded: int = 30, each: int = 8, width: int = 5) -> Rows:
    """Rows around points, near enough that cosines lie on both sides of any threshold, of any length, in random order."""
    random = np.random.Generator(np.random.Philox(seed))
    points = np.repeat(random.normal(size=(crowded, width)), each, axis=0)
    rows = (points + 0.25 * random.normal(size=points.shape)) * random.uniform(0.1, 9, size=(len(points), 1))
    rows[::11] = rows[::11][:1] * 3  # copies in direction
    return np.asarray(random.permutation(rows), np.float32)


def brute(rows: Rows, threshold: float, seen: NDArray[np.bool_] | None = None) -> list[int]:
    """The first row before each that stays and is alike to it, itself where there is none."""
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    close = wide @ wide.T >= threshold - 1e-9
    found: list[int] = []
    for i in range(len(rows)):
        stays = [j for j in range(i) if found[j] == j and close[i, j] and (seen is None or seen[i, j])]
        found.append(stays[0] if stays else i)
    return found


def led(rows: Rows, threshold: float) -> Leaders:
    return leaders(rows, threshold, row_keys(0, "test", map(str, range(len(rows)))))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("block", [7, 64, 1024])
def test_who_stays_is_who_stays_by_brute_force(threshold: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "_CHUNK", 2 * block)
    for seed in range(3):
        rows = crowds(seed)
        wanted, found = brute(rows, threshold), led(rows, threshold)
        assert found.row.tolist() == wanted
        assert 0 < sum(row != i for i, row in enumerate(wanted)) < len(rows) - 1
        wide = rows.astype(np.float64)
        for i, j in enumerate(wanted):
            cosine = wide[i] @ wide[j] / np.linalg.norm(wide[i]) / np.linalg.norm(wide[j])
            assert found.likeness[i] == pytest.approx(cosine, abs=1e-6) and found.likeness[i] >= threshold - 1e-9


@pytest.mark.parametrize("settled", [20, 60, 200])
@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_around_centroids_who_stays_is_who_stays_by_brute_force_over_the_pairs_that_are_seen(
    settled: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"EXACT": settled, "_ROUNDS": rounds, "_BLOCK": 16, "_CHUNK": 24}.items():
        monkeypatch.setattr(module, name, value)
    for seed in range(3):
        rows = crowds(seed)
        places = neighbourhoods(unit_rows(rows), row_keys(0, "test", map(str, range(len(rows)))), None, 2).places
        seen = (places[:, None, :, None] == places[None, :, None, :]).any(axis=(2, 3))
        assert not seen.all()
        wanted, found = np.array(brute(rows, 0.6, seen)), led(rows, 0.6).row
        stays = wanted == np.arange(len(rows))
        assert ((found == np.arange(len(rows))) == stays).all()  # a row that goes may have several that stay for it
        assert stays[found].all() and (found <= np.arange(len(rows))).all()
        assert all(i == j or (seen[i, j] and brute(rows[[j, i]], 0.6) == [0, 0]) for i, j in enumerate(found.tolist()))


def test_a_row_that_went_takes_no_other_with_it() -> None:
    angles = np.array([0.0, 0.3, 0.6, 0.9])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert led(chain, float(np.cos(0.35))).row.tolist() == [0, 0, 2, 2]


def test_who_comes_first_stays_in_any_order() -> None:
    rows = crowds(5)
    backwards = led(rows[::-1], 0.9).row
    assert backwards.tolist() == brute(rows[::-1], 0.9) and backwards.tolist() != led(rows, 0.9).row.tolist()


def test_copies_are_alike_at_every_threshold_and_the_threshold_itself_counts() -> None:
    rows = np.array([[3, 4], [6, 8], [4, 3]], np.float32)
    unit = unit_rows(rows)
    assert alike(unit, unit, 1.0).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert alike(unit, unit, 0.96)[0, 2] == (float(unit[0].astype(np.float64) @ unit[2].astype(np.float64)) >= 0.96 - 1e-12)
    assert alike(unit, unit, 0.9599999).all() and not alike(unit, unit, 0.9600002)[0, 2]


def test_pairs_within_float32_rounding_of_the_threshold_are_decided_in_float64() -> None:
    random = np.random.Generator(np.random.Philox(3))
    unit = unit_rows(np.asarray(random.normal(size=(200, 384)) + 2, np.float32))
    exact = unit.astype(np.float64) @ unit.astype(np.float64).T
    exact /= np.outer(np.sqrt(np.diag(exact)), np.sqrt(np.diag(exact)))
    near = np.sort(exact[np.triu_indices(200, 1)])
    for threshold in near[[100, 5000, 12000]] + 1e-13:  # just above a cosine that occurs
        assert np.array_equal(alike(unit, unit, float(threshold)), exact >= threshold - 1e-12)
    assert not alike(unit, unit, float(near[-1]) + 1e-9)[~np.eye(200, dtype=bool)].any()


@pytest.mark.parametrize("block", [1, 10, 1024])
def test_near_copies_of_items_are_those_of_brute_force(block: int) -> None:
    rows, items = crowds(1), crowds(1)[::3] + np.float32(0.01)
    wide, other = (one.astype(np.float64) / np.linalg.norm(one.astype(np.float64), axis=1, keepdims=True) for one in (rows, items))
    wanted = [(int(i), int(j)) for i, j in np.argwhere(wide @ other.T >= 0.9)]
    found = list(near_by_vectors(rows, items, 0.9, block))
    assert [pair[:2] for pair in found] == wanted and len(wanted) > 50
    assert all(cosine == pytest.approx(wide[i] @ other[j], abs=1e-9) for i, j, cosine in found)


def test_the_share_of_alike_pairs_counts_no_row_with_itself() -> None:
    assert share_alike(np.eye(4, dtype=np.float32), 0.5) == 0
    assert share_alike(np.ones((4, 3), np.float32), 0.5) == 1
    assert share_alike(np.array([[1, 0], [1, 0], [0, 1]], np.float32), 0.5) == pytest.approx(1 / 3)
    assert share_alike(np.ones((1, 3), np.float32), 0.5) == 0


def test_no_rows_have_no_leaders() -> None:
    assert led(np.zeros((0, 3), np.float32), 0.9).row.tolist() == []
