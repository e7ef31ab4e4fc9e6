"""The same numbers whoever computes them: any number of workers, any kill, other batches, and beside other features or alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.features import map_tensors
from curate.storage import stored_rows

RECIPE = """
name: invariant
pool: {{synthetic: pool, rows: 264, group: kind}}
target: {{rare: {{synthetic: target, rows: 8, group: kind}}}}
model: {{path: {model}, max_length: 96}}
warmup: {{fraction: 10%, epochs: 2, learning_rate: 1.0e-3, lora: {{r: 2, alpha: 4, targets: attention}}}}
features:
  exact: less
  sketch: {{name: less, direction: sgd, width: 256}}
  influence: {{name: influence, fisher_rows: 48}}
  woodbury: {{name: influence, curvature: woodbury, fisher_rows: 48}}
  trak: {{name: trak, width: 32, kernel_rows: 48}}
  hidden: rds
  loss: loss
  error: el2n
  words: bm25
  ngrams: dsir
  norm: {{name: grad_norm, at: last}}
  doubt: {{name: el2n, at: every}}
arms:
  exact: {{vectors: exact, selector: round_robin}}
  sketch: {{vectors: sketch, selector: facility_location}}
  influence: {{vectors: influence, selector: round_robin}}
  woodbury: {{vectors: woodbury, selector: round_robin}}
  trak: {{vectors: trak, selector: round_robin}}
  hidden: {{vectors: hidden, selector: facility_location}}
  loss: {{scores: loss, selector: top_k}}
  error: {{scores: error, selector: coverage}}
  words: {{similarity: words, selector: round_robin}}
  ngrams: {{scores: ngrams, selector: top_k}}
  parts: {{vectors: hidden, selector: {{name: facility_location, optimiser: greedi, partitions: 3}}}}
  mask: {{vectors: hidden, scores: loss, selector: {{name: policy_mask, partition_rows: 100, steps: 5, restarts: 2}}}}
