"""What a report shows of selections is what anyone would count from the stored rows, features and manifests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate.core import Examples
from curate.data.examples import open_examples
from curate.features import open_features
from curate.overlap import jaccard_by_chance
from curate.pipelines.describe import Described, describe_experiment
from curate.pipelines.describe_length import length_alarms
from curate.pipelines.experiment import Experiment, run
from curate.pipelines.explain import explain
from curate.pipelines.launch import execute, session_of
from curate.pipelines.select import read_selection
from curate.pipelines.session import Session
from curate.recipe import Recipe, Runtime, read_recipe

RECIPE = """
name: seen
pool: {{synthetic: pool, rows: 160, group: kind}}
target:
  desk: {{synthetic: target, rows: 16, group: skill, where: {{kind: desk routing}}}}
  both: {{synthetic: target, rows: 16, seed: 1, group: kind}}
per_target: true
model: {{path: {model}, max_length: 96}}
features: {{hidden: rds, words: bm25, surprise: loss}}
arms:
  rr: {{vectors: hidden, selector: round_robin}}
  lexical: {{similarity: words, selector: round_robin}}
  hard: {{scores: surprise, selector: top_k}}
  coverage: {{scores: surprise, selector: coverage}}
  ruled: {{vectors: hidden, selector: facility_location, rules: {{tokens: [10, 18]}}}}
  moved: {{vectors: hidden, selector: transport}}
budgets: ["300 tokens", 12]
seeds: [0, 1]
baselines: [random]
controls: {{length_matched_random: [hard]}}
evaluate: {{task: likelihood, data: {{synthetic: test, rows: 10}}}}
"""


@dataclass
class Seen:
    """A run that stopped after selecting, what was said of it, and the numbers behind it."""

    recipe: Recipe
    session: Session
    experiment: Experiment
    described: Described
    pool: Examples

    def rows(self, arm: str, target: str, budget: str, seed: int) -> list[int]:
        """The rows of one selection, best first."""
        found = [one for one in self.experiment.chosen if (one.arm, str(one.budget), one.seed) == (arm, budget, seed) and one.target in ("", target)]
        assert len(found) == 1
        return [int(row) for row in read_selection(found[0].artifact)["row"]]

    def vectors(self, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of pool and target in the feature `hidden`."""
        aim = self.experiment.aims[target]
        artifacts = aim.features["hidden"].vectors
        assert artifacts is not None
        examples = (self.pool, open_examples(aim.target.path))
        found = [np.asarray(open_features(rows, artifact)[0].vectors[:], np.float64) for rows, artifact in zip(examples, artifacts, strict=True)]
        one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in found)
        return one, other

    def scores(self) -> np.ndarray:
        """The loss of every row of the pool."""
        return np.asarray(open_features(self.pool, scores=self.experiment.aims[0].features["surprise"].scores)[0].scores)


@pytest.fixture(scope="module")
def seen(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    (folder / "seen.yaml").write_text(RECIPE.format(model=tiny))
    recipe = read_recipe(folder / "seen.yaml")
    runtime = Runtime(store=folder / "store", runs=folder / "runs", workers=1)
    with session_of(recipe, runtime, folder, quiet=True) as session:
        experiment = run(recipe, session, "select")
        yield Seen(recipe, session, experiment, describe_experiment(session, experiment), open_examples(experiment.pool.path))


PLACES = [(target, budget) for target in ("desk", "both") for budget in ("300 tokens", "12")]
ARMS = ["random", "rr", "lexical", "hard", "coverage", "ruled", "moved", "length_matched_random:hard"]


def at(entries: list[Any], target: str, budget: str) -> list[Any]:
    return [entry for entry in entries if (entry.target, entry.budget) == (target, budget)]


@pytest.mark.parametrize(("target", "budget"), PLACES)
def test_overlaps_are_means_over_seeds_of_what_sets_share(seen: Seen, target: str, budget: str) -> None:
    (found,) = at(seen.described.overlaps, target, budget)
    assert found.arms == ARMS
    for i, one in enumerate(ARMS):
        for j, other in enumerate(ARMS):
            pairs = [(set(seen.rows(one, target, budget, seed)), set(seen.rows(other, target, budget, seed))) for seed in (0, 1)]
            assert found.jaccard[i][j] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairs]))
            assert found.by_chance[i][j] == pytest.approx(np.mean([jaccard_by_chance(len(a), len(b), len(seen.pool)) for a, b in pairs]))


