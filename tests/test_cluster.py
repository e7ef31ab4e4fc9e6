"""Tasks give the same answers, in the order of their items, wherever they run."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from curate.cluster import InProcess, LocalDask, cluster_of
from curate.errors import ClusterError, DataError


def square(item: int) -> tuple[int, int]:
    import torch

    time.sleep(0.05 * (item % 3 == 0))  # results come back out of order
    return item * item, torch.get_num_threads()


def fail(item: int) -> int:
    if item == 3:
        raise DataError("row 3 is bad; mend it")
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


@pytest.fixture(scope="module")
def dask() -> LocalDask:
    cluster = LocalDask(2)
    yield cluster  # type: ignore[misc]
    cluster.close()


def test_results_come_in_order_from_one_thread_each_and_progress_is_heard(dask: LocalDask) -> None:
    wanted = [(item * item, 1) for item in range(10)]
    heard: list[tuple[str, int, int]] = []
    listener = lambda *event: heard.append(event)  # noqa: E731
    assert list(InProcess(listener).map(square, range(10), label="squares")) == wanted
    dask.listener = listener
    assert list(dask.map(square, list(range(10)), label="squares")) == wanted
    assert heard[:11] == heard[11:] == [("squares", done, 10) for done in range(11)]


def test_a_users_error_crosses_the_process_border_as_itself(dask: LocalDask) -> None:
    with pytest.raises(DataError, match="row 3 is bad; mend it"):
        list(dask.map(fail, list(range(6))))
    assert list(dask.map(fail, [1, 2])) == [1, 2]  # and the cluster goes on


def test_a_worker_that_is_killed_is_replaced_and_its_task_repeated(dask: LocalDask, tmp_path: Path) -> None:
    markers = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert list(dask.map(die_once, markers)) == ["a", "b"]


def test_nothing_listens_beyond_this_machine(dask: LocalDask) -> None:
    list(dask.map(fail, [1, 2]))
    me = psutil.Process()
    listening = [c for process in (me, *me.children(recursive=True)) for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening and {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


def test_a_task_that_always_kills_its_worker_ends_in_one_sentence() -> None:
    cluster = LocalDask(2)
    try:
        with pytest.raises(ClusterError, match="died again and again.*--workers 1"):
            list(cluster.map(die, [1, 2]))
    finally:
        cluster.close()


def test_one_worker_needs_no_cluster_and_more_start_only_when_there_is_work() -> None:
    assert isinstance(cluster_of(1), InProcess)
    lazy = cluster_of(4)
    assert list(lazy.map(square, [2])) == [(4, 1)]
    assert isinstance(lazy, LocalDask) and lazy._client is None
