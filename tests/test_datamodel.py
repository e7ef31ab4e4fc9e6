"""The linear datamodelling score against worlds whose answer is known, scipy, and a bootstrap by brute force."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from curate.core import Integers
from curate.datamodel import Estimate, Resampled, _counts, datamodelling_score, for_all_rows, subset, sums, verdict
from curate.errors import DataError, NumericError

Matrix = NDArray[np.float64]
IDS = np.array([f"row-{i:04d}" for i in range(200)])


def parts(count: int = 20, seed: int = 0) -> list[Integers]:
    """Subsets of half of the rows."""
    return [subset(IDS, seed, number, 100) for number in range(count)]


def effects(targets: int, seed: int = 0) -> Matrix:
    """(200, M) what each row does to each target row, much of it to all alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(200, 1)) + rng.normal(size=(200, targets))


def test_outcomes_that_are_linear_in_membership_are_predicted_perfectly() -> None:
    planted = effects(7)
    found = datamodelling_score(sums(3 * planted + 5, parts()), sums(planted, parts())).estimate()
    assert found == pytest.approx(Estimate(1, 1, 1))
    assert datamodelling_score(sums(-planted, parts()), sums(planted, parts())).estimate() == pytest.approx(Estimate(-1, -1, -1))


def test_a_rising_transform_of_the_outcome_changes_nothing() -> None:
    planted = effects(3)
    noisy = sums(planted, parts()) + np.random.default_rng(1).normal(0, 20, (20, 3))
    there, back = (datamodelling_score(sums(planted, parts()), outcome) for outcome in (noisy, np.exp(noisy / 30)))
    assert there.value == back.value and 0.1 < there.value < 0.9
    assert np.array_equal(there.draws, back.draws)


def test_scores_of_the_wrong_rows_are_not_distinguishable_from_chance() -> None:
    planted = effects(7)
    missed = 0
    for seed in range(40):
        permuted = np.random.default_rng(seed).permutation(planted)
        found = datamodelling_score(sums(permuted, parts()), sums(planted, parts()), resamples=400).estimate()
        missed += not found.low <= 0 <= found.high
    assert missed <= 5


@pytest.mark.parametrize("levels", [0, 3])
def test_the_score_is_the_mean_over_target_rows_of_the_spearman_of_scipy(levels: int) -> None:
    rng = np.random.default_rng(2)
    predictions, outcomes = rng.normal(size=(2, 15, 6))
    if levels:  # ties
        predictions, outcomes = np.round(predictions), np.round(outcomes * levels)
    wanted = [spearmanr(mine, theirs).statistic for mine, theirs in zip(predictions.T, outcomes.T, strict=True)]
    assert datamodelling_score(predictions, outcomes, resamples=1).value == pytest.approx(np.mean(wanted))
    whole = spearmanr(predictions[:, 0], outcomes.mean(1)).statistic
    assert datamodelling_score(predictions[:, 0], outcomes, resamples=1).value == pytest.approx(whole)


def test_each_draw_is_the_score_of_resampled_subsets_and_target_rows() -> None:
    rng = np.random.default_rng(3)
    predictions, outcomes = rng.integers(0, 6, size=(2, 9, 4)).astype(float)
    ours = datamodelling_score(predictions, outcomes, resamples=60, seed=5).draws
    whole = datamodelling_score(predictions[:, 0], outcomes, resamples=60, seed=5).draws
    rows = [np.repeat(np.arange(9), count.astype(int)) for count in _counts(5, "subsets", 9, 60)]
    columns = [np.repeat(np.arange(4), count.astype(int)) for count in _counts(5, "target rows", 4, 60)]
    assert len({tuple(row) for row in rows}) > 50 and len({tuple(column) for column in columns}) > 10
    wanted = [np.mean([spearmanr(predictions[row, j], outcomes[row, j]).statistic for j in column]) for row, column in zip(rows, columns, strict=True)]
    assert ours == pytest.approx(np.array(wanted))
    wanted = [spearmanr(predictions[row, 0], outcomes[row][:, column].mean(1)).statistic for row, column in zip(rows, columns, strict=True)]
    assert whole == pytest.approx(np.array(wanted))


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("shared", [0.5, 0.95])
def test_95_percent_intervals_cover_the_score_of_all_subsets_and_target_rows(correlation: float, shared: float) -> None:
    """Normal worlds, whose rank correlation is known; target rows share most of what moves them, as they do in training."""
    truth, held = 6 / np.pi * np.arcsin(correlation / 2), 0
    for run in range(200):
        rng = np.random.default_rng(run)
        first, second = (np.sqrt(shared) * rng.normal(size=(20, 1)) + np.sqrt(1 - shared) * rng.normal(size=(20, 8)) for _ in range(2))
        found = datamodelling_score(first, correlation * first + np.sqrt(1 - correlation**2) * second, resamples=300, seed=run).estimate()
        held += found.low <= truth <= found.high
    assert 0.9 <= held / 200 <= (0.99 if shared > 0.9 else 1.0)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    predictions, outcomes = np.random.default_rng(4).normal(size=(2, 12, 5))
    assert datamodelling_score(predictions, outcomes, seed=1).estimate() == datamodelling_score(predictions, outcomes, seed=1).estimate()
    assert datamodelling_score(predictions, outcomes, seed=1).estimate() != datamodelling_score(predictions, outcomes, seed=2).estimate()


