"""The faults, each on a run under way: see campaign.cluster_faults."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from campaign.cluster_faults_ground import SHARD, Size, Trial, events_of
from campaign.cluster_faults_scheduler import Cluster, gone, kill, worker_of
from campaign.command import Running
from campaign.poison import DEEDS, HANGS

LONG, SHORT, POISONED = Size(12 * SHARD, 1.0), Size(4 * SHARD, 1.0), Size(2 * SHARD + 8, 0.1)
_TTL = 25.0  # seconds; Dask allows no less than five, and on a machine that is too busy signs of life come late
_DEADLINE = 25.0  # seconds of a task without a sign of life; on a machine that is too busy, the first batch waits that long for its libraries
_MEMORY = 3 * 2**28  # bytes beyond what a worker begins with
_ORPHANS = 30.0
_SEARCH = 900.0  # seconds that a search for rows may take
_STARTS = 4  # of a process alone until it must have found what kills it


def worker(trial: Trial) -> None:
    """SIGKILL of workers at random moments."""
    trial.planned = trial.drawn.randint(3, 5)
    running = trial.started(trial.drawn.choice((2, 3)))
    if trial.at_work(running):
        for _ in range(trial.planned):
            moment = time.monotonic() + trial.drawn.uniform(0.1, 3.0)
            if trial.until(running, lambda moment=moment: time.monotonic() > moment and bool(running.workers())):  # type: ignore[misc]
                with contextlib.suppress(psutil.Error):
                    trial.drawn.choice(running.workers()).kill()
                    trial.land(f"{time.monotonic() - running.began:.1f} s")
    if trial.must_end(running):
        trial.same()
    trial.count(trial.landed)


def task(trial: Trial) -> None:
    """Tasks that end their process, once each."""
    shards = trial.drawn.sample(range(trial.size.shards), 3)
    deeds = [f"{deed}-once" for deed in ("kill", "segfault", "exit")]
    poison = {str(shard * SHARD + trial.drawn.randrange(SHARD)): deed for shard, deed in zip(shards, deeds, strict=True)}
    trial.planned = len(poison)
    running = trial.started(2, poison)
    if trial.must_end(running):
        trial.same()
    for mark in sorted(trial.marks.iterdir()):
        trial.land(mark.name)
    trial.count(trial.landed)


def driver(trial: Trial) -> None:
    """SIGKILL of the driver, and the same command again."""
    running = trial.started(2)
    trial.at_work(running)
    time.sleep(trial.drawn.uniform(0, 3))
    _kill_driver(trial, running)
    again = trial.started(trial.drawn.choice((1, 2)))
    if trial.must_end(again):
        trial.same()


def _kill_driver(trial: Trial, running: Running) -> None:
    workers = running.workers()
    if running.send(signal.SIGKILL, group=False):
        running.ended(10)
        trial.land(f"driver killed after {time.monotonic() - running.began:.1f} s with {len(workers)} workers")
        began = time.monotonic()
        trial.wrong += running.orphans(_ORPHANS)
        trial.figures["orphans_gone_s"] = round(time.monotonic() - began, 1)


@contextlib.contextmanager
def cluster(trial: Trial, workers: int, *, nanny: bool = True, ttl: str = "") -> Iterator[Cluster]:
    """A scheduler with so many workers, beside the trial's folder."""
    own = Cluster(trial.ground.scratch / f"cluster-{trial.kind}-{trial.number}", trial.ground.variables(trial.size, trial.marks), ttl)
    try:
        own.start_scheduler()
        for _ in range(workers):
            own.start_worker(nanny=nanny)
        yield own
    finally:
        own.close()


def scheduler(trial: Trial) -> None:
    """A scheduler that is killed and comes back with new workers, or is frozen for longer than the driver waits for an answer."""
    with cluster(trial, 2) as own:
        running = trial.started(2, profile=trial.profile(**own.profile(workers=2, worker_timeout=120)))
        trial.at_work(running)
        time.sleep(trial.drawn.uniform(0, 2))
        if trial.number % 3 == 2 and own.scheduler:
            own.scheduler.send(signal.SIGSTOP, group=False)
            time.sleep(trial.drawn.uniform(5, 45))
            trial.land("scheduler frozen for a while")
            own.scheduler.send(signal.SIGCONT, group=False)
        elif own.scheduler and running.process.poll() is None and kill(own.scheduler):
            pause = trial.drawn.uniform(0, 40)
            trial.land(f"scheduler killed, away for {pause:.0f} s")
            time.sleep(pause)
            own.start_scheduler()
            own.start_worker()
            own.start_worker()
        if trial.must_end(running):
            trial.same()
    trial.count()


def nanny(trial: Trial) -> None:
    """The nanny of one of two workers dies, its worker goes, and a third worker comes."""
    with cluster(trial, 2) as own:
        running = trial.started(2, profile=trial.profile(**own.profile(workers=2, worker_timeout=120)))
        trial.at_work(running)
        orphan = worker_of(own.workers[0])
        if running.process.poll() is None and kill(own.workers[0]):
            trial.land("nanny killed")
            if not gone(orphan, _ORPHANS):
                trial.wrong.append(f"the worker still runs {_ORPHANS:.0f} s after its nanny was killed")
            own.start_worker()
        if trial.must_end(running):
            trial.same()
    trial.count(1)


def freeze(trial: Trial) -> None:
    """A worker is frozen beyond its time to live and goes on: under a nanny, which kills it, or alone, so that it finishes what was done again."""
    if trial.number % 2 == 0:
        running = trial.started(2, ttl=f"{_TTL} s")
        trial.at_work(running)
        _freeze(trial, running, trial.drawn.choice(running.workers()))
    else:
        with cluster(trial, 2, nanny=False, ttl=f"{_TTL} s") as own:
            running = trial.started(2, profile=trial.profile(**own.profile(workers=2, worker_timeout=120)))
            trial.at_work(running)
            _freeze(trial, running, psutil.Process(own.workers[0].pid))
    trial.count(1)


