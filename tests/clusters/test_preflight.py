"""K12, K13: what a worker must show before it gets a task, each difference in one line; nobody left is one line too."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.clusters.certificates import Certificates, made, written
from curate.clusters.laptop import Laptop
from curate.clusters.preflight import Greeting, difference, greet, source_hasher, versions
from curate.clusters.scheduler import Scheduler
from curate.clusters.sentinel import Sentinel, answer
from curate.clusters.settings import SchedulerProfile
from curate.clusters.site import Site
from curate.errors import ClusterError
from tests.clusters.outside import address_in, ended

ROOT = Path(__file__).resolve().parents[2]


def test_a_difference_names_the_worker_the_field_theirs_and_ours() -> None:
    ours = versions()
    assert difference("worker 3", ours, ours) == ""
    said = difference("worker 3 at tls://a:1", {**ours, "numpy": "1.0"}, ours)
    assert said == f"worker 3 at tls://a:1: numpy is 1.0 there and {ours['numpy']} here; give it the environment of this process"
    assert "torch is absent there" in difference("w", {name: value for name, value in ours.items() if name != "torch"}, ours)


def test_the_source_is_hashed_with_the_names_of_its_files_and_through_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = source_hasher()()
    assert before == source_hasher()() and len(before) == 32
    copy = tmp_path / "curate"
    shutil.copytree(ROOT / "curate", copy, ignore=shutil.ignore_patterns("__pycache__"))

    def of_copy() -> str:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [str(copy)]})())
        found = source_hasher()()
        monkeypatch.undo()
        return found

    assert of_copy() == before
    (copy / "notes.txt").write_text("no code")
    assert of_copy() == before
    (copy / "selectors" / "random.py").rename(copy / "selectors" / "randon.py")  # which sorts where it was
    assert of_copy() != before


def test_a_folder_is_the_same_for_both_or_the_worker_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.clusters.sentinel._PATIENCE", 0.3)
    ours, other = tmp_path / "ours", tmp_path / "other"
    other.mkdir()
    with Sentinel(ours).placed() as sentinel:
        assert answer(ours, sentinel.token, "tls://w:1") == "" and sentinel.answered("tls://w:1")
        assert not sentinel.answered("tls://w:1")  # an answer counts once
        assert not sentinel.answered("tls://w:2")
        assert "does not see the folder" in answer(tmp_path / "absent", sentinel.token, "w")
        assert "sees another folder under the name" in answer(other, sentinel.token, "w")
    assert list(ours.iterdir()) == []


def test_what_a_worker_was_writing_when_it_was_killed_goes_with_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, to: Path) -> None:
        raise KeyboardInterrupt  # which no clean-up of the writer sees, as none sees a kill

    with Sentinel(tmp_path).placed() as sentinel, monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            answer(tmp_path, sentinel.token, "tls://w:1")
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_answer_needs_the_word_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.clusters.sentinel._PATIENCE", 0.3)
    with Sentinel(tmp_path).placed() as sentinel:
        sentinel.path.write_text("an old word, as a cache may keep it")
        assert answer(tmp_path, sentinel.token, "w") == "" and not sentinel.answered("w")


def test_what_a_killed_driver_left_is_removed_and_what_a_living_one_needs_is_not(tmp_path: Path) -> None:
    code = "import sys, os, signal; from pathlib import Path; from curate.clusters.sentinel import Sentinel\n"
    code += "with Sentinel(Path(sys.argv[1])).placed(): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    with Sentinel(tmp_path).placed() as first, Sentinel(tmp_path).placed() as second:
        assert set(tmp_path.iterdir()) == {first.path, second.path} and left not in (first.path, second.path)


def test_nobody_who_comes_is_one_line_with_a_reminder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.clusters.preflight._REMIND", 0.3)
    heard: list[str] = []
    client = Empty()
    monkeypatch.setitem(_greetings(), client, Greeting(client, Site(), timeout=1.0))  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="no worker came in 1 s; look at the queue .* worker_timeout in the profile") as raised:
        greet(client, 4, heard.append)  # type: ignore[arg-type]
    assert raised.value.exit_code == 6 and heard and heard[0].startswith("waiting for workers: 0 of 4 after 0 s, at most 1 s")


class Empty:
    """A client whose scheduler has no workers."""

    class scheduler:
        identity = None

    def sync(self, *arguments: Any, **more: Any) -> Any:
        return {"workers": {}}


def _greetings() -> Any:
    from curate.clusters import preflight

    return preflight._GREETINGS


def test_workers_that_cannot_write_where_the_run_does_are_named(tmp_path: Path) -> None:
    """The driver sees another folder under the name that it tells its workers."""
    launcher = Laptop(1, site=Site(None, tmp_path / "run"))
    try:
        client = launcher.start(print)
        elsewhere = Sentinel(tmp_path / "absent")
        _greetings()[client] = Greeting(client, launcher.site, [elsewhere], timeout=60)
        with pytest.raises(ClusterError, match="no worker is left: 1 refused, the first because of worker 0 at tls://.*: it does not see the folder .*absent"):
            greet(client, 1, print)
        deadline = time.monotonic() + 30
        while client.scheduler_info()["workers"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not client.scheduler_info()["workers"]  # one of ours is stopped, so that it can get no task
    finally:
        launcher.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Certificates, Path]]:
    """A scheduler of its own process with four workers: ours, one with a changed line, one with another library, one with another file system."""
    place = tmp_path_factory.mktemp("outside")
    files = written(made(), place / "tls")
    tls = ["--protocol", "tls", "--tls-ca-file", files.authority, "--tls-cert", files.node, "--tls-key", files.key, "--dashboard-address", "127.0.0.1:0"]
    address_file = place / "scheduler.json"
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, path: Path = ROOT, prefix: tuple[str, ...] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": str(path), "DASK_DISTRIBUTED__WORKER__DAEMON": "True"}
        log = (place / f"{len(started)}.log").open("wb")
        started.append(subprocess.Popen([*prefix, sys.executable, "-m", *words, *tls], cwd=place, env=environment, stdout=log, stderr=log))

    with ended(started):
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(address_file))
        worker = ["distributed.cli.dask_worker", "--scheduler-file", str(address_file), "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]
        start(*worker, "--name", "ours")
        changed = place / "changed"
        shutil.copytree(ROOT / "curate", changed / "curate", ignore=shutil.ignore_patterns("__pycache__"))
        module = changed / "curate" / "greedy.py"
        module.write_text(module.read_text() + "\nONE_MORE = 1\n")
        start(*worker, "--name", "changed", path=changed)
        other = place / "other"
        (other / "peft-0.0.1.dist-info").mkdir(parents=True)
        (other / "peft-0.0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
        (other / "curate").symlink_to(ROOT / "curate")
        start(*worker, "--name", "other", path=other)
        if os.geteuid() == 0:
            (place / "store").mkdir()
            hidden = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {place / "store"} && exec "$@"', "sh")
            start(*worker, "--name", "blind", prefix=hidden)
        yield str(address_file), files, place


@pytest.mark.slow
def test_workers_with_other_code_libraries_or_files_get_no_task_and_the_rest_do(outside: tuple[str, Certificates, Path]) -> None:
    file, files, place = outside
    expected = 4 if os.geteuid() == 0 else 3
    profile = SchedulerProfile(address=address_in(Path(file)), ca=files.authority, certificate=files.node, key=files.key, workers=expected)
    launcher, heard = Scheduler(profile, Site(place / "store", place / "run")), list[str]()
    try:
        client = launcher.start(heard.append)
        client.wait_for_workers(expected, timeout=120)
        greeting = greet(client, expected, heard.append)
        known = {worker["name"]: address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
        assert greeting.accepted(known.values()) == {known["ours"]}
        refused = {line.split()[1]: line for line in greeting.refusals}
        assert refused["changed"].startswith(f"worker changed at {known['changed']}: the hash of curate's source is ")
        assert refused["other"].startswith(f"worker other at {known['other']}: peft is 0.0.1 there and {versions()['peft']} here")
        assert expected == 3 or "sees another folder under the name" in refused["blind"] or "does not see the folder" in refused["blind"]
        assert sorted(line for line in heard if line.startswith("refused: ")) == sorted(f"refused: {line}" for line in greeting.refusals)
        assert len(known) == expected  # workers of others are left alone
    finally:
        launcher.close()
