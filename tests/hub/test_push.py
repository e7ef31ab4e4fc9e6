"""P19, P21, E01 to E08: a push is one commit or none, private unless asked, a no-op the second time, and read back; the token is nowhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.errors import ExportError
from curate.exporting.names import check_config, check_repository, config_name
from tests.hub.client import Place, run, start
from tests.hub.routes import Repository
from tests.hub.stub import Fault, Hub
from tests.safety.hostile import CANARY, holding


@pytest.fixture(scope="module")
def said(hub: Hub, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What came of every step of tests/hub/session.py."""
    from curate.pipelines.publish import Wanted, publish_folder

    home = tmp_path_factory.mktemp("home")
    publish_folder(place.runs, place.store, Wanted(["near"], budget="4"), home / "one", overwrite=False)
    publish_folder(place.runs, place.store, Wanted(["all"]), home / "all", overwrite=False)
    hub.repositories["org/foreign"] = Repository(private=True)
    hub.repositories["org/foreign"].add({"thesis.tex": b"years of work"})
    ended = run(hub, home, "-m", "tests.hub.session", home / "one", home / "all")
    found = ended.json
    return {**found, "home": home, "heard": ended.out + ended.err}


def selection(place: Place, arm: str, budget: str) -> dict[str, list[Any]]:
    """The rows as the store has them."""
    from pyarrow import parquet

    results = json.loads((place.runs / "results.json").read_bytes())
    key = next(row["key"] for row in results["selections"] if (row["arm"], row["budget"]) == (arm, budget))
    found: dict[str, list[Any]] = parquet.read_table(place.store / key / "selection.parquet").to_pydict()
    return found


def test_what_is_loaded_from_the_hub_is_the_selection_in_its_order(said: Any, place: Place) -> None:
    stored = json.loads((said["home"] / "one" / "manifest.json").read_bytes())
    assert said["pushed"]["new"] and said["pushed"]["rows"] == 4 == len(said["rows"])
    assert [row["rank"] for row in said["rows"]] == [0, 1, 2, 3] and set(said["rows"][0]) == set(stored["configs"]["default"]["columns"])
    kept = selection(place, "near", "4")
    assert [(row["id"], row["score"]) for row in said["rows"]] == [(row, None) for row in kept["id"]]
    pool = {row["prompt"]: row for row in map(json.loads, (place.folder / "pool.jsonl").read_text().splitlines())}
    assert [{name: row[name] for name in ("prompt", "completion", "license")} for row in said["rows"]] == [pool[row["prompt"]] for row in said["rows"]]
    assert all("nearest target row" in row["reason"] for row in said["rows"])


def test_a_repeat_changes_nothing_and_another_export_replaces_it_in_one_commit(said: Any, hub: Hub) -> None:
    assert said["again"] == {**said["pushed"], "new": False}
    assert said["replaced"]["new"] and [row["rank"] for row in said["second"]] == [0, 1, 2, 3]
    commits = hub.repositories["org/subset"].commits
    assert [commit for commit, _ in commits][1:] == [said[step]["revision"] for step in ("pushed", "replaced", "last")]
    assert "data/train-00000-of-00001.parquet" not in commits[2][1]  # what the first export left went with it


def test_a_new_dataset_is_private_and_visibility_is_never_a_surprise(said: Any, hub: Hub) -> None:
    assert hub.repositories["org/subset"].private and not hub.repositories["org/open"].private
    assert said["public"]["new"]
    assert said["public by accident"]["code"] == 9 and "exists and is public; add --public" in said["public by accident"]["said"]
    assert said["private after all"]["code"] == 9 and "exists and is private" in said["private after all"]["said"]


def test_files_of_others_are_not_replaced(said: Any, hub: Hub) -> None:
    assert said["foreign"]["code"] == 9 and "files that curate did not write, such as 'thesis.tex'" in said["foreign"]["said"]
    assert len(hub.repositories["org/foreign"].commits) == 1


@pytest.mark.parametrize(("step", "words"), [("reader", "(403)"), ("unknown", "(401); it reads the variable HF_TOKEN"), ("nobody", "(401); it reads")])
def test_a_token_that_may_not_is_told_which_variable_is_read_and_is_not_repeated(said: Any, step: str, words: str, hub: Hub) -> None:
    found = said[step]
    assert found["code"] == 9 and words in found["said"] and "HF_TOKEN" in found["said"] and "\n" not in found["said"]
    assert CANARY not in found["traceback"] and "NobodyNobody" not in found["traceback"] and "org/elsewhere" not in hub.repositories


def test_no_token_is_in_any_file_or_word(said: Any, hub: Hub) -> None:
    assert CANARY not in said["heard"] and holding(said["home"], CANARY) == []
    for repository in hub.repositories.values():
        assert not any(CANARY.encode() in data for _, files in repository.commits for data in files.values())


