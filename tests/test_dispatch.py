"""Every task has one result, in order, whatever its workers and the scheduler do; shown with a client whose workers die on cue."""

import ast
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import dispatch
from curate.clusters.preflight import Greeting
from curate.dispatch import OnDask
from curate.errors import ClusterError, DataError
from tests.fake_dask import Cue, FakeClient, FakeFuture, FakeLauncher


def done(client: FakeClient, future: FakeFuture) -> None:
    future.end("finished")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK", 0.02)
    monkeypatch.setattr(dispatch, "_DESERTED", 0.1)


def cued(*cues: Cue) -> Cue:
    """One cue after the other, then every task is done."""
    waiting = list(cues)
    return lambda client, future: (waiting.pop(0) if waiting else done)(client, future)


def cluster_of(cue: Cue, folder: Path, workers: int = 2, **more: Any) -> tuple[OnDask, FakeLauncher, list[dict[str, Any]], list[str]]:
    launcher, events, told = FakeLauncher(workers, cue, **more), list[dict[str, Any]](), list[str]()
    return OnDask(launcher, tell=told.append, note=events.append, folder=folder), launcher, events, told


def square(item: int) -> int:
    return item * item


def ended(events: list[dict[str, Any]]) -> list[str]:
    return [event["ended"] for event in events]


def test_a_task_whose_last_word_is_lost_is_settled_all_the_same(tmp_path: Path) -> None:
    cluster, _, events, _ = cluster_of(cued(lambda client, future: future.end("finished", heard=False)), tmp_path)
    assert list(cluster.map(square, range(4))) == [0, 1, 4, 9]
    assert ended(events) == ["done"] * 4


def test_a_worker_that_dies_without_a_word_is_noticed(tmp_path: Path) -> None:
    cluster, _, events, _ = cluster_of(cued(lambda client, future: client.die(future, word=False)), tmp_path)
    assert list(cluster.map(square, range(4))) == [0, 1, 4, 9]
    assert sorted(ended(events)) == ["done"] * 4 + ["killed_worker"]


def test_a_result_that_went_with_its_worker_is_computed_again_and_not_for_ever(tmp_path: Path) -> None:
    def lost(client: FakeClient, future: FakeFuture) -> None:
        future.status, future.error = "finished", TimeoutError("the worker does not answer")

    cluster, _, events, _ = cluster_of(cued(lost), tmp_path)
    assert list(cluster.map(square, range(3))) == [0, 1, 4]
    cluster, _, events, _ = cluster_of(lost, tmp_path)
    with pytest.raises(ClusterError, match="kills every worker process"):
        list(cluster.map(square, range(1)))
    assert ended(events) == ["killed_worker"] * 3


def test_the_word_of_a_task_that_was_given_to_another_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zombies: list[FakeFuture] = []

    def freeze(client: FakeClient, future: FakeFuture) -> None:
        zombies.append(future)
        client.workers.pop(future.address)

    def back(client: FakeClient, future: FakeFuture) -> None:
        if zombies[0].done():
            client.workers[zombies[0].address] = "running"
        if future.address == zombies[0].address:  # while the zombie's word comes, and an older task's word again
            word(zombies[0])
            threading.Timer(0.05, future.end, ["finished"]).start()
        else:
            done(client, future)

    words: list[Callable[[Any], None]] = []
    word = lambda future: [call(future) for call in words]  # noqa: E731
    monkeypatch.setattr(FakeFuture, "add_done_callback", lambda future, call: (words.append(call), future.callbacks.append(call), future.tell()))
    cluster, _, events, _ = cluster_of(cued(freeze, *[back] * 20), tmp_path)
    assert list(cluster.map(square, range(12))) == [item * item for item in range(12)]
    assert sorted(ended(events)) == ["done"] * 12 + ["killed_worker"] and zombies[0].status == "cancelled"


def test_a_task_that_nobody_has_begun_or_ended_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_SILENT", 0.1)
    cluster, launcher, _, told = cluster_of(cued(lambda client, future: None), tmp_path)
    assert list(cluster.map(square, range(3))) == [0, 1, 4]
    assert len(launcher.clients) == 2 and any("nothing is heard of 0" in line for line in told)
    begun = lambda client, future: (future.stacks.touch(), threading.Timer(0.3, future.end, ["finished"]).start())  # noqa: E731
    cluster, launcher, _, _ = cluster_of(cued(begun), tmp_path)  # type: ignore[arg-type]
    assert list(cluster.map(square, range(3))) == [0, 1, 4]
    assert len(launcher.clients) == 1


