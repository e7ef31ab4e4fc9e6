"""Activated adapters behind a base prefix that is computed once for all give what PEFT's model gives without any cache."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from curate.errors import ModelError
from curate.inference.activated import Activated, score_activated
from curate.inference.activated_plan import invocation_start
from curate.inference.adapter_folder import AdapterFolder
from curate.inference.own_attention import score
from curate.inference.passes import Pass, forward
from curate.inference.plan import DEFAULT, Layout
from curate.inference.variants import Variants
from curate.model import LanguageModel
from curate.testing.random_models import ARCHITECTURES, Architecture, random_model
from tests.inference.random_adapters import loaded_alone, save_adapter

FIRST, SECOND = [90, 91], [92]  # invocations; no other token is above 80
Requests = tuple[list[list[int]], list[list[list[int]]]]
LAYOUTS = [
    Layout(),
    Layout(row=64, subtree=128, batch=512, floor=0),
    Layout(row=16, subtree=16, batch=16, floor=0),
    Layout(row=32, subtree=48, floor=10_000),
    Layout(row=48, subtree=64, batch=100, floor=0, apart=True),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("activated")
    return {
        "one": save_adapter(top / "one", 1, alora_invocation_tokens=FIRST),
        "two": save_adapter(top / "two", 2, alora_invocation_tokens=FIRST, target_modules="all-linear", r=8, use_rslora=True),
        "other": save_adapter(top / "other", 3, alora_invocation_tokens=SECOND),
    }


def requests(count: int = 16, shared: int = 40, tail: int = 5, seed: int = 0) -> Requests:
    """Contexts with invocations behind a question, behind the stretch that all share, inside it, twice, first of all, or nowhere."""
    generator = np.random.default_rng(seed)

    def some(low: int, high: int) -> list[int]:
        return generator.integers(2, 80, generator.integers(low, high)).tolist()

    start = generator.integers(2, 80, shared).tolist()
    contexts = []
    for i in range(count):
        question, after = some(0, 12), some(0, tail + 1)
        kinds = [
            [*start, *question, *FIRST, *after],
            [*start, *question],
            [*start, *FIRST, *question],
            [*start, *FIRST, *question, *SECOND, *after],
            [*start[: shared // 2], *FIRST, *after],
            [*start, *FIRST, *question, *FIRST, *after],
            [*start, *question, *SECOND, *FIRST, *after],
            [*FIRST, *question],
        ]
        contexts.append(kinds[i % len(kinds)])
    return contexts, [[some(0, tail) for _ in range(3)] for _ in contexts]


def uncached(folder: Path | None, asked: Requests, architecture: Architecture = "llama") -> list[list[np.ndarray]]:
    """PEFT's own model, which seeks the invocation by itself, on every sequence from its first token."""
    model = loaded_alone(folder, architecture=architecture)
    found = []
    with torch.inference_mode():
        for context, texts in zip(*asked, strict=True):
            nats = [model(input_ids=torch.tensor([[*context, *text]])).logits[0].double().log_softmax(-1).numpy() for text in texts]
            found.append([own[np.arange(len(text)) + len(context) - 1, text] for own, text in zip(nats, texts, strict=True)])
    return found


def assert_equal(found: Activated, name: str | None, wanted: Sequence[Sequence[np.ndarray]]) -> None:
    for several, theirs in zip(found.results[name], wanted, strict=True):
        for scored, nats in zip(several, theirs, strict=True):
            assert scored.tokens == pytest.approx(nats, abs=1e-5)
            assert scored.loglikelihood == pytest.approx(nats.sum(), abs=3e-5)


def distinct(sequences: Sequence[Sequence[int]]) -> int:
    """How many prefixes there are, each of which is one token to compute."""
    return len({tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))})


@pytest.fixture(scope="module")
def wanted(folders: dict[str, Path]) -> dict[str | None, list[list[np.ndarray]]]:
    return {name: uncached(folders[name] if name else None, requests()) for name in [*folders, None]}


def test_the_adapters_change_what_is_said(wanted: dict[str | None, list[list[np.ndarray]]]) -> None:
    numbers = {name: np.concatenate([nats for several in found for nats in several]) for name, found in wanted.items()}
    for name in ("one", "two", "other"):
        assert abs(numbers[name] - numbers[None]).max() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_variant_equals_peft_without_any_cache(folders: dict[str, Path], wanted: dict[str | None, list[list[np.ndarray]]], layout: Layout) -> None:
    found = score_activated(Variants(random_model(), folders), list(wanted), *requests(), layout)
    for name, numbers in wanted.items():
        assert_equal(found, name, numbers)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_long_tails_on_every_architecture(tmp_path: Path, architecture: Architecture) -> None:
    folder = save_adapter(tmp_path / "a", architecture=architecture, alora_invocation_tokens=FIRST)
    asked = requests(6, shared=70, tail=60, seed=1)
    found = score_activated(Variants(random_model(architecture), {"a": folder}), ["a"], *asked, Layout(subtree=300, floor=0))
    assert_equal(found, "a", uncached(folder, asked, architecture))


