"""The campaign against clusters sees what is wrong after a run, counts what did not land, and catches bugs that are put in by hand."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from campaign.cluster_faults import Outcome, counts, swept
from campaign.cluster_faults_acts import ACTS
from campaign.cluster_faults_ground import Ground, Size, Trial, kept
from campaign.command import finish
from campaign.poison import DEEDS, registered
from campaign.small_experiment import NAME
from curate.intact import canonical, file_digests, sealed

TINY = Size(280, 0.0)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("campaign"), 0)


@pytest.fixture(scope="module")
def finished(ground: Ground) -> Path:
    """A run in one process that sets one row aside, which is its own reference."""
    place = ground.lay("finished", TINY)
    code, _ = finish(ground.command(1), place, ground.scratch / "finished.said", ground.variables(TINY, ground.scratch / "marks", {"7": "nan"}))
    assert code == 0, (ground.scratch / "finished.said").read_text()
    ground.references[TINY, ("7",)] = kept(place)
    assert ground.wrong_with(place, TINY, {"7": "not_finite"}) == []
    return place


def shard(place: Path, ending: str) -> Path:
    return next(iter(sorted(place.glob(f"store/features-*/shard-000000{ending}"))))


def flip(place: Path) -> None:
    path = shard(place, ".safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def other_reason(place: Path) -> None:
    path = shard(place, ".safetensors.json")
    path.write_text(path.read_text().replace("not_finite", "killed_worker"))


def other_row(place: Path) -> None:
    path = shard(place, ".safetensors.json")
    path.write_text(path.read_text().replace('"000007"', '"000008"'))


def test_another_reason_is_no_other_content_whatever_the_manifest_says_of_it(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "other"
    shutil.copytree(finished, place)
    other_reason(place)
    sidecar = shard(place, ".safetensors.json")
    path = sidecar.parent / "manifest.json"
    manifest = json.loads(path.read_text().replace("not_finite", "killed_worker"))
    manifest["files"][sidecar.name] = {"bytes": sidecar.stat().st_size, "blake2b": file_digests([sidecar])[0]}
    path.write_bytes(canonical(sealed(manifest)))
    assert path.read_bytes() != (finished / path.relative_to(place)).read_bytes()
    assert kept(place) == kept(finished)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another byte": (flip, "has other contents"),
    "another reason": (other_reason, "set aside are"),
    "another row": (other_row, "set aside are"),
    "a stray file": (lambda place: (place / "store" / ".part" / "left").mkdir(), "is stray"),
    "a lost selection": (lambda place: shutil.rmtree(next(iter(place.glob("store/selection-*")))), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_after_a_run_is_seen(ground: Ground, finished: Path, tmp_path: Path, damage: str) -> None:
    place = tmp_path / "place"
    shutil.copytree(finished, place)
    do, said = DAMAGES[damage]
    do(place)
    assert any(said in line for line in ground.wrong_with(place, TINY, {"7": "not_finite"}))


def trial_of(ground: Ground, place: Path) -> Trial:
    return Trial(ground, "test", 0, TINY, place, random.Random(0))


def test_tasks_done_twice_and_deaths_without_a_fault_are_seen(ground: Ground, tmp_path: Path) -> None:
    trial = trial_of(ground, tmp_path)
    trial.log.parent.mkdir(parents=True)
    events = [{"label": "odd", "task": "a", "ended": "done"}, {"label": "odd", "task": "b", "ended": "killed_worker"}]
    trial.log.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"label": "torn')
    trial.commands = [None]  # type: ignore[list-item]
    trial.count(1)
    assert trial.wrong == [] and trial.figures == {"executions": 2, "deaths": 1}
    trial.count(0)
    assert trial.wrong == ["1 deaths of tasks were noted, more than 0 faults"]
    trial.log.write_text(trial.log.read_text().replace('{"label": "torn', json.dumps(events[0])))
    trial.count()
    assert trial.wrong[1:] == ["a of odd was done 2 times by 1 commands"]


def test_faults_that_did_not_land_are_no_passes() -> None:
    outcomes = [Outcome("worker", number, 3, landed, "", wrong, 1.0) for number, (landed, wrong) in enumerate([(3, []), (2, []), (3, ["bad"])])]
    found = counts(outcomes)
    assert (found["planned"], found["landed"], found["not_landed"], found["passed"], found["failed"]) == (3, 2, 1, 1, 1)


def test_a_trial_whose_faults_came_too_late_is_drawn_anew_and_counts_as_not_landed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    landed, attempts, said = iter([1, 3, 2, 2, 2]), [], list[str]()

    def tried(ground: Ground, kind: str, number: int, attempt: int) -> Outcome:
        attempts.append((number, attempt))
        return Outcome(kind, number, 3, next(landed), "", [], 1.0)

    monkeypatch.setattr("campaign.cluster_faults.tried", tried)
    found = swept(None, "worker", [0, 1], said.append)  # type: ignore[arg-type]
    assert [one.passed for one in found] == [True, False] and attempts == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert sum("had ended" in line for line in said) == 4 and said[-1].startswith("  worker:1 NOT LANDED (2 of 3)")


def test_every_deed_and_every_kind_has_its_turn() -> None:
    assert {DEEDS[number % len(DEEDS)] for number in range(12)} == set(DEEDS)
    assert set(ACTS) == {"worker", "task", "driver", "scheduler", "nanny", "freeze", "frozen", "poison", "alone", "late"}


@pytest.mark.campaign
def test_tasks_that_end_their_process_change_nothing(ground: Ground) -> None:
    (outcome,) = swept(ground, "task", [0], print)
    assert outcome.passed and outcome.landed == 3, outcome


BUGS = {
    "names another reason": "import curate.remedy as r\ninit = r.Died.__init__\nr.Died.__init__ = lambda self, reason: init(self, 'hung_worker')\n",
    "forgets its starts": "import curate.journal as j\nj.JournalFile.append = lambda self, entry: None\n",
}


@pytest.mark.campaign
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_put_in_is_caught(tmp_path: Path, bug: str) -> None:
    ground = Ground(tmp_path, 0)
    (registered(tmp_path / "registered") / "sitecustomize.py").write_text(BUGS[bug])
    (outcome,) = swept(ground, "alone", [0], print)
    assert outcome.landed and outcome.wrong, outcome


def test_the_recipe_of_the_campaign_is_valid(ground: Ground, finished: Path) -> None:
    assert json.loads((finished / f"{NAME}.yaml").read_text())["features"] == {"odd": {"name": "campaign_poison"}}