def test_a_worker_that_was_not_greeted_gets_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosy(Greeting):
        def accepted(self, addresses: Any) -> set[str]:
            return set(addresses) - {"worker-1"}

    monkeypatch.setattr(dispatch, "greet", lambda client, expected, tell: Choosy(client, None))
    cluster, _, events, _ = cluster_of(done, tmp_path)
    assert list(cluster.map(square, range(4))) == [0, 1, 4, 9]
    assert {event["worker"] for event in events} == {"worker-0"}


def test_a_worker_on_its_way_out_ends_its_task_and_gets_no_other(tmp_path: Path) -> None:
    leaving: list[FakeFuture] = []

    def leave(client: FakeClient, future: FakeFuture) -> None:
        client.workers[future.address] = "closing_gracefully"
        leaving.append(future)

    def later(client: FakeClient, future: FakeFuture) -> None:
        threading.Timer(0.06, future.end, ["finished"]).start()  # longer than a look at the workers
        if future.number == 2:
            leaving[0].end("finished")

    cluster, launcher, events, _ = cluster_of(cued(leave, *[later] * 10), tmp_path)
    assert list(cluster.map(square, range(6))) == [item * item for item in range(6)]
    assert ended(events) == ["done"] * 6
    assert [future.address for future in launcher.clients[0].futures].count(leaving[0].address) == 1


def test_tasks_that_a_new_scheduler_does_not_know_are_run_on_a_new_cluster(tmp_path: Path) -> None:
    cluster, launcher, events, told = cluster_of(cued(lambda client, future: future.end("cancelled", RuntimeError("cancelled"))), tmp_path)
    assert list(cluster.map(square, range(3))) == [0, 1, 4]
    assert len(launcher.clients) == 2 and any("the scheduler was lost" in line for line in told) and set(ended(events)) == {"done"}


def unanswered(client: FakeClient, future: FakeFuture) -> None:
    client.fails = TimeoutError("no answer")


def test_a_scheduler_that_is_away_for_a_while_is_looked_for_again(tmp_path: Path) -> None:
    cluster, launcher, _, _ = cluster_of(cued(unanswered), tmp_path)
    launcher.refuses = [ClusterError("no scheduler answers")] * 2
    assert list(cluster.map(square, range(3))) == [0, 1, 4]
    launcher.refuses = [ClusterError("no scheduler answers")] * 9
    launcher.cue = unanswered
    cluster.close()
    launcher.clients[-1].fails = None
    with pytest.raises(ClusterError, match="^no scheduler answers"):  # at a first start there is nothing to wait for
        list(cluster.map(square, range(3)))


def test_a_scheduler_that_is_lost_again_and_again_is_given_up(tmp_path: Path) -> None:
    cluster, launcher, _, _ = cluster_of(unanswered, tmp_path)
    with pytest.raises(ClusterError, match="lost 4 times without a task done in between"):
        list(cluster.map(square, range(3)))
    assert len(launcher.clients) == 4 == launcher.closed


def test_losses_with_work_done_in_between_do_not_add_up(tmp_path: Path) -> None:
    cluster, launcher, _, _ = cluster_of(cued(*[done, unanswered] * 5), tmp_path, workers=1)
    assert list(cluster.map(square, range(7))) == [item * item for item in range(7)]
    assert len(launcher.clients) == 6


def test_workers_of_this_machine_that_are_all_gone_for_good_are_started_again(tmp_path: Path) -> None:
    """Dask's nanny does not replace a worker that is killed while it starts."""
    gone = lambda client, future: client.die(future, replaced=False)  # noqa: E731
    cluster, launcher, _, told = cluster_of(cued(gone, gone), tmp_path, local=True)
    assert list(cluster.map(square, range(4))) == [0, 1, 4, 9]
    assert len(launcher.clients) == 2 and any("no worker is left" in line for line in told)


def test_no_worker_of_a_queue_is_waited_for_and_then_one_sentence(tmp_path: Path) -> None:
    gone = lambda client, future: client.die(future, replaced=False)  # noqa: E731
    cluster, launcher, _, _ = cluster_of(gone, tmp_path)
    launcher.worker_timeout = 0.3
    with pytest.raises(ClusterError, match="no worker came in 0 s; look at the queue"):
        list(cluster.map(square, range(4)))
    assert len(launcher.clients) == 1