def test_the_command_pushes_says_where_and_verifies_it_there(hub: Hub, place: Place, tmp_path: Path) -> None:
    places = ("--store", place.store, "--runs", place.folder / "runs")
    pushed = run(hub, tmp_path, "-m", "curate", "export", "small", "near", "--budget", "4", "--push", "org/command", *places)
    assert pushed.code == 0 and "4 rows pushed to org/command, commit" in pushed.out and pushed.err == ""
    verified = run(hub, tmp_path, "-m", "curate", "verify", "hf://org/command", "--data", place.folder, "--store", place.store)
    assert verified.code == 0 and "all 4 rows were found again" in verified.out and "those of the selection in the store" in verified.out
    assert holding(tmp_path, CANARY) == [] and CANARY not in pushed.out + verified.out + verified.err


PUSH = """
import sys, traceback
from pathlib import Path
from curate.errors import ExportError
from curate.exporting import hub, manifest
folder = Path(sys.argv[1])
try:
    print(hub.push_folder(folder, manifest.read_manifest(folder), "org/contended").new)
except ExportError as error:
    print(error)
    traceback.print_exc()
    sys.exit(9)
"""


def test_an_answer_that_repeats_the_token_is_not_passed_on_not_even_in_a_traceback(hub: Hub, exported: Callable[..., Path], tmp_path: Path) -> None:
    folder = exported(["near"], budget="4")
    for number, status in ((1, "403"), (2, "401"), (3, "400")):
        hub.arm(Fault(number, status, lasting=True))
        try:
            ended = run(hub, tmp_path / "home", "-c", PUSH.replace("org/contended", "org/echo"), folder)
        finally:
            hub.arm(None)
        assert ended.code == 9 and f"({status})" in ended.out and "Traceback" in ended.err and CANARY not in ended.out + ended.err


def test_of_pushes_at_the_same_time_one_wins_and_the_others_change_nothing(hub: Hub, exported: Callable[..., Path], tmp_path: Path) -> None:
    folders = [exported(["near"], budget="4"), exported(["cover"], budget="4"), exported(["cover"], budget="6")]
    base = exported(["near"], budget="6")
    assert run(hub, tmp_path / "base", "-c", PUSH, base).code == 0
    repository = hub.repositories["org/contended"]
    for number in range(3):
        (tmp_path / f"home-{number}").mkdir()
    processes = []

    def others() -> None:  # the first commit waits until the others have pushed
        for number in (1, 2):
            process = start(hub, tmp_path / f"home-{number}", "-c", PUSH, folders[number])
            hub.lock.release()
            try:
                processes.append((process.communicate(timeout=60)[0], process.returncode))
            finally:
                hub.lock.acquire()

    hub.at_commit = others
    first = run(hub, tmp_path / "home-0", "-c", PUSH, folders[0])
    assert [code for _, code in processes] == [0, 0]
    assert first.code == 9 and "somebody else has changed it meanwhile" in first.out and "nothing of yours was committed" in first.out
    assert len(repository.commits) == 4  # made, base, and one for each winner
    assert repository.commits[-1][1]["manifest.json"] == (folders[2] / "manifest.json").read_bytes()


def test_bytes_that_the_hub_stored_wrongly_are_noticed(hub: Hub, exported: Callable[..., Path], tmp_path: Path) -> None:
    folder = exported(["near"], budget="4")
    name = "data/train-00000-of-00001.parquet"
    held = (folder / name).read_bytes()

    class Swapped(dict[str, bytes]):
        def __getitem__(self, key: str) -> bytes:
            data = super().__getitem__(key)
            return data.replace(b"PAR1", b"PAR2") if data == held else data

    hub.blobs = Swapped(hub.blobs)
    try:
        ended = run(hub, tmp_path / "home", "-c", PUSH.replace("org/contended", "org/wrong"), folder)
    finally:
        hub.blobs = dict(hub.blobs)
    assert ended.code == 9 and "is not what was sent" in ended.out and name in ended.out


NAMES = ["../x", "a//b", "org/", "/x", "x", "org/x/y", "org/..", "org/.x", "org/x.", "org/x.git", "org/a--b", "org/a..b", "\u00f6rg/x", "org/x y", "org/x\0"]
NAMES += ["org/CON", "nul/x", "org/" + "x" * 97, "o" * 50 + "/" + "x" * 50, "org/x\n", "-org/x", "hf://org/x", "org/x@main", "org/%2e%2e", "org\\x"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_dataset_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(ExportError, match="no name of a Hub dataset") as caught:
        check_repository(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["org/x", "Org-1/my.set_2", "o/" + "x" * 94, "a/b-c.d"])
def test_a_name_of_a_dataset_passes(name: str) -> None:
    from huggingface_hub.utils._validators import validate_repo_id

    validate_repo_id(check_repository(name))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "con", "NUL.x", "a\0", "x" * 129, "a b", "-a", "a:", "\u0430"], ids=ascii)
def test_a_configuration_is_no_path_and_no_device(name: str) -> None:
    with pytest.raises(ExportError, match="cannot name a configuration"):
        check_config(name)


def test_configurations_are_named_by_arm_target_and_budget() -> None:
    assert config_name("less", "maths", "5%") == "less-maths-5pct" and config_name("a", None, "elbow 200000 tokens") == "a-elbow-200000-tokens"