@pytest.mark.parametrize(("target", "budget"), PLACES)
def test_stability_is_of_arms_whose_seeds_draw(seen: Seen, target: str, budget: str) -> None:
    found = {entry.arm: entry for entry in at(seen.described.stabilities, target, budget)}
    assert list(found) == ["random", "coverage", "length_matched_random:hard"]
    for arm, entry in found.items():
        one, other = (set(seen.rows(arm, target, budget, seed)) for seed in (0, 1))
        assert (entry.seeds, entry.always, entry.sometimes) == (2, len(one & other), len(one ^ other))
        assert entry.jaccard == pytest.approx(len(one & other) / len(one | other))


@pytest.mark.parametrize(("target", "budget"), PLACES)
def test_spreads_count_every_row_once(seen: Seen, target: str, budget: str) -> None:
    lengths, difficulty = at(seen.described.spreads, target, budget)
    assert (lengths.what, difficulty.what) == ("length in tokens", "surprise")
    for entry, values in ((lengths, seen.pool.lengths), (difficulty, seen.scores())):
        assert list(entry.arms) == ARMS and sum(entry.pool) == pytest.approx(1)
        for arm in ("pool", *ARMS):
            groups = [values] if arm == "pool" else [values[seen.rows(arm, target, budget, seed)] for seed in (0, 1)]
            shares = entry.pool if arm == "pool" else entry.arms[arm]
            edges = [*entry.edges[:-1], entry.edges[-1] + 1e-9]
            counted = [[np.mean([low <= value < high for value in own]) for low, high in zip(edges[:-1], edges[1:], strict=True)] for own in groups]
            assert shares == pytest.approx(np.mean(counted, axis=0).tolist())
            assert entry.medians[arm] == pytest.approx(np.mean([np.median(own) for own in groups]))


@pytest.mark.parametrize(("target", "budget"), PLACES)
def test_trades_are_mean_cosines_to_the_nearest_row_taken(seen: Seen, target: str, budget: str) -> None:
    pool, goals = seen.vectors(0 if target == "desk" else 1)
    found = {entry.arm: entry for entry in at(seen.described.trades, target, budget)}
    assert list(found) == ARMS
    for arm, entry in found.items():
        taken = [seen.rows(arm, target, budget, seed) for seed in (0, 1)]
        assert entry.feature == "hidden"
        assert entry.to_target == pytest.approx(np.mean([(goals @ pool[rows].T).max(1).mean() for rows in taken]), abs=1e-5)
        assert entry.to_pool == pytest.approx(np.mean([(pool @ pool[rows].T).max(1).mean() for rows in taken]), abs=1e-5)
        assert entry.quality == pytest.approx(np.mean([seen.scores()[rows].mean() for rows in taken]), abs=1e-6)


def test_the_map_is_the_plane_of_pool_and_target_together(seen: Seen) -> None:
    from sklearn.decomposition import PCA

    for number, target in enumerate(("desk", "both")):
        pool, goals = seen.vectors(number)
        known = PCA(2, svd_solver="full").fit(np.concatenate([pool, goals]))
        for entry in seen.described.maps:
            if entry.target == target:
                signs = np.sign((np.array(entry.pool) * known.transform(pool)).sum(0))
                assert np.array(entry.pool) == pytest.approx(known.transform(pool) * signs, abs=1e-4)
                assert np.array(entry.targets) == pytest.approx(known.transform(goals) * signs, abs=1e-4)
                assert entry.explained == pytest.approx(known.explained_variance_ratio_.sum(), rel=1e-4)
                assert list(entry.arms) == ARMS[:-1] and entry.groups["pool"] == seen.pool.groups.tolist()
                for arm, points in entry.arms.items():
                    rows = seen.rows(arm, target, entry.budget, 0)
                    assert np.sort(points, axis=0) == pytest.approx(np.sort(np.array(entry.pool)[rows], axis=0), abs=1e-4)


