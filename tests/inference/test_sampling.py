"""Sampled answers follow the model's distribution, and belong to the prompt alone."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from curate.core import Floats
from curate.inference.engine import Engine
from curate.inference.growing import Choose, most_likely
from curate.inference.sampling import Nucleus, Sampler, inverse_cdf, sample, sample_keys
from curate.model import LanguageModel, fresh, resolve
from curate.randomness import draw
from curate.settings import ModelSpec

PROMPTS = [[1, 4, 300, 40, 5], [1, 4, 77, 5], [1, 4, 300, 41, 5], [1, 4, 12, 13, 14, 15, 16, 5], [1, 4, 300, 40, 5]]


@pytest.fixture(scope="module")
def model(tiny: Path) -> LanguageModel:
    return fresh(resolve(ModelSpec(path=str(tiny)), tiny))


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def first_tokens(logits: Sequence[float], nucleus: Nucleus, count: int, seed: int = 0) -> list[int]:
    """How often each token is drawn at one step, by `count` prompts of one token."""
    sampler = Sampler(sample_keys(seed, ([number] for number in range(count)), 1), nucleus)
    drawn = sampler(torch.tensor(logits).repeat(count, 1), np.arange(count), 3)
    return np.bincount(drawn.numpy(), minlength=len(logits)).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    logits = [0.3, -1.0, 2.0, 0.0, 1.1, -2.5]
    counts = first_tokens(logits, Nucleus(temperature), 20_000)
    assert chisquare(counts, 20_000 * softmax(np.array(logits) / temperature)).pvalue > 0.01


def test_within_the_nucleus_tokens_keep_their_proportions_and_no_other_is_drawn() -> None:
    probabilities = np.array([0.2, 0.05, 0.4, 0.1, 0.25])
    counts = first_tokens(np.log(probabilities).tolist(), Nucleus(top_p=0.8), 20_000)
    assert counts[1] == counts[3] == 0
    kept = [0, 2, 4]
    assert chisquare(np.array(counts)[kept], 20_000 * probabilities[kept] / 0.85).pvalue > 0.01


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float) -> None:
    generator = np.random.default_rng(5)
    for _ in range(20):
        logits = generator.normal(0, 2, 7)
        probabilities = softmax(logits)
        found = Nucleus(top_p=top_p).weights(torch.from_numpy(logits)[None])[0].numpy()
        reaching = (subset for size in range(1, 8) for subset in combinations(range(7), size) if probabilities[list(subset)].sum() >= top_p)
        smallest = len(next(reaching))
        kept = np.flatnonzero(found)
        assert len(kept) == smallest
        assert set(kept) == set(np.argsort(-probabilities)[:smallest])
        assert found[kept] == pytest.approx(probabilities[kept], rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("top_p", [0.1001, 0.9001, 0.9999])
def test_a_large_vocabulary_is_cut_where_a_full_sort_cuts_it(scale: float, top_p: float) -> None:
    logits = np.round(np.random.default_rng(1).normal(0, scale, (6, 3000)), 2)  # many tokens are equally likely
    found = Nucleus(top_p=top_p).weights(torch.from_numpy(logits)).numpy()
    for row, weights in zip(logits, found, strict=True):
        probabilities, total, kept = softmax(row), 0.0, []
        for token in sorted(range(3000), key=lambda token: (-row[token], token)):
            kept.append(token)
            total += probabilities[token]
            if total >= top_p:
                break
        assert sorted(kept) == np.flatnonzero(weights).tolist()


def test_the_quantile_is_that_of_the_tokens_in_the_order_of_their_ids() -> None:
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.1, 0.0]], dtype=torch.float64)
    quantiles = [2.0**-53, 0.2499, 0.2501, 0.8749, 0.8751, 1 - 2.0**-53]
    drawn = [int(inverse_cdf(weights, torch.tensor([u], dtype=torch.float64))) for u in quantiles]
    assert drawn == [1, 1, 3, 3, 4, 4]


def test_a_temperature_towards_zero_is_greedy(model: LanguageModel) -> None:
    engine, end = Engine(model), [model.tokenizer.eos_token_id]
    greedy = engine.generate(PROMPTS, max_tokens=8, stop=end)
    assert len({tuple(tokens) for tokens in greedy}) > 2
    for temperature in (1e-6, 1e-300):
        sampled = sample(engine, PROMPTS, samples=2, seed=0, nucleus=Nucleus(temperature), max_tokens=8, stop=end)
        assert sampled == [[tokens, tokens] for tokens in greedy]


def sampled(model: LanguageModel, prompts: Sequence[list[int]], batch_tokens: int = 8192, samples: int = 3) -> list[list[list[int]] | None]:
    engine = Engine(model, batch_tokens=batch_tokens)
    return sample(engine, prompts, samples=samples, seed=4, nucleus=Nucleus(1.3, 0.95), max_tokens=10, stop=[2])


def test_a_prompt_has_the_same_answers_in_any_batch_and_order(model: LanguageModel) -> None:
    together = sampled(model, PROMPTS)
    assert sampled(model, PROMPTS[::-1])[::-1] == together
    assert sampled(model, PROMPTS, batch_tokens=1) == together
    assert [answers for prompt in PROMPTS for answers in sampled(model, [prompt])] == together
    assert together[0] == together[4] != together[1]  # the same prompt twice
    for few, more in zip(together, sampled(model, PROMPTS, samples=5), strict=True):
        assert few is not None and more is not None
        assert more[:3] == few
        assert len({tuple(tokens) for tokens in more}) > 1


@pytest.mark.gpu
def test_a_prompt_has_the_same_answers_on_another_device(model: LanguageModel, tiny: Path) -> None:
    other = fresh(resolve(ModelSpec(path=str(tiny)), tiny), "cuda")
    assert sampled(other, PROMPTS, samples=20) == sampled(model, PROMPTS, samples=20)


def test_every_seed_prompt_sample_and_step_has_a_number_of_its_own() -> None:
    prompts = [[1, 2], [12], [1, 2, 0], [2, 1], [0, 1, 2], [], [1]]
    keys = [key for seed in (0, 1, 10) for key in sample_keys(seed, prompts, 12).tolist()]
    assert len(set(keys)) == 3 * 7 * 12
    assert sample_keys(1, [np.array(prompts[0])], 2).tolist() == sample_keys(1, prompts, 2).tolist()[:2]
    numbers = np.concatenate([draw(sample_keys(3, ([n] for n in range(200)), 4), step) for step in range(10)])
    assert kstest(numbers, "uniform").pvalue > 0.01
    assert len(set(numbers.tolist())) == 8000


class Scripted(Engine):
    """An engine whose contexts have given logits at each step, and which goes on after the end, as batches do."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (contexts, steps, V)

    def generate(self, contexts: Any, *, max_tokens: int, stop: Sequence[int], choose: Choose = most_likely) -> list[list[int]]:
        chosen = torch.stack([choose(self.logits[:, step], np.arange(len(contexts)), step) for step in range(self.logits.shape[1])], 1).tolist()
        ends = [min((step for step, token in enumerate(tokens) if token in stop), default=max_tokens) for tokens in chosen]
        return [tokens[:end] for tokens, end in zip(chosen, ends, strict=True)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prompt_whose_logits_break_has_no_answers_and_its_neighbours_keep_theirs(bad: float) -> None:
    logits = torch.full((4, 3, 5), -float("inf"))
    logits[:, 0, 1] = logits[:, 1, 2] = logits[:, 2, 3] = 0.0  # everybody says 1 2 3
    logits[1, 0, 0] = logits[1, 2, 0] = bad
    logits[2, 2, 0] = bad

    def answers(*stop: int) -> list[list[list[int]] | None]:
        return sample(Scripted(logits), [[1], [2], [3], [4]], samples=1, seed=0, nucleus=Nucleus(), max_tokens=3, stop=stop)

    assert answers() == [[[1, 2, 3]], None, None, [[1, 2, 3]]]
    assert answers(3) == [[[1, 2]], None, None, [[1, 2]]]
    assert answers(2) == [[[1]], None, [[1]], [[1]]]  # the third broke after its end
    assert answers(*range(5)) == [[[]], None, [[]], [[]]]
