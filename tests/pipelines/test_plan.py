"""A plan held against the run that it foretells: what is there, what it is called, how much it writes; and nothing is built by looking."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate.pipelines.plan as planning
from curate.arm import Arm
from curate.data.load import load
from curate.data.source import Source
from curate.model import resolve
from curate.pipelines.experiment import run
from curate.pipelines.launch import session_of
from curate.pipelines.measure import Scene
from curate.pipelines.plan import _Planning, plan
from curate.pipelines.plan_choosing import Tryout, rehearse_choosing
from curate.pipelines.plan_file import read_plan
from curate.pipelines.plan_found import look_up, lookup_session
from curate.pipelines.plan_miniature import Miniatures
from curate.pipelines.plan_rows import rows_in, scanned_and_kept
from curate.progress import Progress
from curate.recipe import Recipe, Runtime, parse_recipe
from curate.report.planned import Plan
from curate.store import Store
from curate.strict_yaml import load as load_yaml

RECIPE = """
name: foretold
pool: {{synthetic: pool, rows: 120, group: kind}}
target: {{one: {{synthetic: target, rows: 6, group: kind}}, two: {{synthetic: target, rows: 6, seed: 3}}}}
per_target: true
model: {{path: {model}, max_length: 96, lora: {{r: 4, alpha: 8, targets: attention}}}}
warmup: {{fraction: 10%, epochs: 1, lora: {{r: 2, alpha: 4, targets: attention}}}}
features:
  gradient: {{name: less, width: 64}}
  surprise: loss
arms:
  rr: {{vectors: gradient, selector: round_robin}}
  hard: {{scores: surprise, selector: stratified}}
controls: [length_matched_random]
budgets: [16]
seeds: [0]
baselines: [zero_shot, random]
train: {{epochs: 1, batch_size: 8}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 8}}}}
"""


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    return parse_recipe(load_yaml(RECIPE.format(model=tiny).encode(), "foretold.yaml"))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("foretold")
    return Runtime(store=folder / "store", runs=folder / "runs", workers=1, device="cpu")


@pytest.fixture(scope="module")
def foretold(recipe: Recipe, runtime: Runtime) -> Plan:
    """The plan, made before anything is computed, with few small passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SCORED", (8, 32))
        patch.setattr(planning, "CHOSEN_FROM", (32, 64))
        patch.setattr(planning, "TRAINED", (1, 2))
        patch.setattr(planning, "ASKED", (4, 8))
        made = plan(recipe, runtime, Path(), quiet=True)
    assert not runtime.store.exists()
    return made


@pytest.fixture(scope="module")
def stages(recipe: Recipe, runtime: Runtime, foretold: Plan) -> list[dict[str, object]]:
    """What the run then computed."""
    with session_of(recipe, runtime, Path(), quiet=True) as session:
        run(recipe, session)
    return session.stages


def test_every_artifact_of_the_run_is_foretold_once(foretold: Plan, stages: list[dict[str, object]]) -> None:
    wanted = {(line.stage, label): line for line in foretold.planned for label in line.labels}
    assert {(stage["stage"], stage["label"]) for stage in stages} == set(wanted)
    for line in foretold.planned:
        keys = [stage["key"] for stage in stages if stage["stage"] == line.stage and stage["label"] in line.labels]
        shared = line.stage not in ("train", "evaluate")  # whose rows may be those of another arm, which no plan can know
        assert line.count == len(set(keys) if shared else keys), line.what
        assert not line.found and 0 < line.low <= line.seconds <= line.high


def test_the_disk_that_is_foretold_is_about_what_the_run_writes(foretold: Plan, stages: list[dict[str, object]], runtime: Runtime) -> None:
    for line in foretold.planned:
        keys = {str(stage["key"]) for stage in stages if stage["stage"] == line.stage and stage["label"] in line.labels}
        manifests = [json.loads((runtime.store / key / "manifest.json").read_bytes()) for key in keys]
        actual = sum(file["bytes"] for manifest in manifests for file in manifest["files"].values())
        within = 1.1 if line.stage in ("features", "state", "warmup", "train") else 2.0
        each = line.disk / line.count * len(keys)  # two arms may take the same rows
        assert 1 / within <= each / actual <= within, (line.stage, line.what, each, actual)


def test_memory_is_that_of_a_process_with_a_model(foretold: Plan) -> None:
    assert all(2**27 < line.memory < 2**34 for line in foretold.planned)


def test_the_plan_lies_in_the_runs_folder_for_this_recipe_alone(foretold: Plan, recipe: Recipe, runtime: Runtime, tmp_path: Path) -> None:
    assert read_plan(runtime.runs / "foretold", recipe) == foretold
    assert read_plan(runtime.runs / "foretold", recipe.model_copy(update={"seeds": [7]})) is None
    assert read_plan(tmp_path, recipe) is None


def test_after_the_run_everything_is_found_and_the_plan_stays(recipe: Recipe, runtime: Runtime, foretold: Plan, stages: list[dict[str, object]]) -> None:
    again = plan(recipe, runtime, Path(), quiet=True)
    assert [line.missing for line in again.planned] == [0] * len(again.planned)
    assert {key for line in again.planned for key in line.found} == {stage["key"] for stage in stages}
    assert again.elapsed == 0 and read_plan(runtime.runs / "foretold", recipe) == foretold