@pytest.mark.parametrize(("target", "budget"), PLACES)
def test_flows_move_all_mass_between_the_groups(seen: Seen, target: str, budget: str) -> None:
    found = at(seen.described.flows, target, budget)
    several = [arm for arm in ARMS[:-1] if target == "both" or len(set(seen.pool.groups[seen.rows(arm, target, budget, 0)].tolist())) > 1]
    assert [entry.arm for entry in found] == several
    for entry in found:
        mass, rows = np.array(entry.mass), seen.rows(entry.arm, target, budget, 0)
        assert (mass >= 0).all() and mass.sum() == pytest.approx(1)
        shares = dict(zip(entry.taken, mass.sum(1), strict=True))
        assert shares == pytest.approx({name: float(np.mean(seen.pool.groups[rows] == name)) for name in set(seen.pool.groups[rows].tolist())})
        assert sorted(entry.wanted) == (["desk routing", "signal flag"] if target == "both" else ["desk routing"])
        assert mass.sum(0) == pytest.approx(np.full(mass.shape[1], 1 / mass.shape[1]))


def test_curves_are_those_of_the_manifests_with_the_first_seed(seen: Seen) -> None:
    kept = {(entry.arm, entry.budget, entry.seed, entry.name) for entry in seen.described.curves if entry.target == "desk"}
    assert {arm for arm, *_ in kept} == {"moved"} and {seed for _, _, seed, _ in kept} == {0}  # coverage's are by stratum, and over no steps
    for one in (one for one in seen.experiment.chosen if one.seed == 0 and one.target):
        for name, values in one.artifact.manifest["summary"]["curves"].items() if one.arm != "coverage" else ():
            entries = [entry for entry in at(seen.described.curves, one.target, str(one.budget)) if (entry.arm, entry.name) == (one.arm, name)]
            assert [entry.values for entry in entries] == [values]


def test_longer_is_counted_over_all_pairs_and_the_alarm_names_the_arm_once(seen: Seen) -> None:
    lengths = seen.pool.lengths
    for one in seen.experiment.chosen:
        rows = read_selection(one.artifact)["row"]
        pairs = np.sign(lengths[rows][:, None] - np.delete(lengths, rows)).mean()
        assert seen.described.longer[one.artifact.key] == pytest.approx((1 + pairs) / 2)
    alarms = length_alarms(seen.recipe, seen.experiment, seen.described.longer)
    shares = {(one.arm, one.target, str(one.budget)): seen.described.longer[one.artifact.key] for one in seen.experiment.chosen if one.arm in ("rr", "hard")}
    wanted = {(arm, target) for (arm, target, _), share in shares.items() if abs(share - 0.5) > 0.2}
    assert wanted and {(arm, target) for arm, target in wanted if any(f"arm {arm} for {target}, budget" in line for line in alarms)} == wanted
    assert len({line.split(", budget")[0] for line in alarms}) == len(alarms) and not any("random" in line.split(":")[0] for line in alarms)