def test_an_error_of_the_task_is_raised_as_it_is_and_the_others_are_forgotten(tmp_path: Path) -> None:
    for error in (DataError("row 3 is bad; mend it"), ZeroDivisionError("division by zero")):
        cluster, launcher, _, _ = cluster_of(cued(lambda client, future: None, lambda client, future, error=error: future.end("error", error)), tmp_path)  # type: ignore[misc]
        with pytest.raises(type(error), match=str(error)):
            list(cluster.map(square, range(4)))
        assert launcher.clients[0].futures[0].status == "cancelled"


def test_a_caller_that_stops_early_leaves_no_task_behind(tmp_path: Path) -> None:
    cluster, launcher, _, _ = cluster_of(cued(done, lambda client, future: None), tmp_path)
    results = cluster.map(square, range(9))
    assert next(results) == 0
    results.close()
    assert all(future.done() for future in launcher.clients[0].futures)
    launcher.clients[0].cue = done
    assert list(cluster.map(square, range(3))) == [0, 1, 4]  # and the cluster goes on


def test_an_interrupt_in_the_middle_leaves_no_task_behind(tmp_path: Path) -> None:
    def interrupt(client: FakeClient, future: FakeFuture) -> None:
        raise KeyboardInterrupt

    cluster, launcher, _, _ = cluster_of(cued(lambda client, future: None, interrupt), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(cluster.map(square, range(9)))
    assert launcher.clients[0].futures[0].status == "cancelled"


def test_where_a_task_hung_is_kept_and_nothing_else_stays(tmp_path: Path) -> None:
    def hang(client: FakeClient, future: FakeFuture) -> None:
        future.stacks.write_text("File deep.py, line 7")
        client.die(future)

    def killed(client: FakeClient, future: FakeFuture) -> None:
        future.stacks.touch()
        client.die(future)

    cluster, _, events, _ = cluster_of(cued(hang, killed), tmp_path)
    assert list(cluster.map(square, range(4))) == [0, 1, 4, 9]
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("stacks-") and kept.suffix == ".txt" and "deep.py" in kept.read_text()
    assert sorted(ended(events)) == ["done"] * 4 + ["hung_worker", "killed_worker"]


@dataclass
class Rows:
    """Tasks are ranges of rows."""

    folder: Path

    def size(self, item: range) -> int:
        return len(item)

    def part(self, item: range, start: int, stop: int) -> range:
        return item[start:stop]

    def without(self, item: range, rows: Mapping[int, str]) -> Any:
        return [row for number, row in enumerate(item) if number not in rows]

    def starts(self, item: range) -> Path:
        return self.folder / f"{item.start}.starts"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.sets(st.integers(0, 47), max_size=3), st.integers(0, 2**32))
def test_whatever_dies_every_row_is_in_one_result_in_order_but_for_those_that_kill(
    tmp_path_factory: pytest.TempPathFactory, workers: int, tasks: int, bad: set[int], seed: int
) -> None:
    drawn, items = random.Random(seed), [range(8 * number, 8 * number + 8) for number in range(tasks)]
    faults = iter(drawn.sample([0, 1, 2, 2, 3, 3, 4, 4], 8))  # two deaths by chance, which do not suffice for a row that is good

    def cue(client: FakeClient, future: FakeFuture) -> None:
        if set(future.run()) & bad:
            client.die(future, word=drawn.random() < 0.5)
            return
        match next(faults, 4):
            case 0:
                client.die(future)
            case 1:
                client.die(future, word=False)
            case 2:
                future.end("cancelled", RuntimeError("cancelled"))
            case 3:  # its last word is lost
                future.end("finished", heard=False)
            case _:
                future.end("finished")

    cluster, folder = OnDask(FakeLauncher(workers, cue), folder=None), tmp_path_factory.mktemp("starts")
    try:
        found = list(cluster.map(list, items, remedy=Rows(folder)))  # type: ignore[arg-type]
    finally:
        cluster.close()
    assert found == [[row for row in item if row not in bad] for item in items]
    assert list(folder.iterdir()) == []


def waits(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"result", "join", "wait", "sync", "acquire"}:
            yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and not node.args:
            yield node


@pytest.mark.parametrize("name", ["dispatch", "task_round", "remedy", "cluster", "one_task", "beat"])
def test_every_wait_has_a_deadline(name: str, root: Path) -> None:
    for call in waits(ast.parse((root / "curate" / f"{name}.py").read_text())):
        strings = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Constant)
        assert strings or {keyword.arg for keyword in call.keywords} & {"timeout", "callback_timeout"}, f"{name}.py:{call.lineno} waits for ever"
