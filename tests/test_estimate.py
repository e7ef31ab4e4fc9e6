"""Forecasts against costs whose law is known, and break-even against counting models one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.estimate import MARGIN, Line, Point, Span, break_even, break_even_sentence, exponent, growth


@given(first=st.floats(0, 50), fixed=st.floats(0, 50), rate=st.floats(1e-4, 10))
def test_a_line_is_found_again_with_what_the_first_process_paid(first: float, fixed: float, rate: float) -> None:
    points = [Point(size, fixed + rate * size + (first if size == 8 else 0)) for size in (8, 16, 64)]
    line = Line.through(points)
    assert (line.first, line.fixed, line.rate) == (pytest.approx(first, abs=1e-6), pytest.approx(fixed, abs=1e-6), pytest.approx(rate, rel=1e-6))
    found = line.at(10_000)
    assert found.middle == pytest.approx(first + fixed + rate * 10_000)
    assert found.low <= found.middle / MARGIN * (1 + 1e-9) and found.high >= found.middle * MARGIN * (1 - 1e-9)


def test_processes_share_what_grows_and_each_pay_the_rest() -> None:
    line = Line.through([Point(10, 7.0), Point(20, 4.0), Point(40, 6.0)])  # 2 + size / 10, and 4 at first
    assert (line.first, line.fixed, line.rate) == (4.0, 2.0, 0.1)
    assert line.at(1000, processes=4).middle == 4 + 2 + 1000 / 40


def test_two_measurements_are_read_as_a_cold_one_and_a_proportion() -> None:
    line = Line.through([Point(8, 5.0), Point(16, 3.2)])
    assert (line.rate, line.fixed) == (pytest.approx(0.2), 0.0)
    assert line.first == pytest.approx(5.0 - 8 * 0.2)


def test_a_line_that_falls_is_replaced_by_proportion() -> None:
    line = Line.through([Point(8, 5.0), Point(16, 4.0), Point(32, 3.2)])
    assert (line.rate, line.fixed) == (pytest.approx(0.1), 0.0)


def test_the_ends_hold_both_readings_where_loading_dwarfs_the_work() -> None:
    found = Line.through([Point(1, 20.0), Point(2, 12.0), Point(4, 14.0)]).at(100)  # 9 at first, then 10 + size, or in proportion to the last
    assert found.middle == pytest.approx(119.0)
    assert found.low <= 119.0 / MARGIN * (1 + 1e-9) and found.high >= (9 + 350) * MARGIN * (1 - 1e-9)


def test_one_measurement_counts_in_proportion() -> None:
    assert Line.through([Point(4, 2.0)]).at(40).middle == pytest.approx(20.0)


@given(power=st.floats(1.01, 1.99), size=st.floats(1000, 1e6))
def test_a_power_is_found_again_with_what_came_first(power: float, size: float) -> None:
    points = [Point(n, 1e-3 * n**power + (3.0 if n == 64 else 0.0)) for n in (64, 250, 500, 1000)]
    found = growth(points, size)
    assert found.middle == pytest.approx(3.0 + 1e-3 * size**power, rel=1e-6)
    assert found.low <= found.middle / MARGIN * (1 + 1e-9)
    assert found.high >= MARGIN * 1000**power / 1000 * (size / 1000) ** 2 * (1 - 1e-9)  # should it turn out to be quadratic


def test_growth_is_at_most_quadratic() -> None:
    cubic = [Point(n, float(n) ** 3) for n in (100, 200)]
    assert exponent(cubic) == 2.0
    assert growth(cubic, 400).middle == pytest.approx(200.0**3 * 4)


def test_where_costs_hardly_grow_there_is_a_fixed_part() -> None:
    found = growth([Point(64, 9.0), Point(250, 4.25), Point(500, 4.5)], 3000)  # 4 + n / 1000
    assert found.middle == pytest.approx(7.0 + 9.0 - 4.5 * 64 / 500)
    assert found.high > 4.5 * 3000 / 500  # as if all of it grew


def test_nothing_measured_is_no_forecast() -> None:
    with pytest.raises(ValueError, match="at least one measurement"):
        growth([], 10)
    with pytest.raises(ValueError, match="at least one measurement"):
        Line.through([])


def test_spans_add_and_multiply_end_by_end() -> None:
    assert Span(2, 1, 4) + Span(3, 2, 5) == Span(5, 3, 9)
    assert Span(2, 1, 4).times(3) == Span(6, 3, 12)


@given(selecting=st.integers(0, 500), full=st.integers(1, 100), subset=st.integers(1, 100))
def test_break_even_is_the_first_model_after_which_no_second_was_lost(selecting: int, full: int, subset: int) -> None:
    counted = next((models for models in range(1, 600) if selecting + models * subset <= models * full), None)
    assert break_even(selecting, full, subset) == (counted if full > subset else None)


def test_the_sentence_says_when_a_selection_has_paid_for_itself() -> None:
    assert break_even_sentence("less-rr at 5%", 720, 2520, 120) == (
        "less-rr at 5%: selecting costs 12 min 00 s and saves 40 min 00 s per model trained: pays from the first model"
    )
    assert break_even_sentence("less-rr at 5%", 720, 130, 30).endswith("saves 1 min 40 s per model trained: pays from model 8 on")
    assert "never pays in time" in break_even_sentence("tarot at 100%", 720, 120, 120)
