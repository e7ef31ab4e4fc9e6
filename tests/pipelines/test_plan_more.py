"""What a plan says of hygiene, of workers that are elsewhere, and of a recipe that evaluates on the file that its target is drawn from."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import curate.pipelines.plan as planning
from curate.clusters.chosen import launcher_of, workers_in
from curate.clusters.profile import parse_profile
from curate.clusters.site import ANYWHERE
from curate.core import Examples
from curate.data.synthetic import instructions
from curate.errors import ConfigError
from curate.estimate import Line, Point
from curate.model import resolve
from curate.pipelines.experiment import run
from curate.pipelines.launch import session_of
from curate.pipelines.plan import plan
from curate.pipelines.plan_cells import evaluation_line
from curate.pipelines.plan_found import look_up, lookup_session
from curate.pipelines.plan_hygiene import Cost, Whole, again_line, hygiene_lines, shares_taken
from curate.pipelines.plan_lines import Workers
from curate.pipelines.plan_miniature import Miniatures
from curate.recipe import Recipe, Runtime, parse_recipe
from curate.report.planned import Plan
from curate.store import Store
from curate.strict_yaml import load as load_yaml

Command = Callable[..., int]

RECIPE = """
name: tidy
pool: {{path: pool.jsonl, group: kind}}
target: {{rare: {{synthetic: target, rows: 6, group: kind}}}}
model: {{path: {model}, max_length: 96}}
hygiene: {{deduplicate: semantic, semantic: {{encoder: rds, at: 0.999}}, decontaminate: true, quarantine_limit: 50%}}
features: {{words: bm25}}
arms: {{alike: {{similarity: words, selector: round_robin}}}}
controls: [length_matched_random]
budgets: [8]
seeds: [0, 1]
baselines: [random]
train: {{epochs: 1, batch_size: 8}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 8}}}}
"""
STAGES = {"vectors", "leaks", "duplicates", "semantic", "clean", "recheck"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few small passes."""
    sizes = {"SCORED": (8, 16), "CHOSEN_FROM": (16, 32), "TRAINED": (1, 2), "ASKED": (4, 8), "LOOKED_THROUGH": (16, 32, 64)}
    for name, values in sizes.items():
        monkeypatch.setattr(planning, name, values)


def read(text: str, model: Path) -> Recipe:
    return parse_recipe(load_yaml(text.format(model=model).encode(), "tidy.yaml"))


def write(path: Path, rows: int) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in instructions("pool", rows, 0)))


def test_the_time_of_hygiene_is_foretold_and_found_again_after_the_run(tiny: Path, tmp_path: Path, small: None) -> None:
    write(tmp_path / "pool.jsonl", 120)
    recipe = read(RECIPE, tiny)
    runtime = Runtime(store=tmp_path / "store", runs=tmp_path / "runs", workers=1, device="cpu")
    foretold = {line.stage: line for line in plan(recipe, runtime, tmp_path, quiet=True).planned if line.stage in STAGES}
    assert set(foretold) == STAGES
    for line in foretold.values():
        assert (line.count, line.found, line.unknown) == (1, [], "") and 0 < line.low <= line.seconds <= line.high, line
    with session_of(recipe, runtime, tmp_path, quiet=True) as session:
        run(recipe, session, "select")
    made = {stage["stage"]: (stage["label"], stage["key"]) for stage in session.stages if stage["stage"] in STAGES}
    assert {stage: label for stage, (label, _) in made.items()} == {stage: line.labels[0] for stage, line in foretold.items()}
    there = {one: keys for one, keys in looked_up(recipe, runtime, tmp_path).items() if one[0] in STAGES}
    assert there == {(stage, label): {key: True} for stage, (label, key) in made.items()}
    more = looked_up(recipe.model_copy(update={"seeds": [0, 1, 2]}), runtime, tmp_path)  # which rows it takes is not known
    assert {stage for stage, _ in more if stage in STAGES} == STAGES - {"recheck"}


def looked_up(recipe: Recipe, runtime: Runtime, folder: Path) -> dict[tuple[str, str], dict[str, bool]]:
    """What a plan of the recipe sees, by stage and label: key, and whether it is there."""
    lookup = lookup_session(runtime.store, runtime.runs, folder, "cpu", 1, None)
    look_up(recipe, lookup)
    return lookup.seen


SECONDS = Line.through([Point(100.0, 1.0), Point(200.0, 2.0)], cold=False)  # a hundredth of a second a token
SEEN = {("leaks", "pool (leaks)"): {"a": False}, ("duplicates", "pool (duplicates)"): {"b": False}, ("clean", "pool"): {"c": False}}


