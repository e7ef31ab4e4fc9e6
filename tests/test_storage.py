"""Every format decodes to what its definition gives row by row, within the error and the bytes that it promises."""

import tracemalloc
from typing import Any, get_args

import numpy as np
import pytest

from curate.errors import ConfigError, DataError, NumericError
from curate.storage import Stored, StoredRows, bytes_per_row, encode, storage_error, stored_rows

FORMATS: tuple[Stored, ...] = get_args(Stored)
CODED: tuple[Stored, ...] = FORMATS[1:]
WIDTHS = (1, 3, 7, 8, 9, 16, 61)
TINY = float(np.finfo(np.float32).smallest_subnormal)


def rows_of(width: int, count: int = 12) -> np.ndarray:
    """Rows of very different sizes, with zeros of both signs among their numbers and a zero row among them."""
    rng = np.random.default_rng(width)
    rows = (rng.normal(size=(count, width)) * 10.0 ** rng.integers(-3, 4, (count, 1))).astype(np.float32)
    rows[1, rng.random(width) < 0.5] = 0
    rows[2, rng.random(width) < 0.5] = -0.0
    rows[3] = 0
    return rows


def decoded(values: np.ndarray, stored: Stored) -> np.ndarray:
    return np.asarray(stored_rows(encode(values, stored))[:])


def by_definition(row: list[float], stored: Stored) -> list[float]:
    """One row stored and read again, in Python's float64 and without the code under test."""
    if stored == "float32":
        return row
    if stored == "float16":
        return [float(np.float16(v)) for v in row]
    if stored == "int8":
        absmax = max(abs(v) for v in row)
        return [round(v / absmax * 127) / 127 * absmax if absmax else 0.0 for v in row]
    size = sum(abs(v) for v in row) / len(row)
    return [size if v >= 0 else -size for v in row]


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_reads_back_as_its_definition_says(stored: Stored, width: int) -> None:
    rows = rows_of(width)
    found = decoded(rows, stored)
    assert found.dtype == np.float32 and found.shape == rows.shape
    for row, got in zip(rows, found, strict=True):
        wanted = by_definition(row.tolist(), stored)
        assert got.tolist() == pytest.approx(wanted, rel=3e-7, abs=0)


