"""Several targets in one run: what heeds a target is done for each, and everything else once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPE = """
name: several
pool: {{synthetic: pool, rows: 200, group: kind}}
target:
  flags: {{synthetic: target, rows: 16, where: {{kind: signal flag}}}}
  desks: {{synthetic: target, rows: 16, where: {{kind: desk routing}}}}
per_target: true
model: {{path: {model}, max_length: 96, lora: {{r: 2, alpha: 4, targets: attention}}}}
features: {{hidden: rds, words: bm25}}
arms:
  rr: {{vectors: hidden, selector: round_robin}}
  near: {{similarity: words, selector: round_robin}}
  centres: {{vectors: hidden, selector: k_center}}
controls: {{source_matched_random: [rr]}}
budgets: [12]
seeds: [0, 1]
baselines: [zero_shot, random]
train: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 8}}
evaluate:
  - {{label: flags, target: flags, task: likelihood, data: {{synthetic: test, rows: 8, where: {{kind: signal flag}}}}}}
  - {{label: both, task: likelihood, data: {{synthetic: test, rows: 8}}}}
"""

Command = Callable[..., int]


@pytest.fixture(scope="module")
def recipe(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "several.yaml"
    path.write_text(RECIPE.format(model=tiny))
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results, and in `folder` where they lie."""
    import sys

    from curate.__main__ import main

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    before, sys.argv = sys.argv, ["curate", "run", str(recipe), "--store", f"{folder}/store", "--runs", f"{folder}/runs", "--workers", "1", "--quiet"]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    finally:
        sys.argv = before
    found: dict[str, Any] = json.loads((folder / "runs" / "several" / "results.json").read_bytes())
    return found | {"folder": folder}


def test_only_arms_that_heed_the_target_select_once_for_each(finished: dict[str, Any]) -> None:
    places = {(row["arm"], row["target"]) for row in finished["selections"] if not row["matched_to"]}
    each = {(arm, target) for arm in ("rr", "near") for target in ("flags", "desks")}
    assert places == each | {("random", None), ("centres", None)}
    assert {(row["arm"], row["target"], row["matched_to"]) for row in finished["selections"] if row["matched_to"]} == {
        ("source_matched_random:rr", target, "rr") for target in ("flags", "desks")
    }


def test_the_targets_get_rows_of_their_own(finished: dict[str, Any]) -> None:
    taken = {row["target"]: row["groups"] for row in finished["selections"] if row["arm"] == "near" and row["seed"] == 0}
    assert taken["flags"].get("signal flag", 0) > taken["desks"].get("signal flag", 0)
    assert taken["desks"].get("desk routing", 0) > taken["flags"].get("desk routing", 0)


def test_features_of_the_pool_are_computed_once(finished: dict[str, Any]) -> None:
    pool = {stage["key"] for stage in finished["stages"] if stage["stage"] == "features" and "hidden" in stage["label"] and "target" not in stage["label"]}
    assert len(pool) == 1


def test_a_model_is_asked_what_its_target_is_evaluated_on(finished: dict[str, Any]) -> None:
    asked = {(cell["arm"], cell["target"]): {task["task"] for task in cell["tasks"]} for cell in finished["cells"]}
    flags, desks = "likelihood of flags", "likelihood of desks"
    assert asked["rr", "flags"] == {"flags", "both", flags}
    assert asked["rr", "desks"] == {"both", desks}
    for everyone in ("random", "zero_shot", "centres"):
        assert asked[everyone, None] == {"flags", "both", flags, desks}


def test_every_comparison_is_within_its_target(finished: dict[str, Any]) -> None:
    places = {(c["task"], c["target"]) for c in finished["comparisons"] if c["arm"] == "rr"}
    assert places == {("flags", "flags"), ("both", "flags"), ("both", "desks"), ("likelihood of flags", "flags"), ("likelihood of desks", "desks")}
    family = {c["comparisons"] for c in finished["comparisons"] if c["task"] == "both" and c["arm"] == "rr"}
    assert family == {5}  # rr and near for two targets each, and centres
    assert {(c["arm"], c["baseline"]) for c in finished["controlled"]} == {("rr", "source_matched_random:rr")}


def test_equal_subsets_share_their_model(finished: dict[str, Any]) -> None:
    """k-center draws nothing, so its seeds select alike; training has a seed of its own."""
    cells = [cell for cell in finished["cells"] if cell["arm"] == "centres"]
    keys = {row["key"] for row in finished["selections"] if row["arm"] == "centres"}
    assert len(keys) == 1 and len({cell["key"] for cell in cells}) == 2


def test_a_selection_is_exported_for_the_target_that_is_named(finished: dict[str, Any], command_line: Command, tmp_path: Path) -> None:
    where = ["--store", finished["folder"] / "store", "--runs", finished["folder"] / "runs"]
    assert command_line("export", "several", "rr", tmp_path / "any", *where) == 9
    assert command_line("export", "several", "rr", tmp_path / "desks", "--target", "desks", *where) == 0
    assert command_line("export", "several", "centres", tmp_path / "centres", *where) == 0
    assert command_line("verify", "several", *where) == 0