def test_a_difference_is_taken_within_each_draw() -> None:
    predictions, others, outcomes = np.random.default_rng(5).normal(size=(3, 12, 5))
    one, two = datamodelling_score(predictions, outcomes), datamodelling_score(others, outcomes)
    assert (one - one).estimate() == Estimate(0, 0, 0)
    assert (one - two).value == one.value - two.value
    assert (one - two).estimate(0.9).low > (one - two).estimate(0.99).low


def test_the_interval_holds_the_middle_of_the_draws() -> None:
    draws = np.random.default_rng(9).permutation(np.linspace(0, 1, 1001))
    assert Resampled(0.4, draws).estimate() == pytest.approx(Estimate(0.4, 0.025, 0.975))
    assert Resampled(0.4, draws).estimate(0.5) == pytest.approx(Estimate(0.4, 0.25, 0.75))


def test_what_does_not_vary_predicts_nothing() -> None:
    outcomes = np.random.default_rng(6).normal(size=(8, 3))
    for flat in (np.full((8, 3), 0.1), np.full(8, 0.1)):
        assert datamodelling_score(flat, outcomes).estimate() == Estimate(0, 0, 0)


def test_a_subset_depends_on_seed_number_and_ids_and_not_on_their_order() -> None:
    order = np.random.default_rng(7).permutation(200)
    chosen = subset(IDS, 3, 1, 80)
    assert len(set(chosen)) == 80 and (np.diff(chosen) > 0).all()
    assert set(IDS[order][subset(IDS[order], 3, 1, 80)]) == set(IDS[chosen])
    assert set(subset(IDS, 3, 1, 40)) < set(chosen)
    assert set(subset(IDS, 3, 2, 80)) != set(chosen) != set(subset(IDS, 4, 1, 80))
    held = np.bincount(np.concatenate(parts(400)), minlength=200)
    assert held.mean() == 200 and abs(held - 200).max() < 5 * np.sqrt(100)  # each row in half of the subsets


def test_a_row_without_a_score_counts_as_the_mean_row() -> None:
    scores = effects(2).astype(np.float32)
    rows = np.delete(np.arange(200), [4, 90])
    filled = for_all_rows(scores[rows], rows, 200)
    assert np.array_equal(filled[rows], scores[rows])
    assert filled[[4, 90]] == pytest.approx(np.tile(scores[rows].mean(0), (2, 1)), abs=1e-6)
    assert for_all_rows(scores[rows, 0], rows, 200).tolist() == filled[:, 0].tolist()
    assert sums(filled, parts())[3] == pytest.approx(filled[parts()[3]].astype(np.float64).sum(0))


def test_the_verdict_says_no_more_than_the_intervals_do() -> None:
    good, unclear, bad = Estimate(0.4, 0.2, 0.6), Estimate(0.1, -0.2, 0.3), Estimate(-0.4, -0.6, -0.1)
    assert verdict("less", good, good, 20) == "less predicts retraining better than chance, and better than the number of supervised tokens"
    assert verdict("less", good, unclear, 20).endswith("than chance, but not distinguishably better than the number of supervised tokens")
    assert verdict("less", unclear, good, 20) == "less is not distinguishable from chance with 20 subsets"
    assert verdict("loss", bad, bad, 20) == "loss predicts retraining worse than chance: training on its high rows raises the target's loss"


def test_unusable_tables_are_refused() -> None:
    table = np.random.default_rng(8).normal(size=(6, 4))
    for predictions, outcomes in [(table[:5], table), (table[:, :3], table), (table[:, 0], table[:, 0]), (table[:, :0], table[:, :0])]:
        with pytest.raises(DataError, match="both have a row per subset"):
            datamodelling_score(predictions, outcomes)
    with pytest.raises(NumericError, match="not finite"):
        datamodelling_score(table, np.where(table > 1, np.nan, table))
