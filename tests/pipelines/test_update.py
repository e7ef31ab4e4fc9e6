"""A pool that grows: only new rows are prepared and scored, what was computed stays bit by bit, and the report says what changed and why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.core import Artifact
from curate.data.examples import opened
from curate.data.synthetic import instructions
from curate.features import open_features
from curate.growth import read_ids
from curate.intact import sealed
from curate.pipelines.update import updated
from curate.store import Store, read_json

Command = Callable[..., int]
RECIPE = """
name: small
pool: {{path: pool.jsonl, group: kind}}
target: {{rare: {{synthetic: target, rows: 4, group: kind}}}}
model: {{path: {model}, max_length: 40}}
hygiene: {{quarantine_limit: 20%}}
features:
  hidden: {{name: rds, store: int8}}
  surprise: {{name: loss}}
  words: {{name: bm25}}
arms:
  alike: {{vectors: hidden, selector: round_robin}}
  hard: {{scores: surprise, selector: top_k}}
  read: {{similarity: words, selector: round_robin}}
  spread: {{vectors: hidden, selector: facility_location}}
  repaired: {{vectors: hidden, selector: {{name: log_determinant, optimiser: dynamic}}}}
budgets: [12]
seeds: [0]
baselines: [random]
train: {{epochs: 1}}
evaluate: [{{task: likelihood, data: {{synthetic: test, rows: 4}}}}]
"""
POOL, OVERLAP, ALL = 300, 280, 420


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, the same after a step of growth, and the pool of both written as one."""
    folder = tmp_path_factory.mktemp("growing")
    rows = list(instructions("pool", ALL, 0))
    write(folder / "pool.jsonl", rows[:POOL])
    write(folder / "more.jsonl", rows[OVERLAP:])
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny))
    run_it(folder, "run", folder / "recipe.yaml", "--until", "select")
    gone = selected(folder, "small", "alike")[:3]
    (folder / "gone.txt").write_text("\n".join(gone) + "\n\n")
    run_it(folder, "update", "small", "--add", folder / "more.jsonl", "--remove", folder / "gone.txt")
    return folder