def _freeze(trial: Trial, running: Running, frozen: psutil.Process) -> None:
    frozen.suspend()
    trial.story.append(f"frozen {time.monotonic() - running.began:.1f} s after the start")
    buried = trial.until(running, lambda: any(event["ended"] != "done" for event in events_of(trial.log)), 120)
    time.sleep(trial.drawn.uniform(0, 4))
    with contextlib.suppress(psutil.NoSuchProcess):
        frozen.resume()
    if buried:
        trial.land("its task was given to another, and it went on")
    if trial.must_end(running):
        time.sleep(2 * trial.size.slow)  # in which a zombie could still write
        trial.same()


def frozen(trial: Trial) -> None:
    """The holder of the lock is frozen with all its processes."""
    running = trial.started(2, ttl=f"{_TTL} s")
    trial.at_work(running)
    if not running.send(signal.SIGSTOP, group=True):
        return
    trial.land("all frozen")
    began = time.monotonic()
    second = trial.started(2)
    trial.must_end(second, code=6)
    trial.figures["refused_s"] = round(time.monotonic() - began, 1)
    time.sleep(max(0.0, began + trial.drawn.uniform(0, 1.5 * _TTL) - time.monotonic()))
    running.send(signal.SIGCONT, group=True)
    if trial.must_end(running):
        trial.same()


def poison(trial: Trial) -> None:
    """Rows that do harm, on workers."""
    rows = _poisoned(trial, DEEDS)
    aside = {row: "hung_worker" if deed in HANGS else "killed_worker" for row, deed in rows.items()}
    trial.planned = len(rows) + (interrupted := trial.number % 3 == 2)
    workers = trial.drawn.choice((2, 3))
    profile = trial.profile(kind="laptop", workers=workers, task_deadline=_DEADLINE)
    running = trial.started(workers, rows, profile=profile)
    if interrupted:
        first = f"{min(rows)}-{rows[min(rows)]}"
        times = trial.drawn.randint(3, 6)
        trial.until(running, lambda: _minded(running) and _times(trial, first) >= times, 240)
        _kill_driver(trial, running)
        running = trial.started(workers, rows, profile=profile)
    trial.until(running, lambda: _minded(running) and False, _SEARCH)
    if trial.must_end(running, seconds=5):
        trial.same(aside)
    for row, deed in rows.items():
        if times := _times(trial, f"{row}-{deed}"):
            trial.land(f"row {row} {deed} {times} times")
    trial.count()


def alone(trial: Trial) -> None:
    """Rows that kill the only process there is."""
    rows = _poisoned(trial, ("kill", "segfault"))
    trial.planned = len(rows)
    for _ in range(_STARTS):
        running = trial.started(1, rows)
        code = running.ended(_SEARCH)
        if code not in (-signal.SIGKILL, -signal.SIGSEGV):
            break
    if code != 0:
        trial.wrong.append(f"the last of {len(trial.commands)} starts exits with {code}: {running.words()}")
    else:
        trial.same(dict.fromkeys(rows, "killed_worker"))
    for row, deed in rows.items():
        if times := _times(trial, f"{row}-{deed}"):
            trial.land(f"row {row} {deed} {times} times")


def _poisoned(trial: Trial, deeds: tuple[str, ...]) -> dict[str, str]:
    """One to three rows of one shard, most often the short one, and what they do; deeds go round with the trial's number."""
    full = trial.number % 4 == 3
    start, stop = (0, SHARD) if full else (2 * SHARD, trial.size.rows)
    count = 1 if full else trial.drawn.randint(1, 3)
    return {str(row): deeds[(trial.number + i) % len(deeds)] for i, row in enumerate(trial.drawn.sample(range(start, stop), count))}


def _times(trial: Trial, mark: str) -> int:
    path = trial.marks / mark
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _minded(running: Running) -> bool:
    """Kill workers that eat memory, as a kernel would; True."""
    for one in running.workers():
        with contextlib.suppress(psutil.Error):
            if one.memory_info().rss > _MEMORY:
                one.kill()
    return True


def late(trial: Trial) -> None:
    """Workers that come late, or never."""
    never = trial.number % 2 == 1
    with cluster(trial, 0) as own:
        running = trial.started(2, profile=trial.profile(**own.profile(workers=2, worker_timeout=10 if never else 90)))
        if never:
            trial.land("no worker")
            trial.must_end(running, code=6, seconds=75)
            if "no worker came" not in running.words():
                trial.wrong.append(f"it does not say that no worker came: {running.words()}")
            return
        trial.until(running, lambda: (trial.place / "runs").exists())
        time.sleep(trial.drawn.uniform(5, 10))
        own.start_worker()
        trial.at_work(running)
        trial.land("a worker came late")
        own.start_worker()
        if trial.must_end(running):
            trial.same()
        used = {event["worker"] for event in events_of(trial.log) if event["ended"] == "done"}
        trial.story.append(f"{len(used)} workers took part")


ACTS: dict[str, tuple[Size, Callable[[Trial], None]]] = {
    "worker": (LONG, worker),
    "task": (SHORT, task),
    "driver": (SHORT, driver),
    "scheduler": (LONG, scheduler),
    "nanny": (LONG, nanny),
    "freeze": (LONG, freeze),
    "frozen": (SHORT, frozen),
    "poison": (POISONED, poison),
    "alone": (POISONED, alone),
    "late": (SHORT, late),
}
