"""`explain` says of a row what its features and every selection say, and changes nothing."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from curate.core import Examples
from curate.data.examples import open_examples, quarantined
from curate.errors import DataError, IntegrityError
from curate.features import map_tensors
from curate.pipelines.explain import explain
from curate.pipelines.launch import execute, read_results
from curate.recipe import Runtime, read_recipe
from curate.report.explained import Explained, Fate, FeatureOfRow, Instead, NearTarget, print_explained
from curate.report.results import QuarantinedRow, Results

RECIPE = """
name: told
pool: {{synthetic: pool, rows: 90, group: kind}}
target: {{rare: {{synthetic: target, rows: 8, group: kind}}}}
model: {{path: {model}, max_length: 30}}
hygiene: {{quarantine_limit: 60%}}
features: {{hidden: rds, words: bm25, surprise: loss}}
arms:
  rr: {{vectors: hidden, selector: round_robin}}
  lexical: {{similarity: words, selector: round_robin}}
  hard: {{scores: surprise, selector: top_k}}
budgets: [6, 20]
seeds: [0, 1, 2]
baselines: [random]
controls: [length_matched_random]
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""


class Told:
    """The folder of a finished run, and its pool."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.store = folder / "runs" / "told", folder / "store"
        self.results: Results = read_results(self.runs)
        stages = json.loads((self.runs / "run.json").read_bytes())["stages"]
        self.keys = {stage["label"]: stage["key"] for stage in stages}
        self.pool: Examples = open_examples(self.store / self.keys["pool"])

    def explain(self, row: int | str, arm: str | None = None) -> Explained:
        return explain(self.runs, self.store, str(self.pool.ids[row]) if isinstance(row, int) else row, arm)

    def taken(self, arm: str, budget: str) -> list[list[int]]:
        """The rows of every seed."""
        import pyarrow.parquet as pq

        keys = [row.key for row in self.results.selections if (row.arm, row.budget) == (arm, budget)]
        return [pq.read_table(self.store / key / "selection.parquet")["row"].to_pylist() for key in keys]

    def gains(self, arm: str, budget: str) -> list[float]:
        """What the rows of the first seed added."""
        import pyarrow.parquet as pq

        key = next(row.key for row in self.results.selections if (row.arm, row.budget) == (arm, budget))
        gains: list[float] = pq.read_table(self.store / key / "selection.parquet")["gain"].to_pylist()
        return gains

    def stored(self, label: str) -> np.ndarray:
        """The values of a feature's only shard."""
        return np.array(map_tensors(self.store / self.keys[label] / "shard-000000.safetensors")["values"], np.float64)