@pytest.mark.parametrize("stored", FORMATS)
def test_a_row_alone_is_stored_as_it_is_among_others(stored: Stored) -> None:
    rows = rows_of(13)
    whole = encode(rows, stored)
    for i in range(len(rows)):
        alone = encode(rows[i : i + 1], stored)
        assert all(np.array_equal(alone[name][0], whole[name][i]) for name in alone if name != "width")


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_takes_the_bytes_that_are_documented(stored: Stored, width: int) -> None:
    tensors = encode(rows_of(width), stored)
    taken = sum(tensor.nbytes for name, tensor in tensors.items() if name != "width") / 12
    wanted = {"float32": width * 4, "float16": width * 2, "int8": width + 4, "sign": -(-width // 8) + 4}
    assert taken == wanted[stored] == bytes_per_row(width, stored)


def test_a_number_in_float16_is_within_its_share_of_itself() -> None:
    values = (np.random.default_rng(0).normal(size=(40, 50)) * 10.0 ** np.arange(-6, 4).repeat(4)[:, None]).astype(np.float32)
    apart, sizes = np.abs(decoded(values, "float16").astype(np.float64) - values), np.abs(values.astype(np.float64))
    normal = sizes >= 2.0**-14
    assert (apart[normal] <= 2.0**-11 * sizes[normal]).all() and (apart[normal] > 2.0**-12 * sizes[normal]).any()
    assert (apart[~normal] <= 2.0**-25).all() and (apart[~normal] > 2.0**-26).any()


def test_a_number_in_int8_is_within_half_a_step() -> None:
    values = rows_of(61, 200)
    absmax = np.abs(values).max(axis=1, keepdims=True).astype(np.float64)
    apart = np.abs(decoded(values, "int8").astype(np.float64) - values)
    assert (apart <= absmax / 254 + absmax * 2.0**-22).all()
    assert (apart > absmax / 300).any()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_size_in_sign_is_the_best_of_a_fine_grid(width: int) -> None:
    for row in rows_of(width).astype(np.float64):
        found = decoded(row[None].astype(np.float32), "sign")[0].astype(np.float64)
        grid = np.linspace(0, 2 * np.abs(row).max(), 4001)
        costs = [float(np.square(row - size * np.where(row < 0, -1, 1)).sum()) for size in grid]
        assert np.square(row - found).sum() <= min(costs) * (1 + 1e-6)
        assert abs(abs(found[0]) - grid[int(np.argmin(costs))]) <= (grid[1] - grid[0]) * 0.51


@pytest.mark.parametrize("stored", FORMATS)
def test_a_zero_row_stays_zero(stored: Stored) -> None:
    with np.errstate(all="raise"):  # 0/0 cast to int8 is zero on some machines only
        found = decoded(np.array([[0, 0, 0], [1, -2, 3], [-0.0, 0, -0.0]], np.float32), stored)
    assert not found[[0, 2]].any() and found[1].any()


@pytest.mark.parametrize("number", [1.0, -0.3, 3.4e38, -3.4e38, 1e-30, TINY, -TINY])
def test_a_single_number_in_a_row_is_exact_in_int8(number: float) -> None:
    row = np.zeros((1, 9), np.float32)
    row[0, 4] = number
    assert np.array_equal(decoded(row, "int8"), row)


def test_a_row_of_the_smallest_numbers_keeps_its_direction_in_sign() -> None:
    row = np.zeros((1, 9), np.float32)
    row[0, 4] = -TINY
    found = decoded(row, "sign")[0]
    assert found[4] < 0 and (np.delete(found, 4) > 0).all()


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (65505, "reaches 65505, beyond float16, which ends at 65504; store this feature as float32 or int8"),
        (-70000, "reaches 70000, beyond float16"),
        (2e-8, "reaches 2e-08, which float16 rounds to zero; store this feature as float32 or int8"),
        (np.inf, "reaches inf, which is not finite"),
    ],
)
def test_a_row_that_float16_cannot_hold_is_named(number: float, why: str) -> None:
    values = np.array([[1, 2], [0, 0], [0, number], [number, 0]], np.float32)
    with pytest.raises(NumericError, match=f"^row 2 {why}") as caught:
        encode(values, "float16")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(NumericError, match="^row 19 "):
        encode(values, "float16", np.array([11, 12, 19, 23]))


def test_the_ends_of_float16_are_held() -> None:
    values = np.array([[65504, -65504], [3e-8, 0]], np.float32)
    assert decoded(values, "float16").tolist() == [[65504, -65504], [2.0**-24, 0]]


@pytest.mark.parametrize("stored", CODED)
def test_a_number_that_is_not_finite_is_refused(stored: Stored) -> None:
    for number in (np.inf, np.nan):
        with pytest.raises(NumericError, match="row 1 reaches .*not finite"):
            encode(np.array([[1, 2], [number, 2]], np.float32), stored)


@pytest.mark.parametrize("stored", CODED)
def test_scores_are_kept_as_float32_only(stored: Stored) -> None:
    scores = np.array([1.5, -2, 0], np.float32)
    assert np.array_equal(decoded(scores, "float32"), scores)
    with pytest.raises(DataError, match=rf"shape \(3,\) cannot be stored as {stored}.*store scores as float32"):
        encode(scores, stored)
    with pytest.raises(DataError, match=r"of shape \(3,\)"):
        storage_error(scores, stored)


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    unknown: Any = "int4"
    for call in (lambda: encode(np.ones((1, 2), np.float32), unknown), lambda: bytes_per_row(2, unknown)):
        with pytest.raises(ConfigError, match="'int4' is not .* float32, float16, int8, sign"):
            call()


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_is_stored_as_nothing(stored: Stored, shape: tuple[int, int]) -> None:
    made = stored_rows(encode(np.zeros(shape, np.float32), stored))
    assert made.shape == made[:].shape == shape and made.dtype == np.float32
    assert storage_error(np.zeros(shape, np.float32), stored) == {"rows": 0, "row_error": 0.0, "pairs": 0, "cosine_error": 0.0}


