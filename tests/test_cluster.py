"""Tasks give the same answers, in the order of their items, wherever they run, and whatever happens to their workers."""

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from curate.beat import beat
from curate.cluster import InProcess, Workers, cluster_of
from curate.clusters.laptop import Laptop
from curate.clusters.preflight import Greeting
from curate.dispatch import OnDask
from curate.errors import ClusterError, DataError
from tests.fake_dask import FakeClient, FakeFuture, FakeLauncher


def square(item: int) -> tuple[int, int]:
    import torch

    time.sleep(0.05 * (item % 3 == 0))  # results come back out of order
    return item * item, torch.get_num_threads()


def fail(item: int) -> int:
    if item == 3:
        raise DataError("row 3 is bad; mend it")
    return item


def say(item: int) -> int:
    print(f"task {item} was here")
    warnings.warn(f"task {item} is odd", stacklevel=1)
    return item


def die_once(marker: str) -> str:
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


@dataclass(frozen=True)
class Shard:
    """Some rows, of which those with the sign `k` kill, `h` hang, and `+` bear being scored."""

    rows: str
    folder: Path
    aside: Mapping[int, str] | None = None
    name: str = "shard"


class Halving:
    def size(self, item: Shard) -> int:
        return len(item.rows)

    def part(self, item: Shard, start: int, stop: int) -> Shard:
        return replace(item, rows=item.rows[start:stop])

    def without(self, item: Shard, rows: Mapping[int, str]) -> Shard:
        return replace(item, aside=dict(rows))

    def starts(self, item: Shard) -> Path:
        return item.folder / "shard.starts"


def score(shard: Shard) -> tuple[int, Mapping[int, str] | None]:
    for number, row in enumerate(shard.rows):
        beat()
        if number in (shard.aside or {}):
            continue
        if row == "k":
            os.kill(os.getpid(), signal.SIGKILL)
        while row == "h":
            time.sleep(1)
    return len(shard.rows) - len(shard.aside or {}), shard.aside


@pytest.fixture(scope="module")
def dask() -> Iterator[OnDask]:
    cluster = OnDask(Laptop(2, task_deadline=3.0))
    yield cluster
    cluster.close()


def test_results_come_in_order_from_one_thread_each_and_progress_is_heard(dask: OnDask) -> None:
    wanted = [(item * item, 1) for item in range(10)]
    heard: list[tuple[str, int, int]] = []
    listener = lambda *event: heard.append(event)  # noqa: E731
    assert list(InProcess(listener).map(square, range(10), label="squares")) == wanted
    dask.listener = listener
    assert list(dask.map(square, list(range(10)), label="squares")) == wanted
    assert heard[:11] == heard[11:] == [("squares", done, 10) for done in range(11)]


def test_a_users_error_crosses_the_process_border_as_itself(dask: OnDask) -> None:
    with pytest.raises(DataError, match="row 3 is bad; mend it"):
        list(dask.map(fail, list(range(6))))
    assert list(dask.map(fail, [1, 2])) == [1, 2]  # and the cluster goes on


def test_a_worker_that_is_killed_is_replaced_and_its_task_repeated(dask: OnDask, tmp_path: Path) -> None:
    markers = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert list(dask.map(die_once, markers)) == ["a", "b"]


def test_what_a_task_printed_is_noted_with_its_worker(dask: OnDask) -> None:
    events: list[dict[str, Any]] = []
    dask.note = events.append
    assert list(dask.map(say, [7, 8], label="sayings")) == [7, 8]
    by_task = {event["task"]: event for event in events}
    assert sorted(by_task) == ["0", "1"] and {event["ended"] for event in events} == {"done"} and json.dumps(events)
    assert "task 7 was here" in by_task["0"]["said"] and "task 8 is odd" in by_task["1"]["said"] and "://" in by_task["0"]["worker"]


