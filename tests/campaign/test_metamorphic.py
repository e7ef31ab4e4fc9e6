"""What must not matter does not, and a run that depends on it is caught."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import curate.data.ledger
import curate.model
import curate.train
from campaign import metamorphic_layout
from campaign.metamorphic import differing, swept
from campaign.metamorphic_layout import compared
from campaign.metamorphic_variant import KINDS, Files, Variant, rows_of, run_variant, signature, variants_of

ROWS = 40


pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.mark.campaign
def test_files_places_and_kills_change_nothing(tmp_path: Path) -> None:
    variants = [
        Variant("parquet, shuffled, elsewhere", files=Files(4, seed=4, parquet=True), folders=("a b/s", "r")),
        Variant("killed", files=Files(1, seed=1), kill=60),
        Variant("half precision", dtype="bfloat16"),
    ]
    found = swept(tmp_path, rows_of(0, ROWS), 0, variants, lambda line: None)
    assert found["failed"] == 0 and found["passed"] == found["landed"] == 3 and found["parts"] > 15


def by_position(self: Any) -> Any:
    """Ids that say in which place a row was read, of which set of rows."""
    whose = min(self.key(row) for row in range(len(self))).hex()[:8]
    return np.asarray([f"{whose}-{row:06d}" for row in range(len(self))], np.str_)


@pytest.mark.campaign
@pytest.mark.parametrize("bug", ["position as id", "a seed of the process", "a key without dtype"])
def test_a_bug_that_is_put_in_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    variant = Variant("half precision", dtype="bfloat16") if bug == "a key without dtype" else Variant("shuffled", files=Files(2, seed=2))
    if bug == "a key without dtype":
        monkeypatch.setattr(curate.model.ModelHandle, "identity", lambda self: {"fingerprint": self.fingerprint, "lora": repr(self.lora)})
    elif bug == "position as id":
        monkeypatch.setattr(curate.data.ledger.Ledger, "ids", by_position)
    else:
        monkeypatch.setattr(curate.train, "_dropout_seed", lambda seed, step, part: os.getpid())
        monkeypatch.setattr("curate.training.order.uniform", lambda seed, purpose, ids: np.random.default_rng(os.getpid()).random(len(ids)))
    found = swept(tmp_path, rows_of(0, ROWS), 0, [variant], lambda line: None)
    assert found["failed"] == 1


def test_variants_cover_every_change_and_are_drawn_from_the_seed() -> None:
    plan = variants_of(3, 40)
    assert len({one.name for one in plan}) == 40
    assert {kind for one in plan for kind in one.kinds} == set(KINDS)
    assert plan == variants_of(3, 40) and plan[20:] != variants_of(4, 40)[20:]
    assert [one.workers for one in plan[:17]].count(1) == 14


def test_differences_name_the_part_and_say_whether_it_is_other_or_missing() -> None:
    assert differing({"a": "1", "d": "5", "c": "2"}, {"c": "3", "a": "1", "b": "4"}) == ["c is other", "b is missing or new", "d is missing or new"]


def test_a_row_that_flips_within_the_band_is_explained_and_one_that_flips_beyond_it_is_not() -> None:
    drawn = random.Random(0)
    one = {f"r{number:04d}": 1 + drawn.random() for number in range(2000)}
    near = {name: value * (1 + 2e-6 * drawn.uniform(-1, 1)) for name, value in one.items()}
    found = compared(one, near)
    assert found["wrong"] == [] and found["flips"] > 0 and 0.999 < found["jaccard"] < 1
    assert compared(one, dict(one)) == {"wrong": [], "flips": 0, "jaccard": 1.0, "apart": 0.0}
    far = dict(one) | {"r0003": one["r0003"] + 0.05}
    assert any("flips at" in line for line in compared(one, far)["wrong"])
    assert any("from itself" in line for line in compared(one, far)["wrong"])
    coarse = {name: float(np.float16(value)) for name, value in one.items()}
    assert any("Jaccard" in line for line in compared(one, {name: value + drawn.gauss(0, 0.01) for name, value in one.items()})["wrong"])
    assert compared(one, coarse)["wrong"]
    assert compared(one, {name: value for name, value in one.items() if name != "r0000"})["wrong"]


@pytest.mark.campaign
def test_two_scorers_in_another_layout_flip_no_row_that_rounding_does_not_explain(tmp_path: Path) -> None:
    found = metamorphic_layout.swept(tmp_path, 0, 60, ["loss", "dsir"], [(16, 128)], lambda line: None)
    assert found["failed"] == 0 and found["planned"] == 2


@pytest.mark.campaign
def test_the_same_variant_run_twice_has_the_same_signature(tmp_path: Path) -> None:
    rows = rows_of(1, ROWS)
    for name in ("one", "two"):
        assert run_variant(Variant(name), tmp_path / name, rows, 1).code == 0
    assert signature(tmp_path / "one", Variant("one")) == signature(tmp_path / "two", Variant("two"))