def test_the_base_prefix_is_counted_once_whatever_the_number_of_variants(folders: dict[str, Path]) -> None:
    contexts, continuations = requests()
    variants = Variants(random_model(), folders)
    pairs = [(context, text) for context, texts in zip(contexts, continuations, strict=True) for text in texts]

    def parted(invocation: list[int]) -> tuple[list[list[int]], int]:
        """What of all requests is the base's, and how many tokens are left to a variant."""
        heads, behind = [], defaultdict(list)
        for context, text in pairs:
            sequence, start = [*context, *text[:-1]], invocation_start(context, tuple(invocation))
            heads.append(sequence[:start])
            if start is not None:
                behind[tuple(sequence[:start])].append(sequence[start:])
        return heads, sum(map(distinct, behind.values()))

    (first, tails), (second, others) = parted(FIRST), parted(SECOND)
    layout = Layout(row=64, subtree=128, floor=0)
    one = score_activated(variants, ["one"], contexts, continuations, layout)
    both = score_activated(variants, ["one", "two"], contexts, continuations, layout)
    every = score_activated(variants, ["two", "other", "one"], contexts, continuations, layout)
    assert (one.base_tokens, one.forward_tokens) == (distinct(first), distinct(first) + tails)
    assert (both.base_tokens, both.forward_tokens) == (distinct(first), distinct(first) + 2 * tails)
    assert (every.base_tokens, every.forward_tokens) == (distinct([*first, *second]), distinct([*first, *second]) + 2 * tails + others)
    assert every.asked_tokens == 3 * sum(len(context) + len(text) for context, text in pairs)
    assert every.asked_tokens > 10 * every.forward_tokens


def test_few_resident_adapters_and_any_order_give_the_same_bits(folders: dict[str, Path]) -> None:
    contexts, continuations = requests()
    layout = LAYOUTS[2]
    known = score_activated(Variants(random_model(), folders), list(folders), contexts, continuations, layout)
    order = np.random.default_rng(1).permutation(len(contexts))
    shuffled = [contexts[i] for i in order], [continuations[i] for i in order]
    found = score_activated(Variants(random_model(), folders, resident=1), [*folders][::-1], *shuffled, layout)
    assert found.forward_tokens == known.forward_tokens
    for name in folders:
        for i, several in zip(order, found.results[name], strict=True):
            assert [scored.loglikelihood for scored in several] == [scored.loglikelihood for scored in known.results[name][i]]


def test_requests_without_the_invocation_are_the_base_s_and_computed_once(folders: dict[str, Path]) -> None:
    contexts, continuations = [[3, 4, 5], [3, 4, 91, 90]], [[[6, 7]], [[8], [9]]]
    found = score_activated(Variants(random_model(), folders), [*folders, None], contexts, continuations)
    assert found.forward_tokens == found.base_tokens == 6
    for name in folders:
        assert_equal(found, name, uncached(None, (contexts, continuations)))


def test_what_is_scored_does_not_activate_the_adapter(folders: dict[str, Path]) -> None:
    context, text = [3, 4, *FIRST, 5], [6, *FIRST, 7]
    found = score_activated(Variants(random_model(), folders), ["one"], [context, [3, 4, 90]], [[text, text[:2]], [[91, 5]]])
    model = loaded_alone(folders["one"])
    with torch.inference_mode():
        offset = len(context) - 2 + len(text)  # of the occurrence in the context, from the end
        given = model(input_ids=torch.tensor([[*context, *text]]), alora_offsets=[offset]).logits[0].log_softmax(-1)
    wanted = [float(given[len(context) - 1 + i, token]) for i, token in enumerate(text)]
    assert found.results["one"][0][0].tokens == pytest.approx(wanted, abs=1e-5)
    assert found.results["one"][0][1].tokens == pytest.approx(wanted[:2], abs=1e-5)
    with torch.inference_mode():
        base = score(random_model(), [3, 4, 90], [91, 5])
    assert found.results["one"][1][0].tokens == pytest.approx(base.tokens, abs=1e-5)


def test_requests_without_continuations_cost_nothing(folders: dict[str, Path]) -> None:
    found = score_activated(Variants(random_model(), folders), ["one"], [[3, *FIRST], [4, *FIRST]], [[], [[5]]])
    assert found.results["one"][0] == []
    assert (found.base_tokens, found.forward_tokens) == (1, 3)
    assert score_activated(Variants(random_model(), folders), ["one"], [], []).results == {"one": []}


def test_ordinary_adapters_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    variants = Variants(random_model(), folders | {"plain": save_adapter(tmp_path / "plain")})
    with pytest.raises(ModelError, match="plain is no activated adapter: it changes the prefix too"):
        score_activated(variants, ["one", "plain"], [[3, 4]], [[[5]]], DEFAULT)


@pytest.mark.parametrize(("context", "start"), [([90, 91, 5], 0), ([5, 90, 91], 1), ([90, 91, 90, 91, 90], 2), ([90, 90], None), ([91], None), ([], None)])
def test_the_last_occurrence_counts(context: list[int], start: int | None) -> None:
    assert invocation_start(context, (90, 91)) == start
    assert invocation_start(context, ()) is None


def test_tails_behind_many_heads_are_one_pass(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def counted(model: LanguageModel, ids: torch.Tensor, positions: torch.Tensor, step: Pass) -> torch.Tensor:
        rows.append(len(ids))
        return forward(model, ids, positions, step)

    monkeypatch.setattr("curate.inference.activated.forward", counted)
    contexts = [[3, 4, 10 + i, *FIRST, 5] for i in range(9)]
    score_activated(Variants(random_model(), folders), ["one", "two"], contexts, [[[6], [7, 8]]] * 9)
    assert rows == [1, 9, 9]  # the heads in one row, and for each variant a row behind each head


def test_adapters_that_are_in_the_model_are_used_before_they_go(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = AdapterFolder.read

    def counted(folder: AdapterFolder) -> dict[str, torch.Tensor]:
        reads.append(folder.file.parent.name)
        return read(folder)

    monkeypatch.setattr(AdapterFolder, "read", counted)
    contexts = [[10 + i, 4, *FIRST, 5] for i in range(4)]
    score_activated(Variants(random_model(), folders, resident=1), ["one", "two"], contexts, [[[6]]] * 4, Layout(row=2, batch=2))
    assert reads == ["one", "two", "one", "two", "one"]  # four batches of heads: one two, two one, one two, two one