def test_nothing_listens_beyond_this_machine(dask: OnDask) -> None:
    list(dask.map(fail, [1, 2]))
    me = psutil.Process()
    listening = [c for process in (me, *me.children(recursive=True)) for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_rows_that_kill_or_hang_are_set_aside_and_all_others_are_scored(dask: OnDask, tmp_path: Path) -> None:
    shards = [Shard(rows, tmp_path) for rows in ("++++", "+k+h", "++")]
    found = list(dask.map(score, shards, label="scores", remedy=Halving()))
    assert found == [(4, None), (2, {1: "killed_worker", 3: "hung_worker"}), (2, None)]


def test_a_task_that_always_kills_its_worker_ends_in_one_sentence_after_all_others_are_done(dask: OnDask, tmp_path: Path) -> None:
    done: list[int] = []
    dask.listener = lambda label, finished, total: done.append(finished)
    with pytest.raises(ClusterError, match=r"kills every worker process that runs it \(killed_worker: str\).*--workers 1"):
        list(dask.map(_die_of_bad, ["good", "bad", "good", "good"]))
    assert done[-1] == 3


def _die_of_bad(item: str) -> str:
    return die(0) and "" if item == "bad" else item


def test_a_lost_scheduler_is_started_again_and_only_what_was_left_is_run(tmp_path: Path) -> None:
    told: list[str] = []
    cluster = OnDask(Laptop(2), tell=told.append)
    ran = tmp_path / "ran"
    try:
        results = cluster.map(_logged, [(str(ran), number) for number in range(8)])
        assert next(results) == 0
        cluster._client.cluster.close()
        assert list(results) == list(range(1, 8))
    finally:
        cluster.close()
    assert any("the scheduler was lost" in line for line in told)
    assert sorted(set(ran.read_text().split())) == sorted(map(str, range(8))) and len(ran.read_text().split()) <= 8 + 2 * len(told)


def _logged(item: tuple[str, int]) -> int:
    with open(item[0], "a") as file:
        file.write(f"{item[1]}\n")
    time.sleep(0.1)
    return item[1]


def test_a_process_alone_looks_for_the_row_that_killed_it_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    class Apart:
        def alone(self, function: Any, item: Any, label: str, remedy: Any) -> str:
            asked.append(label)
            return "without it"

        def close(self) -> None:
            asked.append("closed")

    shard = Shard("+", tmp_path)
    for wanted in ((1, None), (1, None)):  # begun and ended twice is no sign of death
        assert list(InProcess(apart=Apart).map(score, [shard], remedy=Halving())) == [wanted]  # type: ignore[arg-type]
    for _ in range(2):
        if not (child := os.fork()):
            list(InProcess().map(score, [Shard("k", tmp_path)], remedy=Halving()))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert list(InProcess(apart=Apart).map(score, [shard], label="scores", remedy=Halving())) == ["without it"]  # type: ignore[arg-type, comparison-overlap]
    assert asked == ["scores", "closed"] and not (tmp_path / "shard.starts").exists()
    assert list(InProcess(apart=Apart).map(score, [shard], remedy=Halving())) == [(1, None)]  # type: ignore[arg-type]


class Apart:
    """Workers of their own, that set something aside."""

    def alone(self, function: Any, item: Any, label: str, remedy: Any) -> str:
        return "without it"

    def close(self) -> None:
        pass


def test_a_process_alone_that_hangs_ends_and_the_third_looks_for_the_row(tmp_path: Path) -> None:
    for _ in range(2):
        if not (child := os.fork()):
            list(InProcess(deadline=0.6).map(score, [Shard("+h", tmp_path)], remedy=Halving()))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ClusterError.exit_code
    assert list(InProcess(apart=Apart, deadline=0.6).map(score, [Shard("+h", tmp_path)], remedy=Halving())) == ["without it"]  # type: ignore[arg-type, comparison-overlap]


def test_a_task_that_exits_is_looked_at_apart_at_once(tmp_path: Path) -> None:
    assert list(InProcess(apart=Apart).map(_leave, [Shard("+", tmp_path)], remedy=Halving())) == ["without it"]  # type: ignore[arg-type, comparison-overlap]
    assert not (tmp_path / "shard.starts").exists()


def _leave(item: Shard) -> int:
    sys.exit(1)


def test_a_single_task_that_a_process_died_of_runs_on_a_worker_and_its_mark_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Workers(FakeLauncher(1, lambda client, future: future.end("finished"), local=True), folder=tmp_path)
    shard, here = Shard("++", tmp_path), (tmp_path / "shard.starts")
    assert list(cluster.map(score, [shard], remedy=Halving())) == [(2, None)] and not cluster.launcher.clients  # type: ignore[attr-defined]
    here.write_text('{"start": 0}\n')
    assert list(cluster.map(score, [shard], remedy=Halving())) == [(2, None)] and len(cluster.launcher.clients) == 1  # type: ignore[attr-defined]
    assert not here.exists()


def test_a_task_that_a_worker_died_of_is_not_begun_by_the_driver_that_comes_after(tmp_path: Path) -> None:
    def interrupt(client: FakeClient, future: FakeFuture) -> None:
        raise KeyboardInterrupt

    cues = [lambda client, future: client.die(future), interrupt]
    shards = [Shard("++", tmp_path), Shard("+", tmp_path / "other")]
    shards[1].folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        list(Workers(FakeLauncher(1, lambda client, future: cues.pop(0)(client, future)), folder=tmp_path).map(score, shards, remedy=Halving()))
    assert json.loads((tmp_path / "shard.starts").read_text())["ended"] == "killed_worker" and not (tmp_path / "other" / "shard.starts").exists()
    after = Workers(FakeLauncher(1, lambda client, future: future.end("finished"), local=True), folder=tmp_path)
    assert list(after.map(score, shards[:1], remedy=Halving())) == [(2, None)] and len(after.launcher.clients) == 1  # type: ignore[attr-defined]
    assert not (tmp_path / "shard.starts").exists()


def test_a_single_task_that_hangs_ends_the_driver_when_it_would_end_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launcher = FakeLauncher(1, lambda client, future: future.end("finished"), local=True)
    launcher.task_deadline = 0.6
    if not (child := os.fork()):
        list(Workers(launcher, folder=tmp_path).map(score, [Shard("+h", tmp_path)], remedy=Halving()))  # type: ignore[arg-type]
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ClusterError.exit_code
    assert "shows no sign of life for 1 s" in capfd.readouterr().err


def test_an_error_does_not_count_as_a_death(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            list(InProcess().map(_divide, [Shard("+", tmp_path)], remedy=Halving()))
    assert not (tmp_path / "shard.starts").exists()


def _divide(item: Shard) -> float:
    return 1 / 0


def test_one_worker_needs_no_cluster_and_more_start_only_when_there_is_work() -> None:
    assert isinstance(cluster_of(1), InProcess)
    here = cluster_of(1, deadline=7.0)
    assert isinstance(here, InProcess) and (here._deadline, here._apart().launcher.task_deadline) == (7.0, 7.0)
    lazy = cluster_of(4)
    assert list(lazy.map(square, [2])) == [(4, 1)]
    assert isinstance(lazy, Workers) and lazy._client is None
    assert list(lazy.map(square, [])) == []


def test_no_worker_in_time_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = OnDask(Laptop(0, worker_timeout=1.0))
    monkeypatch.setattr("curate.dispatch.greet", lambda client, expected, tell: Greeting(client, None))
    try:
        with pytest.raises(ClusterError, match="no worker came in 1 s.*worker_timeout"):
            list(cluster.map(square, [1, 2]))
    finally:
        cluster.close()
    assert "torch" in sys.modules