@pytest.fixture(scope="module")
def told(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("told")
    (folder / "told.yaml").write_text(RECIPE.format(model=tiny))
    runtime = Runtime(store=folder / "store", runs=folder / "runs", workers=1)
    execute(read_recipe(folder / "told.yaml"), runtime, folder, until="select", command="", quiet=True)
    return Told(folder)


def cosines(told: Told) -> np.ndarray:
    pool, target = told.stored("hidden (pool)"), told.stored("hidden (target)")
    return (pool / np.linalg.norm(pool, axis=1, keepdims=True)) @ (target / np.linalg.norm(target, axis=1, keepdims=True)).T


def test_every_arm_and_budget_says_with_how_many_seeds_it_took_the_row_and_where(told: Told) -> None:
    for row in (told.taken("rr", "6")[0][2], told.taken("random", "20")[1][3], 0):
        found = told.explain(row)
        assert (found.id, found.tokens, found.group) == (str(told.pool.ids[row]), told.pool.lengths[row], told.pool.groups[row])
        assert found.text.startswith("user: ") and found.source["kind"] == found.group and found.text.split("\n")[0][6:] in found.source["prompt"]
        arms = ["random", "rr", "lexical", "hard", *(f"length_matched_random:{arm}" for arm in ("rr", "lexical", "hard"))]
        assert {(fate.arm, fate.budget) for fate in found.fates} == {(arm, budget) for arm in arms for budget in ("6", "20")}
        for fate in found.fates:
            seeds = told.taken(fate.arm, fate.budget)
            ranks = [own.index(row) + 1 for own in seeds if row in own]
            assert (fate.seeds, fate.taken, fate.ranks) == (3, len(ranks), ranks)
            assert fate.reason.startswith(f"rank {ranks[0]} of {fate.budget}") if ranks else "rank" not in fate.reason
            assert (fate.weight == 1) == bool(ranks) and (fate.instead is None or len(ranks) < 3)


def test_the_numbers_are_those_of_the_stored_features(told: Told) -> None:
    row, alike, scores = 7, cosines(told), told.stored("surprise (pool)")
    lexical = told.stored("words (pool)")
    features = {feature.feature: feature for feature in told.explain(row).features}
    assert list(features) == ["hidden", "words", "surprise"]
    targets = open_examples(told.store / told.keys["target"])
    for name, table in (("hidden", alike), ("words", lexical)):
        order = np.argsort(-table[row], kind="stable")[:3]
        assert [near.id for near in features[name].nearest] == [str(name) for name in targets.ids[order]]
        assert [near.alike for near in features[name].nearest] == pytest.approx(table[row, order], abs=1e-5)
        assert features[name].value == pytest.approx(table[row].max(), abs=1e-5)
        assert features[name].nearest[0].text == "\n".join(f"{role}: {said}" for role, said in targets.rows[int(order[0])].content.turns)
    assert features["surprise"].value == pytest.approx(scores[row]) and features["surprise"].below == np.mean(scores < scores[row])
    assert [feature.feature for feature in told.explain(row, "hard").features] == ["surprise"]


def test_a_row_that_was_left_has_the_row_taken_in_its_place(told: Told) -> None:
    vectors, lexical, scores = told.stored("hidden (pool)"), told.stored("words (pool)"), told.stored("surprise (pool)")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    row = next(row for row in range(len(told.pool)) if all(row not in told.taken(arm, "20")[0] for arm in ("rr", "lexical", "hard")))
    fates = {fate.arm: fate for fate in told.explain(row).fates if fate.budget == "20"}
    taken = {arm: told.taken(arm, "20")[0] for arm in ("rr", "lexical", "hard")}
    best = {
        "rr": max(taken["rr"], key=lambda other: float(vectors[other] @ vectors[row])),
        "lexical": max(taken["lexical"], key=lambda other: float(lexical[other, lexical[row].argmax()])),
        "hard": taken["hard"][-1],
    }
    for arm, other in best.items():
        instead = fates[arm].instead
        assert instead is not None and (instead.id, instead.rank) == (str(told.pool.ids[other]), taken[arm].index(other) + 1)
        assert instead.text.startswith("user: ") and instead.gain == pytest.approx(told.gains(arm, "20")[instead.rank - 1])
    assert fates["rr"].instead is not None and fates["rr"].instead.alike == pytest.approx(float(vectors[best["rr"]] @ vectors[row]), abs=1e-5)
    assert fates["hard"].instead is not None and fates["hard"].instead.score == pytest.approx(scores[best["hard"]])
    assert fates["rr"].reason.endswith(tuple("0123456789")) and "most like it" not in fates["rr"].reason
    assert fates["random"].instead is None and fates["random"].taken in (0, 1, 2, 3)


def test_a_row_that_was_set_aside_says_why_and_nothing_else(told: Told) -> None:
    aside = quarantined(told.store / told.keys["pool"])
    assert aside
    found = told.explain(aside[0]["id"])
    assert (found.quarantined[0].part, found.quarantined[0].reason, found.fates, found.features) == ("pool", "too_long", [], [])


def test_the_beginning_of_an_id_will_do_if_it_is_long_enough_and_only_one_has_it(told: Told) -> None:
    whole = str(told.pool.ids[4])
    assert told.explain(whole[:6]).id == whole
    aside = quarantined(told.store / told.keys["pool"])[0]["id"]
    assert told.explain(aside[:7]).id == aside
    with pytest.raises(DataError, match="too short for the beginning of one; give at least 6 characters"):
        told.explain(whole[:5])
    with pytest.raises(DataError, match=f"no row of the pool has the id '{whole}x', nor one that begins so; in the order of ids, {whole}"):
        told.explain(whole + "x")
    with pytest.raises(DataError, match="has no selection of arm 'rrr'; there are random, rr, lexical, hard, length_matched_random:rr"):
        told.explain(4, "rrr")


def test_ids_that_begin_alike_are_counted_and_a_whole_id_is_taken_at_its_word(tiny: Path, tmp_path: Path) -> None:
    rows = [{"name": name, "prompt": f"Say {name}.", "completion": name} for name in ("number-1", "number-10", "number-11", "7")]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = RECIPE.format(model=tiny).replace("{synthetic: pool, rows: 90, group: kind}", "{path: pool.jsonl, id: name}").replace("[6, 20]", "[2]")
    kept = [line for line in text.split("\n") if not line.startswith(("features", "arms", "  ", "controls"))]
    (tmp_path / "told.yaml").write_text("\n".join(kept))
    runtime = Runtime(store=tmp_path / "store", runs=tmp_path / "runs", workers=1)
    execute(read_recipe(tmp_path / "told.yaml"), runtime, tmp_path, until="select", command="", quiet=True)
    where = (tmp_path / "runs" / "told", tmp_path / "store")
    assert explain(*where, "number-1").id == "number-1" and explain(*where, "7").id == "7"
    with pytest.raises(DataError, match="3 rows of the pool have ids that begin with 'number', such as number-1, number-10, number-11; give more"):
        explain(*where, "number")


def test_nothing_is_changed_and_damage_is_an_error_that_stays_where_it_is(told: Told, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(told.store, copy)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*"))
    name = str(told.pool.ids[3])
    explain(told.runs, copy, name)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in copy.rglob("*")) == before
    shard = copy / told.keys["surprise (pool)"] / "shard-000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="differs from its recorded hash; run the recipe again"):
        explain(told.runs, copy, name)
    assert shard.is_file()
    shutil.rmtree(copy / told.keys["pool"])
    with pytest.raises(DataError, match="is missing; run the recipe again to compute it"):
        explain(told.runs, copy, name)


def test_the_terminal_shows_it_all_and_no_character_acts_on_it() -> None:
    instead = Instead(id="b" * 32, why="of the rows taken, most like it", kind="cosine", alike=0.97, rank=3, gain=0.25, text="other")
    feature = FeatureOfRow(feature="hidden", target="rare", kind="cosine", value=0.5, nearest=[NearTarget(id="t", alike=0.5, group="g", text="goal\x1b[31m")])
    fates = [
        Fate(arm="rr", target="rare", budget="6", seeds=3, taken=2, ranks=[4, 1], gain=0.125, weight=2.0, reason="rank 4 of 6", instead=instead),
        Fate(arm="random", target="rare", budget="6", seeds=3, taken=0, reason="not drawn"),
        Fate(arm="hard", budget="6", seeds=1, taken=1, ranks=[1], weight=1.0, reason="rank 1 of 6"),
    ]
    missing = FeatureOfRow(feature="surprise", kind="score", missing="not_finite")
    text, source = "user: hi [bold]\nassistant: yes", {"kind": "x" * 400}
    found = Explained(run="told", id="a" * 32, text=text, source=source, tokens=9, features=[feature, missing], fates=fates)
    console = Console(width=150, record=True, file=StringIO())
    print_explained(found, console)
    said = console.export_text()
    assert "stopped before" not in said
    print_explained(Explained(run="early", id="b", tokens=3), console)
    print_explained(Explained(run="early", id="c", quarantined=[QuarantinedRow(part="pool", id="c", reason="too_long", origin="a.jsonl:3")]), console)
    early = console.export_text()
    assert "the run stopped before it selected" in early and "set aside in pool (a.jsonl:3): too_long" in early
    assert f"row {'a' * 32} of told" in said and "user: hi [bold]" in said and "x" * 161 not in said and "\x1b" not in said
    assert "hidden for rare: cosine to the nearest target row 0.5" in said and "0.500  g  goal\\x1b[31m" in said and "surprise: no number, not_finite" in said
    assert "with 2 of 3 seeds" in said and "never" in said and "yes" in said and "target rare, budget 6" in said and "4, 1" in said
    assert "of the rows taken, most like it (cosine 0.970): bbbbbbbbbbbb, rank 3, gain 0.25: other" in said