def changed(recipe: Recipe, what: str) -> Recipe:
    """The recipe with another seed, a longer warm-up or a smaller pool."""
    return recipe.model_copy(
        update={
            "seeds": {"seeds": [0, 1]},
            "warm-up": {"warmup": recipe.warmup.model_copy(update={"epochs": 2})},
            "pool": {"pool": [recipe.pool[0].model_copy(update={"rows": 90})]},
        }[what]
    )


@pytest.mark.parametrize(("what", "until"), [("seeds", ""), ("warm-up", "select"), ("pool", "select")])
def test_what_is_said_to_be_there_is_what_a_run_then_finds(
    what: str, until: str, recipe: Recipe, runtime: Runtime, stages: list[dict[str, object]], tmp_path: Path
) -> None:
    other, store = changed(recipe, what), tmp_path / "store"
    shutil.copytree(runtime.store, store)
    scratch = Miniatures(other, Path(), replace(resolve(other.model, Path()), lora=None), Store(tmp_path / "scratch"))
    lookup = lookup_session(store, tmp_path / "runs", Path(), "cpu", 1, lambda role: scratch.of(role, 64))
    before = sorted(store.rglob("*"))
    look_up(other, lookup)
    assert sorted(store.rglob("*")) == before
    with session_of(other, Runtime(store=store, runs=tmp_path / "runs", workers=1, device="cpu"), Path(), quiet=True) as session:
        run(other, session, until)
    reached = {"train", "evaluate"} if not until else set()
    there = {(stage, label, key) for (stage, label), keys in lookup.seen.items() for key, found in keys.items() if found}
    there = {one for one in there if one[0] in reached or one[0] not in ("train", "evaluate")}
    assert there == {(stage["stage"], stage["label"], stage["key"]) for stage in session.stages if (runtime.store / stage["key"]).exists()}
    assert 0 < len(there) < len(session.stages)


def test_a_damaged_artifact_is_not_said_to_be_there_and_stays_where_it_is(
    recipe: Recipe, runtime: Runtime, stages: list[dict[str, object]], tmp_path: Path
) -> None:
    shutil.copytree(runtime.store, tmp_path / "store")
    weights, items = (next((tmp_path / "store").glob(pattern)) for pattern in ("checkpoint-*/weights.safetensors", "evaluation-*/items.jsonl"))
    weights.unlink()
    items.write_bytes(items.read_bytes()[:-1])
    lookup = lookup_session(tmp_path / "store", tmp_path / "runs", Path(), "cpu", 1, None)
    look_up(recipe, lookup)
    lost = {key for keys in lookup.seen.values() for key, found in keys.items() if not found}
    assert lost == {weights.parent.name, items.parent.name} and weights.parent.is_dir() and items.is_file()


def test_a_disk_or_a_memory_that_is_too_small_is_a_warning(recipe: Recipe, runtime: Runtime, foretold: Plan) -> None:
    made = _Planning(recipe, runtime, Path(), "cpu", Path(), Progress(None, quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        patch.setattr("distributed.system.MEMORY_LIMIT", 1000)
        warnings = list(made._warnings(foretold.planned))
    assert "has 1.0 KiB free" in warnings[0] and "this machine has 1.0 KiB" in warnings[1]
    assert list(made._warnings(foretold.planned)) == []


def test_a_selector_that_asks_a_language_model_is_not_tried(recipe: Recipe, tmp_path: Path) -> None:
    judge = Arm.model_validate({"selector": {"name": "choice", "chooser": {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "judge"}}})
    scene = Scene(recipe.model_copy(update={"arms": {"judge": judge}}), Path(), tmp_path, "cpu", 1.0)
    assert "language model" in rehearse_choosing(Tryout(scene, [], {}, {}))["judge"].unknown


def written(folder: Path, name: str) -> Path:
    """5,000 rows of like length, every fifth of kind a, whose text hardly compresses."""
    rows = [{"text": f"{Random(number).getrandbits(1600):0400x}", "kind": "a" if number % 5 == 0 else "b"} for number in range(5000)]
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize(("name", "exact"), [("a.parquet", True), ("a.json", True), ("a.jsonl", False), ("a.jsonl.gz", False)])
def test_rows_are_counted_or_taken_from_the_length_of_the_first(name: str, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, name)
    source = Source(path=name)
    assert exact or rows_in(source, tmp_path) == 5000  # a small file is counted
    monkeypatch.setattr("curate.pipelines.plan_rows.SMALL", 0)
    monkeypatch.setattr("curate.pipelines.plan_rows.PIECE", 1_000_000)
    assert abs(rows_in(source, tmp_path) - 5000) <= (0 if exact else 600)


def test_filters_limits_and_samples_say_how_much_is_read_and_how_much_is_left(tmp_path: Path) -> None:
    written(tmp_path, "a.jsonl")

    def counted(**fields: object) -> tuple[int, int]:
        source = Source.model_validate({"path": "a.jsonl", "format": "text", **fields})
        first = source.model_copy(update={"limit": 100, "sample": None})
        return scanned_and_kept(source, tmp_path, list(load([first], tmp_path)))

    assert counted() == (5000, 5000)
    assert counted(limit=300) == (300, 300)
    scanned, kept = counted(where={"kind": "a"}, limit=200)
    assert kept == 200 and abs(scanned - 996) < 20
    assert abs(counted(where={"kind": "a"})[1] - 1000) < 20
    assert counted(sample=700) == (10_000, 700)
