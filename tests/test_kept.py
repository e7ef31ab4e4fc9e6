"""What was computed is kept by the bytes it takes, however many values these are."""

from typing import Any

import numpy as np
import pytest
import torch

from curate import projection
from curate.kept import Kept, kept, size_of
from curate.moments import Moments
from curate.projection import CountSketch


def counted(most_bytes: int, most_values: int | None = None) -> tuple[Kept[..., Any], list[Any]]:
    """A function whose value is its argument in bytes, and the arguments that it was run for."""
    made: list[Any] = []

    @kept(most_bytes, most_values)
    def zeros(size: int, *, dtype: str = "uint8") -> Any:
        made.append(size)
        return np.zeros(size, dtype)

    return zeros, made


def test_values_are_made_once_as_long_as_their_bytes_fit() -> None:
    zeros, made = counted(1000)
    for _ in range(3):
        assert [len(zeros(size)) for size in (400, 100, 500)] == [400, 100, 500]
    assert made == [400, 100, 500] and zeros.bytes == 1000


def test_a_thousand_small_values_all_stay() -> None:
    zeros, made = counted(10**6)
    for _ in range(2):
        for size in range(1000):
            zeros(size)
    assert made == list(range(1000))


def test_of_what_may_vanish_only_so_many_values_stay() -> None:
    zeros, made = counted(10**6, most_values=3)
    for size in (1, 2, 3, 1, 4):  # 1 was used again, so 2 goes
        zeros(size)
    assert zeros.bytes == 8
    for size in (1, 3, 4):
        zeros(size)
    assert made == [1, 2, 3, 4]
    zeros(2)
    assert made == [1, 2, 3, 4, 2] and zeros.bytes == 9


def test_what_was_used_least_recently_goes_first_and_no_more_than_must() -> None:
    zeros, made = counted(1000)
    for size in (400, 300, 200, 400, 350):  # 400 was used again, so 300 goes, and with it there is room
        zeros(size)
    assert zeros.bytes == 950
    for size in (400, 200, 350):
        zeros(size)
    assert made == [400, 300, 200, 350]
    zeros(300)
    assert made[-1] == 300


def test_a_value_above_the_bound_stays_until_the_next_one() -> None:
    zeros, made = counted(1000)
    for size in (100, 5000, 5000, 100):
        zeros(size)
    assert made == [100, 5000, 100] and zeros.bytes == 100


def test_other_arguments_are_another_value_and_all_can_be_let_go() -> None:
    zeros, made = counted(10**6)
    assert zeros(8).dtype == np.uint8 and zeros(8, dtype="float32").dtype == np.float32
    zeros.cache_clear()
    zeros(8)
    assert made == [8, 8, 8] and zeros.bytes == 8


def test_what_fails_is_not_kept() -> None:
    tries: list[int] = []

    @kept(1000)
    def fails_once(number: int) -> int:
        tries.append(number)
        if len(tries) == 1:
            raise ValueError("not yet")
        return number

    with pytest.raises(ValueError, match="not yet"):
        fails_once(3)
    assert fails_once(3) == 3


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (np.zeros((3, 4), np.int16), 24),
        (torch.zeros(5, dtype=torch.float64), 40),
        ({"a": torch.zeros(2), "b": {"c": np.zeros(1, np.int8)}}, 9),
        ((torch.zeros(3), [torch.zeros(1)]), 16),
        (Moments({"w": torch.zeros(6)}, {"w": torch.zeros(6)}, 1, 0.9, 0.999, 1e-8), 48),
        ("text", 0),
    ],
)
def test_arrays_are_counted_wherever_they_lie(value: Any, size: int) -> None:
    assert size_of(value) == size


def test_hundreds_of_hashes_are_computed_once_for_a_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    values, computed, mix = torch.randn(2, 30), [0], projection.splitmix64

    def counting(numbers: Any) -> Any:
        computed[0] += 1
        return mix(numbers)

    monkeypatch.setattr(projection, "splitmix64", counting)
    sketched = []
    for _ in range(2):
        into = torch.zeros(2, 16)
        for stream in range(9):
            for weight in range(56):
                CountSketch(16, seed=77, stream=stream).add(into, values, 30 * weight)
        sketched.append((into, computed[0]))
    assert sketched[0][1] == sketched[1][1] == 3 * 9 * 56
    assert torch.equal(sketched[0][0], sketched[1][0])