def test_the_rows_shown_are_the_best_taken_and_the_nearest_left_with_reasons_that_hold(seen: Seen) -> None:
    assert {entry.budget for entry in seen.described.shown} == {"12"}
    scores = seen.scores()
    for number, target in enumerate(("desk", "both")):
        pool, goals = seen.vectors(number)
        alike = pool @ goals.T
        for arm in ARMS[:-1]:
            rows = seen.rows(arm, target, "12", 0)
            found = [entry for entry in at(seen.described.shown, target, "12") if entry.arm == arm]
            places = [int(np.flatnonzero(seen.pool.ids == entry.id)[0]) for entry in found]
            assert places[:3] == rows[:3] and [entry.rank for entry in found] == [1, 2, 3, *[None] * (len(found) - 3)]
            assert not set(places[3:]) & set(rows)
            for place, entry in zip(places, found, strict=True):
                assert entry.text.startswith(f"user: {seen.pool.rows[place].content.turns[0][1][:20]}") and entry.tokens == seen.pool.lengths[place]
                assert entry.reason.startswith(f"rank {entry.rank} of 12") if entry.taken else "rank" not in entry.reason
            left = [row for row in range(len(seen.pool)) if row not in rows]
            if arm in ("rr", "ruled"):
                assert alike[places[3:]].max(1).tolist() == pytest.approx(sorted(alike[left].max(1).tolist(), reverse=True)[:3], abs=1e-5)
            if arm == "rr":
                goal = int(alike[places[3]].argmax())
                who = rows[int(alike[rows, goal].argmax())]
                most = rows[int((pool[rows] @ pool[places[3]]).argmax())]
                assert found[3].reason == (
                    f"nearest target row at cosine {alike[places[3], goal]:.3f}, where {str(seen.pool.ids[who])[:12]}, the nearest row taken, is at "
                    f"{alike[who, goal]:.3f}; of the rows taken {str(seen.pool.ids[most])[:12]} is most like it (cosine {pool[most] @ pool[places[3]]:.3f})"
                )
                assert found[3].nearest[0].startswith(f"cosine {alike[places[3], goal]:.3f}: user: ")
            if arm == "hard":
                assert places[3:] == sorted(left, key=lambda row: -scores[row])[:3]
                assert f"score {scores[places[3]]:.3g} is below those of all rows taken" in found[3].reason
                assert f"above {(scores < scores[places[0]]).mean():.0%} of the pool" in found[0].reason
            if arm == "random":
                assert len(found) == 3 and found[0].reason == "rank 1 of 12, drawn at random"
            if arm == "ruled":
                for place, entry in zip(places[3:], found[3:], strict=True):
                    tokens = int(seen.pool.lengths[place])
                    said = entry.reason == f"it has {tokens} tokens, and the arm's rules allow 10 to 18"
                    assert said == (not 10 <= tokens <= 18) and "target" not in entry.reason
                    assert entry.nearest[0].startswith(f"cosine {alike[place].max():.3f}: ") and (said or "is most like it" in entry.reason)
                assert all("target" not in entry.reason for entry in found)


def test_a_row_is_explained_for_every_target_and_results_hold_what_was_described(seen: Seen, tmp_path: Path) -> None:
    store = seen.session.store.root
    runtime = Runtime(store=store, runs=tmp_path, workers=1)
    results = execute(seen.recipe, runtime, seen.session.folder, until="select", command="", quiet=True)
    assert (results.overlaps, results.shown, results.maps) == (seen.described.overlaps, seen.described.shown, seen.described.maps)
    row = 5
    found = explain(tmp_path / "seen", store, str(seen.pool.ids[row]))
    values = {(feature.feature, feature.target): feature.value for feature in found.features}
    for number, target in enumerate(("desk", "both")):
        pool, goals = seen.vectors(number)
        assert values["hidden", target] == pytest.approx((goals @ pool[row]).max(), abs=1e-5)
    assert set(values) == {("hidden", "desk"), ("hidden", "both"), ("words", "desk"), ("words", "both"), ("surprise", None)}
    alone = explain(tmp_path / "seen", store, str(seen.pool.ids[row]), "ruled")
    assert [(feature.feature, feature.target) for feature in alone.features] == [("hidden", "desk")]  # the target that it was run beside
    fates = {(fate.arm, fate.target, fate.budget) for fate in found.fates}
    assert {("rr", "desk", "12"), ("rr", "both", "12"), ("ruled", None, "12"), ("random", None, "300 tokens")} <= fates
    assert all("target" not in fate.reason for fate in found.fates if fate.arm == "ruled")


def test_nothing_is_described_before_rows_were_selected(seen: Seen) -> None:
    early = run(seen.recipe, seen.session, "score")
    assert describe_experiment(seen.session, early) == Described()
