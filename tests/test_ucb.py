"""The index of an arm is what its formula says, and forgets its neighbours once the arm has rewards of its own."""

import numpy as np
import pytest

from curate.ucb import Arms


def test_the_index_is_the_mean_plus_the_bonus_of_the_formula() -> None:
    weights = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    arms = Arms(weights, alpha=2.0, trust=1.5)
    given = {0: [1.0, 0.0, 1.0, 1.0], 1: [0.5], 2: [0.0, 0.25]}
    for arm, rewards in given.items():
        for part in (rewards[:1], rewards[1:]):
            if part:
                arms.record(arm, np.asarray(part))
    everything = np.concatenate([given[arm] for arm in given])
    sigma, n = everything.std(), len(everything)
    for arm in range(3):
        lent = sum(weights[arm, other] * len(given[other]) for other in given if other != arm)
        lent_sum = sum(weights[arm, other] * sum(given[other]) for other in given if other != arm)
        prior = min(lent, 1.5)
        known = len(given[arm]) + prior
        mean = (sum(given[arm]) + (prior * lent_sum / lent if lent else 0.0)) / known
        assert arms.index()[arm] == pytest.approx(mean + 2 * sigma * np.sqrt(2 * np.log(n) / known))
    assert arms.means().tolist() == [0.75, 0.5, 0.125]


def test_an_arm_of_which_nothing_is_known_comes_first_and_a_neighbour_makes_it_known() -> None:
    arms = Arms(np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]]), alpha=0.0, trust=4)
    arms.record(0, np.array([1.0, 0.5]))
    assert arms.index().tolist() == [0.75, 0.75, np.inf]


def test_neighbours_do_not_bias_an_arm_for_ever() -> None:
    arms = Arms(np.ones((2, 2)), alpha=0.0, trust=10)
    arms.record(0, np.ones(100_000))
    arms.record(1, np.zeros(100_000))
    assert arms.index()[1] < 1e-3 and arms.index()[0] > 1 - 1e-3


def test_shift_and_scale_of_the_rewards_change_no_ranking() -> None:
    generator = np.random.default_rng(0)
    plain, moved = (Arms(np.eye(4), alpha=1.0, trust=1) for _ in range(2))
    for arm in (0, 1, 2, 3, 2, 1, 0, 0):
        rewards = generator.normal(size=3)
        plain.record(arm, rewards)
        moved.record(arm, 1000 * rewards - 7)
    np.testing.assert_allclose(1000 * plain.index() - 7, moved.index())


def test_equal_rewards_leave_the_choice_to_the_count() -> None:
    arms = Arms(np.eye(2), alpha=1.0, trust=1)
    arms.record(0, np.zeros(3))
    arms.record(1, np.zeros(2))
    assert arms.index().argmax() == 1
