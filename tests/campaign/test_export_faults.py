"""The driver of Hub faults passes on curate as it is, and catches bugs that are put in by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# In one process, since the client is slow to start: every bug is put in, met by one trial, and taken out again.
BUGS = """
import json, sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from campaign.export_faults import Sweep, finish, hub_and_client, race
from curate.exporting import hub, hub_requests

scratch, found = Path(sys.argv[1]), {}


def bitten(name, change, meet):
    kept = {place: getattr(*place) for place in change}
    for (module, function), value in change.items():
        setattr(module, function, value)
    try:
        found[name] = meet().wrong
    finally:
        for (module, function), value in kept.items():
            setattr(module, function, value)


commit, landed, opened, explained = hub._commit, hub._landed, hub._opened, hub.explained


def halves(api, folder, about, repository, head):
    first = {**about, "files": dict(list(about["files"].items())[:1])}
    commit(api, folder, first, repository, head)
    return commit(api, folder, about, repository, hub._look(api, repository))


def told(error, repository, doing, outcome=""):
    return hub.ExportError(f"{explained(error, repository, doing, outcome)}: {error}".replace(chr(10), " "))


def lost(api, about, repository, head, error):
    raise explained(error, repository, "commit to", "nothing was committed")


with hub_and_client(scratch) as stub:
    sweep = Sweep(stub, "first", scratch, 0)
    at = sweep.requests.index("POST /api/datasets/org/subset/commit/main") + 1
    found["none"] = sweep.trial("after", at, False).wrong + race(stub, scratch, 0, 0).wrong
    found["unlanded"] = finish([sweep.trial("after", 999, False)], Namespace(seed=0, out=None), 0.0)
    bitten("two commits", {(hub, "_commit"): halves}, lambda: sweep.trial("503", at + 4, True))
    bitten("no parent", {(hub, "_commit"): lambda api, f, a, r, head: commit(api, f, a, r, replace(head, commit=None))}, lambda: race(stub, scratch, 1, 0))
    bitten("lost answer", {(hub, "_landed"): lost}, lambda: sweep.trial("after", at, False))
    bitten("token told", {(hub, "explained"): told, (hub_requests, "explained"): told}, lambda: sweep.trial("403", 1, False))
    bitten("no no-op", {(hub, "_opened"): lambda *given: replace(opened(*given), manifest=None)}, lambda: sweep.trial("slow", 1, False))
print(json.dumps(found))
"""


def program(root: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")} | {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=root, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.campaign
def test_the_driver_passes_counts_what_landed_and_replays_one_trial(root: Path, tmp_path: Path) -> None:
    ended = program(root, "-m", "campaign.export_faults", "--limit", "3", "--races", "1", "--seed", "3", "--out", tmp_path / "found.json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7 planned, 7 landed, 0 not landed, 7 passed, 0 failed" in ended.stdout and "3 seed" in ended.stdout
    trial = json.loads((tmp_path / "found.json").read_bytes())["trials"][2]
    again = program(root, "-m", "campaign.export_faults", "--only", trial["trial"], "--seed", "3", "--out", tmp_path / "again.json")
    assert again.returncode == 0 and json.loads((tmp_path / "again.json").read_bytes())["trials"] == [trial]


@pytest.fixture(scope="module")
def caught(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ended = program(root, "-c", BUGS, tmp_path_factory.mktemp("bugs"))
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_without_a_bug_nothing_is_wrong_and_a_fault_that_does_not_land_is_no_pass(caught: dict[str, Any]) -> None:
    assert caught["none"] == [] and caught["unlanded"] == 1


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        ("two commits", "commits were made"),
        ("no parent", "the loser of a race ends with pushed"),
        ("lost answer", "the error says that nothing was committed, and something was"),
        ("token told", "the error holds the token"),
        ("no no-op", "once more with pushed"),
    ],
)
def test_a_bug_that_is_put_in_is_caught(caught: dict[str, Any], bug: str, words: str) -> None:
    assert any(words in line for line in caught[bug]), caught[bug]