def test_leaks_grow_with_the_pool_and_with_the_items_and_pairs_with_the_square() -> None:
    leaks = Cost(SECONDS, SECONDS, 1000, each=0.5, items=10.0)
    assert leaks.seconds(5000.0, 10.0, 500.0).middle == pytest.approx(50.0)
    assert leaks.seconds(5000.0, 30.0, 500.0).middle == pytest.approx(50.0 + 0.5 * 20)
    assert leaks.seconds(5000.0, 30.0, 500.0, processes=5).middle == pytest.approx(10.0 + 0.5 * 20 + 0.5 * 30)  # each makes the items ready
    steep = Cost(SECONDS, SECONDS, 1000, pairs=[Point(10.0, 1.0), Point(20.0, 4.0)], comparing=0.25)
    assert steep.seconds(200.0, 0.0, 20.0).middle == pytest.approx(2.0)  # what was measured holds its own pairs
    assert steep.seconds(2000.0, 0.0, 200.0).middle == pytest.approx(20.0 + 4 * (100 - 10) * 0.25)
    level = Cost(SECONDS, SECONDS, 1000, pairs=[Point(10.0, 1.0), Point(20.0, 2.0)], comparing=0.25)
    span = level.seconds(2000.0, 0.0, 200.0)
    assert span.middle == pytest.approx(20.0) and span.high == pytest.approx(1.5 * (20.0 + 2 * (100 - 10) * 0.25))


def test_workers_are_waited_for_once_where_the_pool_has_several_shards() -> None:
    costs = {label: Cost(SECONDS, SECONDS, 1000) for label in SEEN}
    workers = Workers(2, start=7.0, load=3.0)
    lines = {line.stage: line for line in hygiene_lines(costs, SEEN, Whole(40_000, 200.0, 0.0), workers)}
    assert lines["leaks"].seconds == pytest.approx(1.0 + 7.0) and lines["duplicates"].seconds == pytest.approx(1.0)
    assert lines["clean"].seconds == pytest.approx(2.0) and lines["duplicates"].memory == 2 * 1000 + 40 * 40_000
    assert workers.waiting(2) == 3.0
    alone = {line.stage: line for line in hygiene_lines(costs, SEEN, Whole(900, 200.0, 0.0), Workers(2, start=7.0))}
    assert alone["leaks"].seconds == pytest.approx(2.0)
    failed = list(hygiene_lines({}, SEEN, Whole(900, 200.0, 0.0), workers))
    assert all(line.unknown and line.missing for line in failed)


def test_vectors_of_rows_and_of_questions_share_a_line_and_comparing_all_grows_with_the_square() -> None:
    label, semantic = ("vectors", "pool (vectors of embed)"), ("semantic", "pool (semantic duplicates)")
    seen = {semantic: {"d": False}, label: {"a": True, "b": False}}
    grown = [Point(10.0, 0.1), Point(100.0, 1.0), Point(200.0, 4.0)]
    costs = {label: Cost(SECONDS, SECONDS, 1000, count=2), semantic: Cost(SECONDS, SECONDS, 1000, grown=grown)}
    lines = list(hygiene_lines(costs, seen, Whole(2000, 200.0, 0.0), Workers(1)))
    assert [(line.stage, line.count, line.found) for line in lines] == [("vectors", 2, ["a"]), ("semantic", 1, [])]
    assert lines[0].seconds == pytest.approx(1.0) and lines[1].seconds == pytest.approx(4.0 * 100, rel=0.01)
    assert next(hygiene_lines(costs, {label: {"a": True, "b": True}}, Whole(2000, 200.0, 0.0), Workers(1))).missing == 0


def test_rows_taken_are_a_union_of_the_largest_budget_of_each_draw(tiny: Path) -> None:
    recipe = read(RECIPE.replace("budgets: [8]", "budgets: [8, 20]"), tiny)
    pool = Examples(np.arange(100).astype(str), np.full(100, 2), np.ones(100, np.int64), np.full(100, ""), [])
    assert shares_taken(recipe, pool) == [0.2] * 5  # random and the control by two seeds each, and one arm that draws nothing
    costs = {("leaks", "pool (leaks)"): Cost(SECONDS, SECONDS, 1000)}
    line = next(again_line(recipe, costs, {}, Whole(100, 200.0, 0.0), pool))
    assert line.seconds == pytest.approx(2.0 * (1 - 0.8**5), abs=0.01)
    untidy = recipe.model_copy(update={"hygiene": recipe.hygiene.model_copy(update={"decontaminate": False})})
    assert list(again_line(untidy, costs, {}, Whole(100, 200.0, 0.0), pool)) == []


