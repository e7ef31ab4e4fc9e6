"""A press's parts are calibrated once each: what the importance found is handed on to an allocator that measures by the same importance."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from curate.compression.importances.retrieval_heads import RetrievalHeads
from curate.compression.importances.window import Window
from curate.compression.token_press import Calibrated
from curate.presses.compresskv import Compresskv
from curate.presses.snapkv import Snapkv
from curate.testing.random_models import random_model
from tests.presses.test_compresskv import ERROR, PRESS, SMALL, TEXTS
from tests.presses.windowed_oracles import prefix_of, tokens_of


@pytest.fixture
def sought(monkeypatch: pytest.MonkeyPatch) -> list[RetrievalHeads]:
    """Every search for heads from now on."""
    found: list[RetrievalHeads] = []
    calibrate = RetrievalHeads.calibrate

    def counted(self: RetrievalHeads, model: Any, texts: Sequence[Sequence[int]], seed: int) -> Any:
        found.append(self)
        return calibrate(self, model, texts, seed)

    monkeypatch.setattr(RetrievalHeads, "calibrate", counted)
    return found


def test_what_both_parts_need_is_measured_once_and_is_the_same(sought: list[RetrievalHeads]) -> None:
    model = random_model()
    state = PRESS.calibrate(model, TEXTS, 3)
    assert sought == [SMALL] and state is not None
    alone = {**SMALL.calibrate(model, TEXTS, 3), **ERROR.calibrate(model, TEXTS, 3)}
    assert len(sought) == 3 and set(state) == set(alone)
    assert all(torch.equal(state[name], alone[name]) for name in alone)
    assert PRESS.allocator == ERROR  # and nothing of it stays in the press


def test_unlike_importances_are_measured_each(sought: list[RetrievalHeads]) -> None:
    other = SMALL.model_copy(update={"trials": 5})
    Compresskv(importance=other, allocator=ERROR).calibrate(random_model(), TEXTS, 0)
    assert sought == [other, SMALL]


def test_parts_that_need_nothing_leave_nothing(sought: list[RetrievalHeads]) -> None:
    assert Snapkv().calibrate(random_model(), TEXTS, 0) is None and sought == []


def test_a_calibrated_importance_scores_as_before() -> None:
    prefix, state = prefix_of(random_model(), tokens_of(30)), {"found": torch.ones(1)}
    known = Calibrated.of(Window(), state)
    assert known.calibrate(random_model(), [], 9) is state and known.name == "window"
    assert torch.equal(known.protected(prefix), Window().protected(prefix))
    assert all(torch.equal(one, other) for one, other in zip(known.score(prefix), Window().score(prefix), strict=True))