budgets: [20]
seeds: [0]
baselines: [random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""
KILLED = """
import os, signal, sys
from curate.store import Workspace

commit, last = Workspace.commit, sys.argv[1]

def commit_or_die(self, name, data, info):
    if self.path.name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, name, data, info)

Workspace.commit = commit_or_die
sys.argv = ["curate", *sys.argv[2:]]
from curate.__main__ import main
main()
"""
Command = Callable[..., int]
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "invariant.yaml"
    path.write_text(RECIPE.format(model=tiny))
    return path


def options(folder: Path, workers: int = 1) -> list[str]:
    return ["--store", str(folder / "store"), "--runs", str(folder / "runs"), "--workers", str(workers), "--until", "select", "--quiet"]


@pytest.fixture
def run(curate: Command, whole: Path) -> Run:
    """Select in this folder, with overrides; the folder."""

    def go(folder: Path, *overrides: str, workers: int = 1) -> Path:
        assert curate("run", whole, *overrides, *options(folder, workers)) == 0
        return folder

    return go


@pytest.fixture(scope="module")
def finished(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker's store and run."""
    from curate.cli import app

    folder = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    app(args=["run", str(whole), *options(folder)], standalone_mode=False)
    return folder


def stages(folder: Path) -> dict[str, str]:
    """The key of every stage of the run, by stage and label."""
    return {f"{stage['stage']} {stage['label']}": stage["key"] for stage in json.loads((folder / "runs/invariant/run.json").read_bytes())["stages"]}


def artifacts(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Size and hash of every file of what was computed, by key."""
    wanted = ("features", "state", "pilot", "warmup", "selection")
    keys = [key for name, key in stages(folder).items() if name.startswith(wanted)]
    return {key: json.loads((folder / "store" / key / "manifest.json").read_bytes())["files"] for key in keys}


def numbers(folder: Path, key: str) -> np.ndarray[Any, Any]:
    """(n, D) all rows of a feature."""
    shards = [map_tensors(path) for path in sorted((folder / "store" / key).glob("shard-*.safetensors"))]
    return np.concatenate([np.asarray(stored_rows(shard)[:], np.float64).reshape(len(shard["rows"]), -1) for shard in shards])


def test_two_workers_write_the_same_bytes_as_one(run: Run, finished: Path, tmp_path: Path) -> None:
    assert {name.split()[0] for name in stages(finished)} >= {"state", "pilot", "features", "selection"}
    assert artifacts(run(tmp_path, workers=2)) == artifacts(finished)


def test_a_run_killed_between_the_features_of_a_shard_ends_with_the_same_bytes_and_repeats_no_committed_shard(
    run: Run, whole: Path, finished: Path, tmp_path: Path
) -> None:
    for key in stages(finished).values():  # all that was there before
        if key.startswith(("examples", "warmup", "state", "pilot")):
            shutil.copytree(finished / "store" / key, tmp_path / "store" / key)
    key = stages(finished)["features trak (pool)"]
    command = [sys.executable, "-c", KILLED, key, "run", str(whole), *options(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False).returncode == -signal.SIGKILL
    shards = [path for path in (tmp_path / "store/.part").glob("features-*/shard-*") if path.suffix != ".starts"]
    kept = {path.relative_to(tmp_path / "store/.part"): path.stat().st_mtime_ns for path in shards}
    assert {path.name for path in kept} == {"shard-000000.safetensors", "shard-000000.safetensors.json"} and key not in {path.parts[0] for path in kept}
    assert artifacts(run(tmp_path)) == artifacts(finished)
    assert {path: (tmp_path / "store" / path).stat().st_mtime_ns for path in kept} == kept


def test_batches_of_another_size_give_the_same_rows_and_the_same_selections(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.pipelines.score import MICRO_BATCH_TOKENS

    monkeypatch.setitem(MICRO_BATCH_TOKENS, "cpu", 300)
    run(tmp_path)
    there, here = stages(finished), stages(tmp_path)
    assert there.keys() == here.keys()
    for name, key in there.items():
        if name.startswith("features"):
            assert key != here[name]
            wanted, found = numbers(finished, key), numbers(tmp_path, here[name])
            sizes = np.linalg.norm(wanted, axis=1)
            apart = np.linalg.norm(found - wanted, axis=1)
            assert (apart <= 1e-4 * np.maximum(sizes, sizes.mean() / 100)).all(), name
        if name.startswith("selection"):
            import pyarrow.parquet as pq

            tables = [pq.read_table(folder / "selection.parquet") for folder in (finished / "store" / key, tmp_path / "store" / here[name])]
            assert tables[0]["id"].equals(tables[1]["id"]), name


ARMS = {"loss": "{scores: loss, selector: top_k}", "exact": "{vectors: exact, selector: round_robin}", "words": "{similarity: words, selector: round_robin}"}
ARMS |= {name: f"{{scores: {name}, selector: top_k}}" for name in ("error", "ngrams", "norm", "doubt")}
ARMS |= {name: f"{{vectors: {name}, selector: round_robin}}" for name in ("influence", "woodbury")}
ARMS |= {name: f"{{vectors: {name}, selector: facility_location}}" for name in ("sketch", "trak", "hidden")}


def arms(*names: str) -> str:
    return "arms={" + ", ".join(f"{name}: {ARMS[name]}" for name in names) + "}"


def scored(folder: Path, *names: str) -> dict[str, Any]:
    """The files of these features of the pool and of the target, by key."""
    wanted = tuple(f"features {name} " for name in names)
    return {key: artifacts(folder)[key] for label, key in stages(folder).items() if label.startswith(wanted)}


@pytest.mark.parametrize("name", ["exact", "sketch", "influence", "woodbury", "trak", "hidden", "loss", "error", "words", "ngrams"])
def test_a_feature_alone_has_the_key_and_the_bytes_that_it_has_beside_others(run: Run, finished: Path, tmp_path: Path, name: str) -> None:
    for key in stages(finished).values():
        if key.startswith(("examples", "warmup", "state", "pilot")):
            shutil.copytree(finished / "store" / key, tmp_path / "store" / key)
    assert scored(run(tmp_path, arms(name)), name) == scored(finished, name) != {}


BESIDE = [
    ("doubt", ["norm", "doubt"], ["warmup.epochs=3"]),  # another order of passes, and of the sum over them
    ("norm", ["exact", "norm"], ["warmup.lora.r=64"]),  # norms are taken of gradients that another reader has formed, else of their factors
]


@pytest.mark.parametrize(("name", "together", "overrides"), BESIDE, ids=["order", "norms"])
def test_what_other_features_read_of_a_pass_changes_no_bit(run: Run, tmp_path: Path, name: str, together: list[str], overrides: list[str]) -> None:
    alone, beside = (scored(run(tmp_path / which, arms(*names), *overrides), name) for which, names in (("alone", [name]), ("beside", together)))
    assert alone == beside != {}
