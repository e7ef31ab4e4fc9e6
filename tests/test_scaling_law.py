"""The scaling law for data filtering against its recursion, closed forms and root finding; its fit against known laws."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ConfigError, DataError, NumericError
from curate.scaling_fit import Fitted, Run, _Problem, fit
from curate.scaling_law import Law

N = 14_000.0
TUNED = Law(9.0, (1.2, 0.4, 0.1, -0.05), 2.0, 0.6, N, start=8_000.0)  # a fine-tuned model: 9.6 nats before training
PLAIN = Law(30.0, (0.3, 0.2, 0.1, 0.05), 2.0, 0.6, N)
KINDS = [((0,), 1 / 8), ((0,), 1 / 3), ((0,), 1.0), ((1,), 1.0), ((2,), 1.0), ((3,), 1.0), ((0,), 2.0), ((0,), 4.0)]
KINDS += [((0, 1), 2.0), ((0, 1, 2, 3), 1.0), ((0, 1, 2, 3), 4.0)]


def by_recursion(law: Law, kept: Sequence[int], seen: float) -> float:
    """The loss pass by pass, as the paper writes it: what the first pass leaves, times (n_k / n_{k-1})^-b_k for every pass after it."""
    pool, p = law.bucket * len(kept), len(kept)

    def tokens(n: float) -> float:
        return (n + law.start) / law.start if law.start else n

    left, k = law.a * tokens(min(pool, seen)) ** -np.mean([law.b[i] for i in kept]), 1
    while k * pool < seen:
        b_k = np.mean([law.b[i] * 0.5 ** (k / (law.tau * p)) for i in kept])
        left *= (tokens(min((k + 1) * pool, seen)) / tokens(k * pool)) ** -b_k
        k += 1
    return float(law.d + left)


def simulated(law: Law, noise: float, seed: int, kinds: Sequence[tuple[tuple[int, ...], float]] = KINDS) -> list[Run]:
    rng = np.random.default_rng(seed)
    points = [(kept, N * len(kept), size * N) for kept, size in kinds]
    return [Run(kept, pool, seen, by_recursion(law, kept, seen) * float(np.exp(noise * rng.normal()))) for kept, pool, seen in points]


@given(st.sampled_from([TUNED, PLAIN]), st.floats(0.05, 50), st.floats(10, 1e7), st.sets(st.integers(0, 3), min_size=1))
def test_the_loss_is_that_of_the_recursion_over_passes(law: Law, tau: float, seen: float, kept: set[int]) -> None:
    changed = Law(law.a, law.b, tau, law.d, law.bucket, law.start)
    assert changed.loss(sorted(kept), N, seen)[0] == pytest.approx(by_recursion(changed, sorted(kept), seen), rel=1e-9)


@given(st.floats(1, 1e9), st.integers(1, 4))
def test_without_fading_it_is_the_plain_power_law(seen: float, p: int) -> None:
    for law in (TUNED, PLAIN):
        endless, near = (Law(law.a, law.b, tau, law.d, law.bucket, law.start) for tau in (np.inf, 1e12))
        base = 1 + seen / law.start if law.start else seen
        power = law.d + law.a * base ** -np.mean(law.b[:p])
        assert endless.loss(range(p), N, seen)[0] == pytest.approx(power, rel=1e-12)
        assert near.loss(range(p), N, min(seen, 1e6))[0] == pytest.approx(endless.loss(range(p), N, min(seen, 1e6))[0], rel=1e-6)


def test_the_floor_does_not_fall_with_repetition() -> None:
    a, b, tau, d, pool, seen = 0.025, 0.16, 6.7272727, 0.1, 12.8e6, 640e6  # the best decile of the paper's T-MARS pool, 50 passes
    first = (a * pool / 1e5) ** -b
    ratio = np.prod([((k + 1) / k) ** -(b * 0.5 ** (k / tau)) for k in range(1, 50)])
    law = Law((a / 1e5) ** -b, (b,), tau, d, pool)
    assert law.loss((0,), pool, seen)[0] == pytest.approx(d + first * ratio, rel=1e-9)
    assert abs(law.loss((0,), pool, seen)[0] - (d + first) * ratio) > 0.025  # what d inside the product would give
    assert Law(1.0, (3.0,), 1e9, 0.5, 10.0).loss((0,), 10, 1e6)[0] == pytest.approx(0.5)


def test_one_pool_cut_into_equal_buckets_is_the_same_pool() -> None:
    whole, cut = Law(9.0, (0.7,), 6.0, 0.5, 3 * N, 5e3), Law(9.0, (0.7, 0.7, 0.7), 2.0, 0.5, N, 5e3)
    for seen in (1e3, 5e4, 7e5):
        assert cut.loss(range(3), N, seen)[0] == pytest.approx(whole.loss((0,), 3 * N, seen)[0], rel=1e-12)


def test_a_part_of_a_bucket_fades_as_much_faster_as_it_is_smaller() -> None:
    half = Law(TUNED.a, TUNED.b, TUNED.tau / 2, TUNED.d, N / 2, TUNED.start)
    assert TUNED.loss((0, 2), N / 2, 1e5)[0] == pytest.approx(half.loss((0, 2), N / 2, 1e5)[0], rel=1e-12)


def test_before_training_a_tuned_model_has_lost_nothing() -> None:
    assert TUNED.loss((1,), N, 0.0)[0] == 9.6
    assert PLAIN.loss((1,), N, 1.0)[0] == 30.6


@pytest.mark.parametrize(("law", "last"), [(TUNED, 2), (PLAIN, 1), (Law(9.0, (0.5, 0.45, 0.4), 0.5, 0.3, N, 2e3), 3)])
def test_the_best_number_of_buckets_has_the_lowest_loss_and_grows_with_the_compute(law: Law, last: int) -> None:
    taken = []
    for compute in np.geomspace(1e3, 1e7, 25):
        best = law.best(compute)
        losses = [by_recursion(law, range(p), compute) for p in range(1, len(law.b) + 1)]
        assert best.loss == pytest.approx(min(losses), rel=1e-9) and losses[best.buckets - 1] == pytest.approx(min(losses), rel=1e-9)
        assert best.passes == pytest.approx(compute / (best.buckets * N))
        taken.append(best.buckets)
    assert taken == sorted(taken) and (taken[0], taken[-1]) == (1, last)
    assert Law(1.0, (0.5, 0.5), np.inf, 0.0, N).best(1e6).buckets == 1  # of equals, the fewest


@settings(max_examples=25)
@given(st.floats(0.3, 5), st.floats(0.05, 0.95), st.sampled_from([0.0, 500.0, 2e4]), st.integers(2, 4))
def test_the_crossover_is_the_first_compute_at_which_more_buckets_win(tau: float, worse: float, start: float, more: int) -> None:
    law = Law(9.0, (0.8, *[0.8 * worse] * 3), tau, 0.4, N, start)
    grid = np.geomspace(N / 2, 250 * N, 2000)
    lead = law.loss((0,), N, grid) - law.loss(range(more), N, grid)
    found = law.crossover(1, more)
    if found is None:
        assert lead.max() <= 1e-12
        return
    before, at, after = (by_recursion(law, (0,), seen) - by_recursion(law, range(more), seen) for seen in (0.999 * found, found, 1.001 * found))
    assert before < 0 < after and abs(at) < 1e-3 * min(-before, after)
    assert lead[grid < 0.999 * found].max() < 0


def test_crossovers_with_a_closed_form() -> None:
    one_use = Law(9.0, (0.8, 0.7), 1e-3, 0.4, N)  # a second pass is worth nothing: N^-b_1 = n^-b
    assert one_use.crossover(1, 2) == pytest.approx(N ** (0.8 / 0.75), rel=1e-9)
    second = Law(9.0, (0.8, 0.79), 1.0, 0.4, N)  # in the second pass of one and the first of two: b x = b_1 (x_N + (x - x_N) / 2)
    assert second.crossover(1, 2) == pytest.approx(np.exp(0.4 * np.log(N) / (0.795 - 0.4)), rel=1e-9)
    equal = Law(9.0, (0.8, 0.8), 1.0, 0.4, N, 1e3)
    assert equal.crossover(1, 2) == pytest.approx(N)  # from the first repetition on
    endless = Law(9.0, (0.8, 0.7), np.inf, 0.4, N)
    assert endless.crossover(1, 2) is None and endless.crossover(2, 1) == 1.0  # curves through one point at one token
    assert Law(9.0, (0.7, 0.8), np.inf, 0.4, N, 1e3).crossover(1, 2) == 0.0


@pytest.mark.parametrize(("law", "base"), [(TUNED, 9.6), (PLAIN, None)])
def test_a_law_without_noise_is_found_again(law: Law, base: float | None) -> None:
    found = fit(simulated(law, 0.0, 0), 4, N, base=base, draws=1).law
    assert (found.a, found.tau, found.d, found.start) == pytest.approx((law.a, law.tau, law.d, law.start), rel=1e-5)
    assert found.b == pytest.approx(law.b, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("law", "base"), [(TUNED, 9.6), (PLAIN, None)])
def test_the_slopes_are_those_of_the_predictions(law: Law, base: float | None) -> None:
    problem = _Problem.of(simulated(law, 0.05, 3), 4, N, base)
    numbers = problem.guess(np.random.Generator(np.random.Philox(1)))
    steps = [(problem.predict(numbers + 1e-6 * one) - problem.predict(numbers - 1e-6 * one)) / 2e-6 for one in np.eye(problem.size)]
    assert problem.slopes(numbers) == pytest.approx(np.stack(steps, 1), abs=1e-7)


def numbers_of(law: Law) -> list[float]:
    """The half-life, the floor, what a pass takes off, and losses within and beyond the runs."""
    takes = [1 - float((by_recursion(law, (i,), N) - law.d) / law.a) for i in range(4)]
    return [law.tau, law.d, *takes, *(by_recursion(law, range(p), seen) for p in (1, 2, 4) for seen in (3e4, 6e4, 2e5))]


def test_intervals_hold_the_truth_in_nine_of_ten_cases() -> None:
    held = []
    for seed in range(5):
        found = fit(simulated(TUNED, 0.04, seed), 4, N, base=9.6, seed=seed, draws=60)
        for number, truth in enumerate(numbers_of(TUNED)):
            value = found.estimate(lambda law, number=number: numbers_of(law)[number])  # type: ignore[misc]
            assert value.low <= value.high
            held.append(value.low <= truth <= value.high)
        assert found.answers(3e4)[0] > 0.95 and found.answers(3e4).sum() == pytest.approx(1)
        assert 0.01 < found.noise < 0.1 and found.spare == 4
        near = found.estimate(lambda law: float(law.loss((0, 1), N, 3e4)[0]))
        assert near.high < 1.4 * near.low
    assert np.mean(held) >= 0.9


def test_more_noise_gives_wider_intervals_and_less_sure_answers() -> None:
    quiet, loud = (fit(simulated(TUNED, noise, 1), 4, N, base=9.6, draws=40) for noise in (0.005, 0.1))

    def width(found: Fitted) -> float:
        value = found.estimate(lambda law: float(law.loss((0, 1), N, 5e4)[0]))
        return value.high - value.low

    assert width(loud) > 4 * width(quiet) and loud.answers(1.5e5).max() < quiet.answers(1.5e5).max() + 0.1


def test_without_repetition_the_half_life_is_left_out() -> None:
    once = [kind for kind in KINDS if kind[1] <= len(kind[0])] + [((0, 1, 2, 3), 2.0)]
    found = fit(simulated(TUNED, 0.0, 0, once), 4, N, base=9.6, draws=2)
    assert not found.fades and found.law.tau == np.inf
    assert found.law.loss((0, 1), N, 2 * N)[0] == pytest.approx(by_recursion(TUNED, (0, 1), 2 * N), rel=1e-5)


def test_the_same_seed_gives_the_same_fit() -> None:
    runs = simulated(TUNED, 0.04, 0)
    one, again, other = (fit(runs, 4, N, base=9.6, seed=seed, draws=5) for seed in (3, 3, 4))
    assert one.law == again.law and one.draws == again.draws and one.draws != other.draws
    assert one.law.d == pytest.approx(other.law.d, rel=1e-4)  # whatever the starts, one optimum


def test_a_start_that_ends_in_a_worse_optimum_does_not_decide() -> None:
    runs = simulated(TUNED, 0.1, 1)  # a single search with the numbers of seed 8 or 12 ends without any fading
    assert [fit(runs, 4, N, base=9.6, seed=seed, draws=1).law.tau for seed in (8, 12)] == pytest.approx(
        [fit(runs, 4, N, base=9.6, draws=1).law.tau] * 2, rel=1e-3
    )


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (KINDS[:6], "6 runs of 6 kinds cannot determine 6 numbers .start, d, 4 utilities. and how sure they are; add 1 or more runs"),
        ([*KINDS[:6], KINDS[6]], "7 runs of 7 kinds cannot determine 7 numbers .start, d, tau, 4 utilities.*add 1 or more"),
        ([*KINDS[2:7], *KINDS[2:5]], "8 runs of 5 kinds cannot determine 7 numbers.*add 2 or more"),
        ([kind for kind in KINDS if 2 not in kind[0]], "no run trains on bucket 3, so nothing is known of its utility"),
        ([kind for kind in KINDS if kind[0] not in ((2,), (3,))], "some buckets are only seen together"),
    ],
)
def test_runs_that_leave_a_number_open_are_refused(kinds: list[tuple[tuple[int, ...], float]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit(simulated(TUNED, 0.01, 0, kinds), 4, N, base=9.6)


def test_numbers_that_are_no_losses_are_refused() -> None:
    runs = simulated(TUNED, 0.01, 0)
    with pytest.raises(NumericError, match="run 10 saw .* and left a loss of nan"):
        fit([*runs[:-1], runs[-1]._replace(loss=float("nan"))], 4, N, base=9.6)
    with pytest.raises(NumericError, match="the loss before training is 0"):
        fit(runs, 4, N, base=0.0)
    with pytest.raises(ConfigError, match="needs tau > 0"):
        Law(1.0, (0.5,), 0.0, 0.1, N)
