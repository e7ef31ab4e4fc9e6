"""Training dynamics from running sums equal the same numbers from a full table of stored predictions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.dynamics import Dynamics, Transitions, correct, el2n, margin
from curate.errors import DataError

Shown = tuple[int, NDArray[np.float64], int]  # one presentation: item, logits, label


def softmax_error(z: NDArray[np.float64], y: int) -> float:
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    return float(np.linalg.norm(p - np.eye(len(z))[y]))


def brute_force(items: int, shown: Sequence[Shown]) -> dict[str, list[float]]:
    """The three scores by their definitions, from every stored prediction of every item."""
    longest = max((sum(i == item for i, _, _ in shown) for item in range(items)), default=0)
    found: dict[str, list[float]] = {"el2n": [], "margin": [], "forgetting": []}
    for item in range(items):
        trace = [(z, y) for i, z, y in shown if i == item]
        right = [int(np.argmax(z)) == y for z, y in trace]
        events = sum(a and not b for a, b in zip(right, right[1:], strict=False))
        found["el2n"].append(float(np.mean([softmax_error(z, y) for z, y in trace])) if trace else math.nan)
        found["margin"].append(float(np.mean([z[y] - np.delete(z, y).max() for z, y in trace])) if trace else math.nan)
        found["forgetting"].append(math.nan if not trace else float(events) if any(right) else float(longest))
    return found


def scores(dynamics: Dynamics) -> dict[str, list[float]]:
    return {"el2n": dynamics.el2n().tolist(), "margin": dynamics.margin().tolist(), "forgetting": dynamics.forgetting().tolist()}


def fed(items: int, batches: Sequence[Sequence[Shown]]) -> Dynamics:
    dynamics = Dynamics(items)
    for batch in batches:
        numbers, logits, labels = zip(*batch, strict=True)
        dynamics.update(torch.tensor(numbers), torch.from_numpy(np.array(logits)).float(), torch.tensor(labels))
    return dynamics


def two_classes(trace: str) -> list[NDArray[np.float64]]:
    """Logits of an item of class 1 that is right at each `+` and wrong at each `-`."""
    return [np.array([0.0, 1.0 if sign == "+" else -1.0]) for sign in trace]


@pytest.mark.parametrize(
    ("trace", "events"),
    [("+++", 0), ("++-", 1), ("+-+", 1), ("+--", 1), ("-++", 0), ("-+-", 1), ("--+", 0), ("---", 3)],
)
def test_a_trace_of_three_epochs_has_these_forgetting_events(trace: str, events: int) -> None:
    dynamics = fed(1, [[(0, z, 1)] for z in two_classes(trace)])
    assert dynamics.forgetting().tolist() == [events]
    assert dynamics.margin().item() == pytest.approx(sum(1 if sign == "+" else -1 for sign in trace) / 3)
    p = 1 / (1 + math.exp(-1))
    assert dynamics.el2n().item() == pytest.approx(sum(math.sqrt(2) * ((1 - p) if sign == "+" else p) for sign in trace) / 3)


def test_an_item_that_was_never_learned_ranks_above_every_one_that_was() -> None:
    often = [(0, z, 1) for z in two_classes("+-+-+-+-")]
    dynamics = fed(2, [*([shown] for shown in often), [(1, two_classes("-")[0], 1)]])
    assert dynamics.forgetting().tolist() == [4, 8]


def test_an_item_twice_in_a_batch_is_presented_twice_in_the_order_of_the_rows() -> None:
    right, wrong = two_classes("+-")
    lost = [(0, right, 1), (1, right, 1), (0, wrong, 1), (2, wrong, 1), (2, right, 1)]
    dynamics = fed(3, [lost])
    assert dynamics.forgetting().tolist() == [1, 0, 0]
    assert dynamics.presentations.tolist() == [2, 1, 2]
    found = fed(3, [lost[::-1], [(0, wrong, 1), (2, wrong, 1)]])
    assert found.forgetting().tolist() == [1, 0, 1]  # 0: wrong, right, then lost; 2: right, lost at once, still wrong


def test_the_order_of_updates_decides_what_was_forgotten() -> None:
    right, wrong = [(0, z, 1) for z in two_classes("+-")]
    assert fed(1, [[right], [wrong]]).forgetting().tolist() == [1]
    assert fed(1, [[wrong], [right]]).forgetting().tolist() == [0]


def test_random_runs_equal_the_stored_table() -> None:
    generator = np.random.default_rng(0)
    for classes in (2, 3, 50):
        # halves, so that many predictions are tied
        batches = [
            [(int(generator.integers(12)), np.round(2 * generator.normal(size=classes) * 1.5) / 2, int(generator.integers(classes))) for _ in range(size)]
            for size in generator.integers(1, 30, 25)
        ]
        shown = [one for batch in batches for one in batch]
        found, wanted = scores(fed(13, batches)), brute_force(13, shown)  # item 12 is never presented
        assert wanted["forgetting"] == pytest.approx(found["forgetting"], rel=0, abs=0, nan_ok=True)
        assert found["el2n"] == pytest.approx(wanted["el2n"], rel=1e-6, nan_ok=True)
        assert found["margin"] == pytest.approx(wanted["margin"], rel=1e-6, abs=1e-6, nan_ok=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40), st.data())
def test_batches_cut_anywhere_give_the_same_events(shown: list[tuple[int, bool]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shown)), max_size=5)))
    found = Transitions(4)
    for start, end in zip([0, *cuts], [*cuts, len(shown)], strict=True):
        part = shown[start:end]
        found.update(torch.tensor([item for item, _ in part], dtype=torch.int64), torch.tensor([float(right) for _, right in part]))
    table = [(item, np.array([0.0, 1.0 if right else -1.0]), 1) for item, right in shown]
    assert found.forgetting().tolist() == pytest.approx(brute_force(4, table)["forgetting"], abs=0, nan_ok=True)


@given(st.lists(st.lists(st.floats(-60, 60, width=32), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 3))
def test_each_row_has_its_definition(rows: list[list[float]], label: int) -> None:
    logits, labels = torch.tensor(rows), torch.full((len(rows),), label)
    exact = np.array(rows)
    assert el2n(logits, labels).tolist() == pytest.approx([softmax_error(z, label) for z in exact], rel=2e-5, abs=1e-12)
    assert margin(logits, labels).tolist() == pytest.approx([z[label] - np.delete(z, label).max() for z in exact], rel=1e-6, abs=1e-5)
    assert correct(logits, labels).tolist() == [float(np.argmax(z) == label) for z in exact]


def test_el2n_keeps_its_digits_where_the_prediction_is_certain() -> None:
    for gap in (1.0, 10.0, 20.0, 40.0, 80.0):
        p = math.exp(-gap) / (1 + math.exp(-gap))
        found = el2n(torch.tensor([[gap, 0.0], [0.0, gap], [1e4, 1e4 - gap]]), torch.tensor([0, 0, 0])).tolist()
        assert found == pytest.approx([math.sqrt(2) * p, math.sqrt(2) * (1 - p), math.sqrt(2) * p], rel=1e-5)
        assert max(found) <= math.sqrt(2)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    logits, labels = torch.tensor([[0.5, 0.25, -1.0, 0.0], [3.0, -2.5, 0.5, 1.0]]), torch.tensor([1, 3])
    for function in (el2n, margin, correct):
        assert torch.equal(function(logits + 2.0**16, labels), function(logits, labels))


def test_of_tied_classes_the_first_is_predicted() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0]] * 2 + [[2.0, 2.0, 2.0]] * 2)
    labels = torch.tensor([1, 2, 0, 1])
    assert correct(logits, labels).tolist() == [1, 0, 1, 0]
    assert margin(logits, labels).tolist() == [0, 0, 0, 0]


def test_two_classes_are_the_logistic_case() -> None:
    z = torch.linspace(-5, 5, 11)
    logits, labels = torch.stack([-z, z], 1), torch.ones(11, dtype=torch.int64)
    assert torch.allclose(margin(logits, labels), 2 * z)
    assert torch.allclose(el2n(logits, labels), math.sqrt(2) * torch.sigmoid(-2 * z), rtol=1e-5)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_a_logit_that_is_not_finite_spoils_its_item_and_no_other(odd: float, column: int) -> None:
    dynamics = Dynamics(2)
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    dynamics.update(torch.tensor([0, 1]), logits, torch.tensor([1, 1]))
    spoilt = logits.clone()
    spoilt[0, column] = odd
    dynamics.update(torch.tensor([0, 1]), spoilt, torch.tensor([1, 1]))
    dynamics.update(torch.tensor([0, 1]), logits, torch.tensor([1, 1]))
    for name, values in scores(dynamics).items():
        assert math.isnan(values[0]) and math.isfinite(values[1]), name


def test_a_class_that_is_ruled_out_changes_nothing() -> None:
    logits, labels = torch.tensor([[0.5, 2.0, -1.0]]), torch.tensor([0])
    wider = torch.cat([logits, torch.tensor([[-math.inf]])], 1)
    for function in (el2n, margin, correct):
        assert torch.equal(function(wider, labels), function(logits, labels))


def test_half_precision_is_widened_and_the_graph_is_not_kept() -> None:
    logits = torch.tensor([[0.5, 2.0, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    dynamics = Dynamics(1)
    dynamics.update(torch.tensor([0], dtype=torch.int32), logits, torch.tensor([1]))
    assert margin(logits, torch.tensor([1])).dtype == torch.float32
    assert dynamics.margin().tolist() == [1.5] and dynamics.margin().dtype == torch.float64
    assert not any(values.requires_grad for values in (dynamics.el2n(), dynamics.margin(), dynamics.forgetting()))


def test_sums_over_many_presentations_do_not_drift() -> None:
    dynamics, logits = Dynamics(1), torch.tensor([[0.1, 0.0]]).repeat(1000, 1)
    for _ in range(200):
        dynamics.update(torch.zeros(1000, dtype=torch.int64), logits, torch.zeros(1000, dtype=torch.int64))
    assert dynamics.margin().item() == pytest.approx(float(logits[0, 0]), rel=1e-12)


def test_nothing_presented_is_nan_and_nothing_at_all_is_empty() -> None:
    dynamics = Dynamics(2)
    dynamics.update(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert all(math.isnan(value) for values in scores(dynamics).values() for value in values)
    assert scores(Dynamics(0)) == {"el2n": [], "margin": [], "forgetting": []}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([0], [[1.0]], [0]), "at least 2"),
        (([0], [[1.0, 2.0]], [2]), "2 classes"),
        (([0], [[1.0, 2.0]], [-100]), "leave out rows without a label"),
        (([0], [[1.0, 2.0]], [0, 1]), "do not fit"),
        (([0], [1.0, 2.0], [0, 1]), "do not fit"),
        (([0, 1], [[1.0, 2.0]], [0]), "one item number per row"),
        (([3], [[1.0, 2.0]], [0]), "has 3, numbered from 0"),
        (([-1], [[1.0, 2.0]], [0]), "has 3, numbered from 0"),
        (([0.0], [[1.0, 2.0]], [0]), "give the number of each item"),
        (([True], [[1.0, 2.0]], [0]), "give the number of each item"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_no_trace(arguments: tuple[Any, Any, Any], complaint: str) -> None:
    dynamics = fed(3, [[(0, two_classes("+")[0], 1)]])
    before = scores(dynamics)
    with pytest.raises(DataError, match=complaint) as caught:
        dynamics.update(*map(torch.tensor, arguments))
    assert len(str(caught.value).splitlines()) == 1
    assert repr(scores(dynamics)) == repr(before)  # as text, for NaN is not equal to itself


def test_fewer_than_no_items_are_refused() -> None:
    with pytest.raises(DataError, match="0 or more"):
        Dynamics(-1)


@pytest.mark.gpu
def test_logits_on_an_accelerator_give_the_state_that_the_cpu_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    here, there = Dynamics(20), Dynamics(20)
    for _ in range(10):
        items, labels = torch.randint(20, (50,), generator=generator), torch.randint(7, (50,), generator=generator)
        logits = torch.randn(50, 7, generator=generator).mul(4).round().div(2)  # with ties
        here.update(items, logits, labels)
        there.update(items.cuda(), logits.cuda(), labels.cuda())
    assert there.forgetting().equal(here.forgetting()) and there.presentations.equal(here.presentations)
    assert torch.allclose(there.margin(), here.margin(), rtol=1e-6) and torch.allclose(there.el2n(), here.el2n(), rtol=1e-5)