def run_it(folder: Path, *words: object) -> None:
    command = [*words, "--store", folder / "store", "--runs", folder / "runs", "--workers", "1", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "curate", *map(str, command)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def stages(folder: Path, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(folder / "runs" / run / "run.json")["stages"]
    return found


def artifact(folder: Path, run: str, stage: str, label: str) -> Artifact:
    """The last artifact of a run with this label."""
    key = [one["key"] for one in stages(folder, run) if one["stage"] == stage and one["label"] == label][-1]
    return Artifact(key, folder / "store" / key, read_json(folder / "store" / key / "manifest.json"))


def selected(folder: Path, run: str, arm: str) -> list[str]:
    found: list[str] = pq.read_table(artifact(folder, run, "selection", f"{arm} 12 seed 0").path / "selection.parquet")["id"].to_pylist()
    return found


def by_id(features: Artifact, folder: Path, name: str) -> dict[str, Any]:
    found, _ = open_features(opened(folder / "store" / features.manifest["inputs"][0]), **{name: features})
    return {str(row): np.asarray(getattr(found, name)[number]) for number, row in enumerate(found.ids)}


def test_the_pool_is_what_was_there_without_what_went_and_with_what_came(folder: Path) -> None:
    before, after = opened(artifact(folder, "small", "examples", "pool").path), opened(artifact(folder, "small-2", "grown", "pool, step 1").path)
    added = opened(artifact(folder, "small-2", "examples", "added in step 1").path)
    gone = set(read_ids(folder / "gone.txt"))
    assert set(after.ids) == (set(before.ids) - gone) | set(added.ids) and list(after.ids) == sorted(after.ids) and len(gone) == 3
    both = {name: source for source in (before, added) for name, source in [(str(row), source) for row in source.ids]}
    for number in range(0, len(after.ids), 17):
        row, source = after.rows[number], both[str(after.ids[number])]
        own = source.rows[int(np.flatnonzero(source.ids == after.ids[number])[0])]
        assert np.array_equal(row.input_ids, own.input_ids) and row.content.fields == own.content.fields


@pytest.mark.parametrize(("label", "name"), [("hidden", "vectors"), ("surprise", "scores"), ("words", "similarity")])
def test_numbers_of_rows_that_stay_are_copied_and_only_those_that_came_are_computed(folder: Path, label: str, name: str) -> None:
    old, new = (by_id(artifact(folder, run, "features", f"{label} (pool)"), folder, name) for run in ("small", "small-2"))
    grown, added = (artifact(folder, "small-2", "features", f"{label} ({which})") for which in ("grown", "pool"))
    grown = by_id(grown, folder, name)
    assert added.manifest["summary"]["rows"] == ALL - OVERLAP and set(new) == set(opened(folder / "store" / added.manifest["inputs"][0]).ids)
    gone = set(read_ids(folder / "gone.txt"))
    assert set(grown) == (set(old) - gone) | set(new)
    for row, value in grown.items():
        assert np.array_equal(value, old[row] if row in old and row not in gone else new[row])


def test_without_a_state_of_the_pool_growing_ends_where_a_new_run_does(folder: Path, curate: Command) -> None:
    """The oracle: the same rows as one pool from the beginning. The words of bm25 are weighed by the pool as it was, so that arm is left out."""
    gone, rows = set(read_ids(folder / "gone.txt")), list(instructions("pool", ALL, 0))
    grown = opened(artifact(folder, "small-2", "grown", "pool, step 1").path)
    before = opened(artifact(folder, "small", "examples", "pool").path)
    texts = {json.dumps(dict(before.rows[number].content.fields), sort_keys=True) for number, row in enumerate(before.ids) if row in gone}
    left = [row for number, row in enumerate(rows) if number >= OVERLAP or json.dumps(row, sort_keys=True) not in texts]
    write(folder / "whole.jsonl", left)
    scratch = (folder / "recipe.yaml").read_text().replace("pool.jsonl", "whole.jsonl").replace("name: small", "name: scratch")
    (folder / "scratch.yaml").write_text(scratch)
    assert curate("run", folder / "scratch.yaml", "--until", "select", "--store", folder / "store", "--runs", folder / "runs", "--quiet", "--workers", "1") == 0
    assert list(opened(artifact(folder, "scratch", "examples", "pool").path).ids) == list(grown.ids)
    assert selected(folder, "scratch", "random") == selected(folder, "small-2", "random")
    made = (("scratch", "surprise (pool)"), ("small-2", "surprise (grown)"))
    one, other = (by_id(artifact(folder, run, "features", label), folder, "scores") for run, label in made)
    assert max(abs(float(one[row]) - float(other[row])) for row in one) < 1e-5
    assert set(selected(folder, "scratch", "hard")) == set(selected(folder, "small-2", "hard"))


def test_the_report_says_what_came_in_what_went_out_and_what_took_its_place(folder: Path) -> None:
    results = json.loads((folder / "runs" / "small-2" / "results.json").read_text())
    assert {one["arm"] for one in results["churn"]} == {"random", "alike", "hard", "read", "spread", "repaired"}
    gone = set(read_ids(folder / "gone.txt"))
    for one in results["churn"]:
        old, new = selected(folder, "small", one["arm"]), selected(folder, "small-2", one["arm"])
        assert one["came"] == [row for row in new if row not in old] and [row["id"] for row in one["left"]] == [row for row in old if row not in new]
        assert one["stayed"] == len(set(old) & set(new)) and all((row["why"] == "removed") == (row["id"] in gone) for row in one["left"])
        assert (one["gap_after"] is not None) == (one["arm"] in ("spread", "repaired"))
    alike = next(one for one in results["churn"] if one["arm"] == "alike")
    vectors = by_id(artifact(folder, "small-2", "features", "hidden (grown)"), folder, "vectors")
    unit = {row: value / np.linalg.norm(value) for row, value in vectors.items()}
    for row in alike["left"]:
        if row["why"] == "displaced":
            likeness = {name: float(unit[row["id"]] @ unit[name]) for name in alike["came"]}
            assert likeness[row["by"]] == pytest.approx(max(likeness.values()), abs=1e-5) and row["likeness"] == pytest.approx(max(likeness.values()), abs=1e-5)
    page = (folder / "runs" / "small-2" / "report.html").read_text()
    assert "What changed" in page and alike["left"][0]["id"] in page
    assert "displaced" in (folder / "runs" / "small-2" / "report.md").read_text()


def test_a_repaired_selection_goes_on_from_the_last_one_and_says_what_one_from_scratch_is_worth(folder: Path) -> None:
    before, after = (artifact(folder, run, "selection", "repaired 12 seed 0") for run in ("small", "small-2"))
    assert before.key in after.manifest["inputs"]
    value = {run: by_hand(folder, run, name) for run, name in (("small", "hidden (pool)"), ("small-2", "hidden (grown)"))}
    for run, one in (("small", before), ("small-2", after)):
        certificate = one.manifest["summary"]["certificate"]
        assert certificate["objective"] == pytest.approx(value[run], rel=1e-4)
        assert certificate["objective"] >= certificate["details"]["from_scratch"] / 2 and certificate["bound"] >= certificate["details"]["from_scratch"]


def by_hand(folder: Path, run: str, label: str) -> float:
    """log det(I + X X^T) of the rows kept, in float64."""
    vectors = by_id(artifact(folder, run, "features", label), folder, "vectors")
    kept = np.array([vectors[row] for row in selected(folder, run, "repaired")], np.float64)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    return float(np.linalg.slogdet(np.eye(len(kept)) + kept @ kept.T)[1])


def test_a_grown_run_is_verified_and_a_lost_row_is_found(folder: Path, curate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    places = ("--store", folder / "store", "--runs", folder / "runs")
    assert curate("verify", "small-2", *places) == 0
    from curate.data.account import unaccounted_growth

    grown = artifact(folder, "small-2", "grown", "pool, step 1")
    before, added = artifact(folder, "small", "examples", "pool"), artifact(folder, "small-2", "examples", "added in step 1")
    assert unaccounted_growth(grown, before, added) == []
    assert "rows are known" in unaccounted_growth(grown, before)[0]


@pytest.mark.parametrize(("run", "named"), [("small", "spread 12 seed 0 (before the last step of growth)"), ("small-2", "spread 12 seed 0")])
def test_the_certificates_before_and_after_the_last_step_are_both_recomputed(
    run: str, named: str, folder: Path, curate: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    places = ("--store", tmp_path / "store", "--runs", folder / "runs")
    assert curate("verify", "small-2", *places) == 0
    assert "certificates: 4 of 12 selections have one" in capsys.readouterr().out  # six arms, random among them, before and after
    manifest = tmp_path / "store" / artifact(folder, run, "selection", "spread 12 seed 0").key / "manifest.json"
    document = json.loads(manifest.read_bytes())
    document["summary"]["certificate"]["objective"] *= 0.9
    manifest.write_text(json.dumps(sealed(document)))
    assert curate("verify", "small-2", *places) == 8
    assert f"{named}: objective" in capsys.readouterr().err


def test_running_its_recipe_finds_everything_and_a_second_step_builds_on_the_first(folder: Path, curate: Command) -> None:
    common = ("--store", folder / "store", "--runs", folder / "runs", "--quiet", "--workers", "1")
    assert curate("run", folder / "runs" / "small-2" / "recipe.yaml", "--data", folder, "--until", "select", *common) == 0
    assert all(stage["cached"] for stage in stages(folder, "small-2"))
    (folder / "one.txt").write_text(selected(folder, "small-2", "spread")[0])
    assert curate("update", "small-2", "--remove", folder / "one.txt", *common) == 0
    assert sum(not stage["cached"] for stage in stages(folder, "small-3") if stage["stage"] == "features") == 3  # each is joined anew, none is scored
    assert selected(folder, "small-2", "spread")[0] not in selected(folder, "small-3", "spread")


@pytest.mark.parametrize(
    ("ids", "said"),
    [("nobody\n", "no row of the pool has the id nobody"), ("a\nb\na\n", "the id a is there twice"), (b"\xff\xfe\x00", "cannot read the ids in")],
)
def test_ids_that_cannot_go_are_one_line(ids: Any, said: str, folder: Path, curate: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(ids if isinstance(ids, bytes) else ids.encode())
    common = ("--store", folder / "store", "--runs", folder / "runs", "--quiet", "--workers", "1")
    assert curate("update", "small", "--remove", file, "--name", "bad", *common) == 3
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["small"], 2, "nothing is to change: give --add FILE, --remove FILE, or both"),
        (["nobody", "--add", "more.jsonl"], 3, "there is no run in"),
        (["small", "--remove", "none.txt"], 3, "none.txt is no file"),
        (["small", "--add", "{path: x, colour: red}"], 2, "colour"),
    ],
)
def test_what_cannot_be_updated_is_one_line(words: list[str], code: int, said: str, folder: Path, curate: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert curate("update", *words, "--store", folder / "store", "--runs", folder / "runs", "--quiet") == code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_file_is_read_like_the_pool_and_runs_are_numbered_on(folder: Path, tmp_path: Path) -> None:
    for name in ("small", "small-2", "small-3"):  # whatever other tests have made
        (tmp_path / name).mkdir()
    run = tmp_path / "small"
    (run / "recipe.yaml").write_bytes((folder / "runs" / "small" / "recipe.yaml").read_bytes())
    made = updated(run, ["x.jsonl", "{hub: org/name, revision: abc}"], None, "")
    assert made.name == "small-4" and made.growth[0].add[0].group == "kind" and Path(str(made.growth[0].add[0].path)).is_absolute()
    assert made.growth[0].add[1].hub == "org/name" and updated(run, ["x"], None, "other").name == "other"


@pytest.mark.parametrize("given", ["sub/x.jsonl", "{path: sub/x.jsonl}", "{path: sub/*.jsonl, group: kind}"])
def test_a_path_that_is_typed_starts_from_the_current_folder_in_braces_too(given: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = updated(folder / "runs" / "small", [given], None, "other").growth[0].add[0].path
    assert path is not None and Path(path).is_absolute() and Path(path).parent == tmp_path / "sub"


def test_rows_named_in_braces_are_found_from_the_current_folder(folder: Path, curate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the recipe's folder, in which a file of the same name holds no rows that can be read."""
    rows = list(instructions("pool", ALL, 0))[OVERLAP:]
    write(tmp_path / "here.jsonl", rows)
    (folder / "here.jsonl").write_text("no rows\n")
    monkeypatch.chdir(tmp_path)
    common = ("--store", folder / "store", "--runs", tmp_path / "runs", "--quiet", "--workers", "1")
    shutil.copytree(folder / "runs" / "small", tmp_path / "runs" / "small")
    assert curate("update", "small", "--add", "{path: here.jsonl, group: kind}", *common) == 0
    added = Store(folder / "store").find(next(one["key"] for one in stages(tmp_path, "small-2") if one["label"] == "added in step 1"))
    assert added is not None and added.manifest["summary"]["rows_in"] == len(rows)
