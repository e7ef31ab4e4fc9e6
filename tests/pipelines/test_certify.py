"""Certificates of a run are recomputed from its features, filters and rules included, and one that was changed is found."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from curate.intact import sealed

Command = Callable[..., int]

RECIPE = """
name: certified
pool: {{synthetic: pool, rows: 200, group: kind}}
target: {{rare: {{synthetic: target, rows: 8, group: kind}}}}
model: {{path: {model}, max_length: 96}}
features:
  hidden: {{name: rds}}
  surprise: loss
arms:
  cover: {{vectors: hidden, selector: facility_location}}
  ruled:
    vectors: hidden
    scores: surprise
    selector: k_center
    filters: [{{selector: {{name: top_k, largest: false}}, keep: 50%}}]
    rules: {{tokens: [10, 90], quotas: [{{by: length, bands: [30], max: {{"30+": 40%}}}}]}}
  near: {{vectors: hidden, selector: round_robin}}
budgets: [{budgets}]
seeds: [0, 1]
baselines: [random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""


@pytest.fixture
def chosen(curate: Command, tiny: Path, tmp_path: Path) -> Callable[..., int]:
    """A command on a run whose rows have been selected."""
    (tmp_path / "certified.yaml").write_text(RECIPE.format(model=tiny, budgets="20"))
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs"]
    assert curate("run", tmp_path / "certified.yaml", *where, "--until", "select", "--workers", 1, "--quiet") == 0
    return lambda: curate("verify", "certified", *where)


def test_every_certificate_is_recomputed_and_a_changed_one_is_found(
    chosen: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen() == 0
    said = capsys.readouterr().out
    assert "certificates: 4 of 8 selections have one" in said and "none is claimed by random, round_robin" in said
    manifests = [path for path in (tmp_path / "store").glob("selection-*/manifest.json") if json.loads(path.read_bytes())["summary"]["certificate"]]
    ruled = next(path for path in manifests if json.loads(path.read_bytes())["fields"]["selector"]["name"] == "k_center")
    document = json.loads(ruled.read_bytes())
    assert document["fields"]["filters"][0]["keep"] == "50%" and document["fields"]["rules"]["tokens"] == [10, 90]
    document["summary"]["certificate"]["objective"] *= 0.9
    ruled.write_text(json.dumps(sealed(document)))
    assert chosen() == 8
    assert "ruled 20 seed" in (message := capsys.readouterr().err) and "is claimed, the features give" in message


def test_a_rule_that_cannot_be_kept_names_its_arm_and_a_filter_must_keep_something(
    curate: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certified.yaml"
    text = RECIPE.format(model=tiny, budgets="20")
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs", "--until", "select", "--workers", 1, "--quiet"]
    path.write_text(text.replace("tokens: [10, 90]", "where: {colour: [red]}"))
    assert curate("run", path, *where) == 3
    assert "arm ruled: no row of the pool has a column 'colour'" in capsys.readouterr().err
    path.write_text(text.replace("keep: 50%", "keep: 0%"))
    assert curate("validate", path) == 2
    assert "arms.ruled.filters.0.keep: a filter that keeps 0% makes no sense" in capsys.readouterr().err


def test_a_language_model_that_chooses_reads_what_rows_say_and_its_decisions_are_kept(curate: Command, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "judged.yaml"
    text = RECIPE.format(model=tiny, budgets="4").split("features:")[0] + "arms:\n"
    judge = f"{{name: choice, chooser: {{kind: local, model: {tiny}}}, candidates: 2, shown: 0, row_characters: 16}}"
    path.write_text(text + f"  judged: {{selector: {judge}}}\nbudgets: [4]\n" + RECIPE.format(model=tiny, budgets="4").split("budgets: [4]\n")[1])
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs"]
    assert curate("run", path, *where, "--until", "select", "--workers", 1, "--quiet") == 0
    journals = list((tmp_path / "store").glob("selection-*/decisions.jsonl"))
    assert len(journals) == 2  # of two seeds
    assert all(len(journal.read_text().splitlines()) == 4 for journal in journals)
    assert curate("verify", "certified", *where) == 0


def test_an_elbow_ends_the_arms_that_have_one_and_refuses_the_others(
    curate: Command, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "elbow.yaml"
    path.write_text(RECIPE.format(model=tiny, budgets='"elbow 25%"'))
    assert curate("validate", path) == 2
    assert "arms.ruled: a budget of elbow needs gains that fall" in capsys.readouterr().err
    path.write_text(RECIPE.format(model=tiny, budgets='"elbow 25%"').split("  ruled:")[0] + "budgets" + path.read_text().split("budgets")[1])
    where = ["--store", tmp_path / "store", "--runs", tmp_path / "runs"]
    assert curate("run", path, *where, "--until", "select", "--workers", 1, "--quiet", "--json") == 0
    rows = {row["arm"]: row["rows"] for row in json.loads(capsys.readouterr().out)["selections"]}
    assert rows["random"] == 50 and 0 < rows["cover"] < 50
    assert curate("verify", "certified", *where) == 0


def test_selections_of_an_earlier_version_are_named_and_not_compared(
    chosen: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = next((tmp_path / "store").glob("selection-*/manifest.json"))
    document = json.loads(manifest.read_bytes())
    document["version"] += 1
    manifest.write_text(json.dumps(sealed(document)))
    assert chosen() == 0
    assert "not compared, for another version of the selector or of curate made them:" in capsys.readouterr().out
