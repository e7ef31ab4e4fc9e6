"""Scoring through the prefix tree equals the uncached model, whatever the architecture and however the tree is cut and packed."""

import numpy as np
import pytest
import torch

from curate.inference.attention import ours
from curate.inference.engine import Engine
from curate.inference.own_attention import score
from curate.inference.plan import Layout, plan
from curate.inference.prefill import prefill
from curate.inference.scoring import Scored, ScoringRun, plan_scoring
from curate.testing.random_models import ARCHITECTURES, VOCABULARY, Architecture, random_model

LAYOUTS = [
    Layout(),
    Layout(row=64, subtree=128, batch=512, floor=0),
    Layout(row=1, subtree=1, batch=1, floor=0),
    Layout(row=32, subtree=48, floor=10_000),
    Layout(subtree=10**6, batch=1),
]
Requests = tuple[list[list[int]], list[list[list[int]]]]


def requests(count: int = 24, shared: int = 60, seed: int = 0) -> Requests:
    """Prompts behind a shared stretch, some of which end inside it; four answers each of one token or more."""
    generator = np.random.default_rng(seed)
    start = generator.integers(2, VOCABULARY, shared).tolist()
    contexts = []
    for i in range(count):
        own = generator.integers(2, 6, generator.integers(1, 40)).tolist()
        contexts.append(start[: generator.integers(1, shared + 1)] if i % 5 == 0 else start + own)
    return contexts, [[generator.integers(2, VOCABULARY, generator.integers(1, 5)).tolist() for _ in range(4)] for _ in contexts]


def run(architecture: Architecture, asked: Requests, layout: Layout) -> list[list[Scored]]:
    model = random_model(architecture)
    with torch.inference_mode(), ours(model.model):
        return ScoringRun(model, plan_scoring(*asked, layout)).results()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shared_log_likelihoods_equal_unshared_ones(architecture: Architecture, layout: Layout) -> None:
    contexts, continuations = requests()
    model = random_model(architecture)
    for context, texts, found in zip(contexts, continuations, run(architecture, (contexts, continuations), layout), strict=True):
        for text, scored in zip(texts, found, strict=True):
            with torch.inference_mode():
                alone = score(model, context, text)
            assert scored.tokens == pytest.approx(alone.tokens, abs=1e-5)
            assert scored.greedy == alone.greedy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_distinct_prefix_is_computed_once_unless_a_stretch_saves_too_little(layout: Layout) -> None:
    contexts, continuations = requests()
    sequences = [context + text[:-1] for context, texts in zip(contexts, continuations, strict=True) for text in texts]
    distinct = len({tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))})
    made = plan(sequences, layout)
    if layout.floor == 0 or layout.subtree > distinct:
        assert made.tokens == distinct
    else:
        assert distinct <= made.tokens < sum(map(len, sequences))


def test_any_order_of_requests_gives_the_same_plan_and_the_same_numbers() -> None:
    contexts, continuations = requests()
    order = np.random.default_rng(1).permutation(len(contexts))
    shuffled = [contexts[i] for i in order], [continuations[i] for i in order]
    one, other = plan_scoring(contexts, continuations), plan_scoring(*shuffled)
    assert one.plan.digest() == other.plan.digest()
    here, there = run("llama", (contexts, continuations), Layout()), run("llama", shuffled, Layout())
    assert [[s.loglikelihood for s in here[i]] for i in order] == [[s.loglikelihood for s in several] for several in there]


def test_another_request_or_another_size_changes_the_digest() -> None:
    contexts, continuations = requests()
    known = plan_scoring(contexts, continuations).plan.digest()
    assert plan_scoring(contexts[1:], continuations[1:]).plan.digest() != known
    assert plan_scoring(contexts, continuations, Layout(row=64, subtree=128)).plan.digest() != known
    changed = [[*contexts[0][:-1], contexts[0][-1] % 90 + 2], *contexts[1:]]
    assert plan_scoring(changed, continuations).plan.digest() != known


def test_chunks_of_a_prefill_change_nothing() -> None:
    model = random_model("qwen2")
    tokens = requests()[0][1]
    with torch.inference_mode(), ours(model.model):
        (whole, states), (pieces, parts) = prefill(model, tokens), prefill(model, tokens, chunk=7)
    assert torch.allclose(states, parts, atol=1e-5)
    assert whole.nbytes == pieces.nbytes == len(tokens) * 3 * 2 * 2 * 16 * 4


def test_a_repeated_item_and_a_further_choice_leave_the_others_alone() -> None:
    contexts, continuations = requests(8)
    engine = Engine(random_model())
    alone = engine.loglikelihoods(contexts, continuations)
    more = engine.loglikelihoods([*contexts, contexts[2]], [*([*texts, [5, 6, 7]] for texts in continuations), continuations[2]])
    assert more[-1] == pytest.approx(alone[2], abs=1e-5)
    for before, after in zip(alone, more, strict=False):
        assert after[:4] == pytest.approx(before, abs=1e-5)


def test_an_empty_continuation_is_certain_and_costs_nothing() -> None:
    engine = Engine(random_model())
    assert engine.loglikelihoods([[3, 4]], [[[], [5]]])[0][0] == 0.0
    assert engine.forward_tokens == 2


def test_float64_agrees_to_the_last_digits() -> None:
    contexts, continuations = requests(10)
    model = random_model("llama")
    model.model.double()
    found = Engine(model).score(plan_scoring(contexts, continuations))
    with torch.inference_mode():
        for context, texts, several in zip(contexts, continuations, found, strict=True):
            for text, scored in zip(texts, several, strict=True):
                assert scored.loglikelihood == pytest.approx(score(model, context, text).loglikelihood, abs=1e-10)
