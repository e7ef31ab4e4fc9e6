"""The random control: uniform, reproducible, and tied to rows rather than to their places."""

import numpy as np

from curate.core import Budget, Features
from curate.interfaces import Context
from curate.randomness import draw, row_keys, uniform
from curate.selectors.random import Random


def kept(pool: Features, amount: float, seed: int = 0) -> list[str]:
    return [str(name) for name in pool.ids[Random().select(pool, Budget(amount=amount), context=Context(seed=seed)).indices]]


def test_every_row_is_kept_equally_often_over_seeds() -> None:
    pool = Features.from_arrays(ids=[f"r{i}" for i in range(10)])
    counts = np.zeros(10)
    for seed in range(2000):
        counts[Random().select(pool, Budget(amount=3), context=Context(seed=seed)).indices] += 1
    chi_squared = float(((counts - 600) ** 2 / (600 * 0.7)).sum() * 9 / 10)
    assert chi_squared < 27.9  # the 99.9% point at 9 degrees of freedom


def test_a_row_that_joins_the_pool_leaves_the_order_of_the_others_alone() -> None:
    names = [f"r{i}" for i in range(50)]
    before = kept(Features.from_arrays(ids=names), 50)
    after = kept(Features.from_arrays(ids=[*names, "newcomer"]), 51)
    assert [name for name in after if name != "newcomer"] == before


def test_seeds_purposes_and_draws_give_unrelated_uniform_numbers() -> None:
    ids = [f"r{i}" for i in range(20_000)]
    keys = row_keys(0, "a", ids)
    streams = [uniform(0, "a", ids), uniform(1, "a", ids), uniform(0, "b", ids), draw(keys, 1), draw(keys, 2)]
    assert np.abs(np.corrcoef(streams) - np.eye(5)).max() < 0.03
    for stream in streams:
        assert 0 < stream.min() and stream.max() < 1
        assert np.histogram(stream, 10, (0, 1))[0].std() < 3 * np.sqrt(2000)