@pytest.mark.parametrize("stored", CODED)
def test_coded_rows_index_like_the_array_that_they_decode_to(stored: Stored) -> None:
    made = stored_rows(encode(rows_of(11), stored))
    whole = np.asarray(made)
    assert isinstance(made, StoredRows) and made.shape == whole.shape == (12, 11) and len(made) == 12 and made.dtype == whole.dtype
    mask = np.arange(12) % 5 == 1
    for key in (slice(2, 7), slice(9, 2, -3), np.array([7, 0, 7, -1]), np.array([], np.int64), mask, 4, -1, np.int64(3)):
        assert np.array_equal(made[key], whole[key]) and made[key].dtype == np.float32
    assert np.asarray(made, np.float64).dtype == np.float64


@pytest.mark.parametrize("stored", CODED)
def test_only_the_rows_that_are_asked_for_are_decoded(stored: Stored) -> None:
    made = stored_rows(encode(np.ones((2000, 1000), np.float32), stored))
    tracemalloc.start()
    made[5], made[np.array([3, 1999])], made[10:12]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000  # all rows would be 8 MB


@pytest.mark.parametrize("stored", FORMATS)
def test_the_error_is_what_a_plain_count_over_the_rows_gives(stored: Stored) -> None:
    values = rows_of(29, 40)
    found, kept = storage_error(values, stored), [i for i in range(40) if values[i].any()]
    back = {i: np.array(by_definition(values[i].tolist(), stored)) for i in kept}
    wide = {i: values[i].astype(np.float64) for i in kept}
    row_errors = [np.linalg.norm(wide[i] - back[i]) / np.linalg.norm(wide[i]) for i in kept]

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    apart = [cosine(wide[i], wide[j]) - cosine(back[i], back[j]) for i in kept for j in kept if i < j]
    assert (found["rows"], found["pairs"]) == (39, 39 * 38 / 2)
    assert found["row_error"] == pytest.approx(np.sqrt(np.mean(np.square(row_errors))), rel=1e-4, abs=1e-12)
    assert found["cosine_error"] == pytest.approx(np.sqrt(np.mean(np.square(apart))), rel=1e-3, abs=1e-12)
    assert storage_error(values, stored) == found == storage_error(stored_rows({"values": values}), stored)


def test_gaussian_rows_cost_what_theory_says() -> None:
    rng = np.random.default_rng(1)
    u, other = rng.normal(size=(2, 20_000))
    rows = np.stack([u, 0.6 * u + 0.8 * other]).astype(np.float32)
    found = storage_error(rows, "sign")
    assert found["row_error"] == pytest.approx(np.sqrt(1 - 2 / np.pi), abs=0.01)
    assert found["cosine_error"] == pytest.approx(0.6 - 2 / np.pi * np.arcsin(0.6), abs=0.02)  # Grothendieck's identity
    steps = np.abs(rows).max(axis=1) / 127 / rows.std(axis=1)  # rounding is uniform over a step
    assert storage_error(rows, "int8")["row_error"] == pytest.approx(np.sqrt(np.mean(steps**2) / 12), rel=0.02)
    assert 2.0**-13 < storage_error(rows, "float16")["row_error"] < 2.0**-11
    assert storage_error(rows, "float32")["row_error"] == 0


def test_at_most_64_rows_are_compared_and_they_lie_all_over() -> None:
    even, uneven = np.array([1, 1, 1], np.float32), np.array([1, 1, 9], np.float32)
    values = np.stack([np.roll(even if i < 150 else uneven, i) for i in range(600)])
    values[::2] = 0
    found = storage_error(values, "sign")
    assert (found["rows"], found["pairs"]) == (300, 64 * 63 / 2)
    assert 0 < found["cosine_error"] and 0 < found["row_error"] < storage_error(values[300:], "sign")["row_error"]


def test_the_error_names_the_row_that_cannot_be_stored_among_all() -> None:
    values = np.ones((700, 4), np.float32)
    values[650, 2] = 1e5
    with pytest.raises(NumericError, match="^row 650 reaches 100000,"):
        storage_error(values, "float16")