@pytest.mark.parametrize(("sample", "limit"), [(600, None), (600, 100)])
def test_a_target_drawn_from_the_file_that_is_evaluated_on_leaves_rows_to_ask(
    sample: int, limit: int | None, tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `curate init` writes it, but with a sample at least as large as a miniature."""
    rows = 1000
    (tmp_path / "want.jsonl").write_text("".join(json.dumps({"prompt": f"Count {n} pears.", "completion": f"{n}"}) + "\n" for n in range(rows)))
    write(tmp_path / "pool.jsonl", 60)
    data = f"{{path: want.jsonl{f', limit: {limit}' if limit else ''}}}"
    text = RECIPE.replace("{{synthetic: target, rows: 6, group: kind}}", f"{{{{path: want.jsonl, sample: {sample}}}}}")
    recipe = read(text.replace("{{synthetic: test, rows: 8}}", f"{{{data}}}"), tiny)
    runtime = Runtime(store=tmp_path / "store", runs=tmp_path / "runs", workers=1, device="cpu")
    asked: dict[str, float] = {}
    monkeypatch.setattr(planning, "evaluation_line", lambda recipe, model, items, *rest: asked.update(items) or evaluation_line(recipe, model, items, *rest))
    made = plan(recipe, runtime, tmp_path, quiet=True)
    assert not any(line.unknown for line in made.planned)
    if limit is None:
        assert asked["likelihood"] == pytest.approx(rows - sample, abs=10)


def test_an_evaluation_in_miniature_has_no_row_of_a_target(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "want.jsonl").write_text("".join(json.dumps({"prompt": f"Count {n} pears.", "completion": f"{n}"}) + "\n" for n in range(700)))
    text = RECIPE.replace("{{synthetic: target, rows: 6, group: kind}}", "{{path: want.jsonl, sample: 600}}")
    recipe = read(text.replace("{{synthetic: test, rows: 8}}", "{{path: want.jsonl}}"), tiny)
    small = Miniatures(recipe, tmp_path, resolve(recipe.model, tmp_path), Store(tmp_path / "scratch"))
    target, items = small.sample("target"), small.sample("evaluation likelihood")
    assert not {row.key for row in target.rows} & {row.key for row in items.rows} and len(items.rows) >= 200
    assert small.in_targets("evaluation likelihood") == pytest.approx(600)
    assert (target.kept, items.kept) == (600, 700)


PROFILES = {
    "{kind: laptop}": 5,
    "{kind: laptop, workers: 2}": 2,
    "{kind: slurm}": 1,
    "{kind: slurm, workers: 4}": 4,
    "{kind: slurm, adaptive: {minimum: 1, maximum: 6}}": 6,
    "{kind: ssh, hosts: [a, b], workers_per_host: 3}": 6,
    "{kind: kubernetes, image: a/b}": 2,
    "{kind: scheduler, address: 'tcp://127.0.0.1:8786', workers: 7}": 7,
}


@pytest.mark.parametrize("text", PROFILES)
def test_a_plan_counts_the_workers_that_a_launcher_of_the_profile_has(text: str) -> None:
    profile = parse_profile(load_yaml(text.encode(), "profile.yaml"))
    assert workers_in(profile, 5) == PROFILES[text] == launcher_of(profile, ANYWHERE, 5, insecure=True).workers


def test_a_profile_gives_the_workers_and_nothing_is_started(
    tiny: Path, tmp_path: Path, command_line: Command, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*arguments: object, **named: object) -> None:
        raise AssertionError("a plan started something")

    for place in ("curate.clusters.started.Started.start", "subprocess.Popen.__init__", "curate.cluster.Laptop"):
        monkeypatch.setattr(place, started)
    write(tmp_path / "pool.jsonl", 60)
    (tmp_path / "tidy.yaml").write_text(RECIPE.format(model=tiny))
    name = "slurm.yaml"
    (tmp_path / name).write_text("kind: slurm\nadaptive: {minimum: 1, maximum: 6}\n")
    words = ["plan", tmp_path / "tidy.yaml", "--profile", tmp_path / name, "--store", tmp_path / "store", "--runs", tmp_path / "runs", "--quiet"]
    assert command_line(*words) == 0
    kind, said = name.partition(".")[0], " ".join(capsys.readouterr().out.split())
    assert f"for a run on cpu with 6 workers of {kind}" in said
    assert f"how fast the workers of {kind} are, and how long they take to start, is not foretold" in said
    made = Plan.model_validate_json((tmp_path / "runs" / "tidy" / "plan.json").read_bytes())
    assert (made.workers, made.profile) == (6, kind) and next(line.at_once for line in made.planned if line.stage == "train") == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [("kind: slurm\nworker: 3\n", "worker"), ("kind: cloud\n", "kind is 'cloud'"), ("kind: gpus\n", "torch sees 0 here")],
)
def test_a_profile_that_a_run_would_refuse_is_one_line(
    text: str, said: str, tiny: Path, tmp_path: Path, command_line: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "pool.jsonl", 60)
    (tmp_path / "tidy.yaml").write_text(RECIPE.format(model=tiny))
    (tmp_path / "bad.yaml").write_text(text)
    places = ("--store", tmp_path / "store", "--runs", tmp_path / "runs", "--device", "cpu", "--quiet")
    assert command_line("plan", tmp_path / "tidy.yaml", "--profile", tmp_path / "bad.yaml", *places) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_plan_of_a_pool_that_grew_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    grown = Recipe.model_validate({**read(RECIPE, tiny).model_dump(), "growth": [{"remove": "gone.txt"}]})
    with pytest.raises(ConfigError, match="^growth: a plan does not foretell steps of growth.*leave growth out"):
        plan(grown, Runtime(store=tmp_path / "store", runs=tmp_path / "runs"), tmp_path, quiet=True)
