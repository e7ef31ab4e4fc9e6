"""One trial from outside: signals to a command at random moments, the same command again, and what is wrong afterwards."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from campaign.command import Running, finish, start
from campaign.trial import contents, differences, whole_files
from curate.store import verify

MODES = ("driver", "group", "triple", "five", "interrupt", "twice", "terminate", "second", "frozen")
_EARLIER = 0.6  # of the time before, where a run ended before its signals
_KILLS = {"driver": 1, "group": 1, "triple": 3, "five": 5}
_EARLY = 0.15  # share of the signals that may come while Python still loads its libraries
_ORPHANS = 30.0  # seconds that processes without a driver may take to end
_REFUSED = 6  # exit code of a second driver
_REFUSES = 2.0  # seconds of computing in which it says so
_STOPPED = 130
_PATIENCE = 600.0


@dataclass(frozen=True)
class Subject:
    """What is killed: a command in a folder, what must hold in that folder afterwards, and the file by which it shows that it is at work."""

    prepare: Callable[[Path], None]
    command: Callable[[int], list[str]]  # workers
    verify: Callable[[Path], list[str]]
    sign: Path


@dataclass(frozen=True)
class Outcome:
    """One trial; it passed if its signals landed and nothing is wrong."""

    mode: str
    workers: int
    number: int
    landed: bool
    story: str
    wrong: list[str] = field(default_factory=list)


@dataclass
class Ground:
    """A subject with its reference run, which says what the bytes are and how long it takes."""

    subject: Subject
    scratch: Path
    seed: int
    expected: dict[str, str]
    seconds: float
    working: float

    @classmethod
    def laid(cls, subject: Subject, scratch: Path, seed: int) -> "Ground":
        """Run the command once, undisturbed."""
        place = scratch / "reference"
        subject.prepare(place)
        running = start(subject.command(1), place, scratch / "reference.said")
        came = _at_work(running, place / subject.sign)
        code = running.ended(_PATIENCE)
        ended = time.monotonic()
        running.remove()
        if code != 0 or (wrong := subject.verify(place)):
            raise SystemExit(f"the reference run exits with {code}: {wrong if code == 0 else running.words()}")
        return cls(subject, scratch, seed, contents(place), ended - running.began, ended - came)


@dataclass
class Trial:
    """What happens to one place, step by step."""

    ground: Ground
    place: Path
    workers: int
    drawn: random.Random
    within: float = 1.0  # of the times that the reference run took, the first part that moments are drawn from
    story: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[tuple[Running, float]] = field(default_factory=list)  # commands that ended, and when: nothing of them may go on

    @property
    def subject(self) -> Subject:
        return self.ground.subject

    def started(self) -> Running:
        """The command, and how it is called in the story."""
        return start(self.subject.command(self.workers), self.place, self.ground.scratch / f"said-{len(self.left)}.txt")

    def until_a_moment(self, running: Running, share: float = 1.0) -> None:
        """Wait for a random moment of the command's life, most often of the first `share` of the time in which it is at work."""
        sign = self.place / self.subject.sign
        before = sign.stat().st_mtime_ns if sign.exists() else 0
        if self.drawn.random() < _EARLY:
            moment = self.drawn.uniform(0, self.within * self.ground.seconds)
            began = running.began
        else:
            began = _at_work(running, sign, before)
            moment = self.drawn.uniform(0, self.within * share * self.ground.working)
        while time.monotonic() < began + moment and running.process.poll() is None:
            time.sleep(0.005)
        self.story.append(f"{time.monotonic() - running.began:.2f} s")

    def signalled(self, number: int, *, group: bool, share: float) -> int | None:
        """Start, wait for a moment, signal; the exit code, None where the command had ended before."""
        running = self.started()
        self.until_a_moment(running, share)
        landed = running.send(number, group=group)
        return self.over(running, landed)

    def over(self, running: Running, landed: bool) -> int | None:
        """Wait for the end after a signal; the exit code if the signal landed."""
        code = running.ended(_PATIENCE)
        self.left.append((running, time.monotonic()))
        if code is None:
            self.wrong.append(f"it still runs {_PATIENCE:.0f} s after the signal")
            running.remove()
            return None
        if landed and code != 0:
            return code
        if code != 0:
            self.wrong.append(f"without a signal it exits with {code}: {running.words()}")
        elif landed:  # it had nothing left to do, or else it lies
            self.wrong += [f"stopped on its way, it exits with 0, but {line}" for line in differences(self.place, self.ground.expected)]
        return None

    def look(self) -> None:
        """Right after a signal: what stands under a final name, or will when its artifact is done, must be whole."""
        for name, digest in whole_files(self.place).items():
            wanted = self.ground.expected.get(name.replace("/.part/", "/"), "")
            if wanted and wanted != digest:  # empty where the file holds seconds
                self.wrong.append(f"{name} is visible, but not whole")
        for manifest in sorted(self.place.glob("store/*/manifest.json")):
            self.wrong += [f"a finished artifact is not whole: {line}" for line in verify(manifest.parent)]

    def again(self) -> None:
        """The same command, to its end; then nothing may be missing, stray, other or lost, and nothing left running."""
        code, _ = finish(self.subject.command(self.workers), self.place, self.ground.scratch / "again.txt", seconds=_PATIENCE)
        if code:
            words = " ".join((self.ground.scratch / "again.txt").read_text(errors="replace").split())[-400:]
            self.wrong.append(f"the same command again exits with {code}: {words}")
        else:
            self.wrong += differences(self.place, self.ground.expected) + self.subject.verify(self.place)
        self.nothing_runs()

    def nothing_runs(self) -> None:
        """No process of a command that ended more than half a minute ago."""
        for running, ended in self.left:
            self.wrong += running.orphans(max(0.0, ended + _ORPHANS - time.monotonic()))


def run_trial(ground: Ground, mode: str, workers: int, number: int, attempt: int = 0) -> Outcome:
    """One trial in a folder of its own; after signals that came too late, with earlier moments."""
    place = ground.scratch / "trial"
    ground.subject.prepare(place)
    trial = Trial(ground, place, workers, random.Random(f"{ground.seed} {mode} {workers} {number} {attempt}"), _EARLIER**attempt)
    try:
        landed = _ACTS[mode](trial, mode)
        if landed and not trial.wrong:
            trial.again()
        return Outcome(mode, workers, number, landed, ", ".join(trial.story), trial.wrong)
    finally:
        for running, _ in trial.left:
            running.remove()
        shutil.rmtree(place)


def _killed(trial: Trial, mode: str) -> bool:
    """SIGKILL, once or more often; whether every kill landed."""
    for _ in range(_KILLS[mode]):
        group = mode == "group" or (mode != "driver" and trial.drawn.random() < 0.5)
        trial.story.append("group" if group else "driver")
        code = trial.signalled(signal.SIGKILL, group=group, share=1 if _KILLS[mode] == 1 else 0.5)  # a recovery is shorter
        if code is None:
            return False
        if code != -signal.SIGKILL:
            trial.wrong.append(f"killed, it exits with {code}")
        trial.look()
        if trial.drawn.random() < 0.5:  # else the next command starts while workers of the last one may still write
            trial.nothing_runs()
    return True


def _stopped(trial: Trial, mode: str) -> bool:
    """Ctrl-C, a second one, or SIGTERM: exit code 130, once Python has got as far as to handle it."""
    running = trial.started()
    sign = trial.place / trial.subject.sign
    trial.until_a_moment(running)
    at_work = sign.exists()
    number = signal.SIGTERM if mode == "terminate" else signal.SIGINT
    landed = running.send(number, group=mode != "terminate")
    if mode == "twice":
        time.sleep(trial.drawn.uniform(0.05, 1.0))
        running.send(number, group=True)
    code = trial.over(running, landed)
    if code is None:
        return False
    surely = at_work and mode != "twice" and "report: runs/" not in running.words()  # else Python was starting, or on its way out
    allowed = {_STOPPED} if surely else {_STOPPED, -number}
    if code not in allowed:
        trial.wrong.append(f"stopped by {signal.Signals(number).name}, it exits with {code}: {running.words()}")
    trial.look()
    return True


def _second(trial: Trial, mode: str) -> bool:
    """Another driver on the same run, while the first works or is frozen: refused, and nothing changed."""
    running = trial.started()
    _at_work(running, trial.place / trial.subject.sign)
    moment = trial.drawn.uniform(0, 0.3) * trial.ground.working
    trial.story.append(f"{moment:.2f} s")
    time.sleep(moment)
    if mode == "frozen" and not running.send(signal.SIGSTOP, group=True):
        trial.over(running, False)
        return False
    before = contents(trial.place) if mode == "frozen" else {}
    code, computed = _computed(trial)
    landed = running.process.poll() is None
    if landed and code != _REFUSED:
        trial.wrong.append(f"a second driver exits with {code}, not {_REFUSED}")
    if landed and computed > _REFUSES:
        trial.wrong.append(f"a second driver computes for {computed:.1f} s before it refuses, more than {_REFUSES}")
    if mode == "frozen":
        trial.wrong += [f"while the holder was frozen: {line}" for line in differences(trial.place, before)]
        running.send(signal.SIGCONT, group=True)
    first = running.ended(_PATIENCE)
    trial.left.append((running, time.monotonic()))
    if first != 0:
        trial.wrong.append(f"the first driver exits with {first}: {running.words()}")
    trial.story.append(f"refused after {computed:.1f} s of computing")
    return landed


def _computed(trial: Trial) -> tuple[int | None, float]:
    """The exit code of a second driver, and the seconds of processor time that it took: others' load is not its fault."""
    other = start(trial.subject.command(trial.workers), trial.place, trial.ground.scratch / "second.txt")
    process, spent = psutil.Process(other.pid), 0.0
    while (code := other.ended(0.02)) is None and time.monotonic() - other.began < _PATIENCE:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent = max(spent, times.user + times.system)
    other.remove()
    return code, spent


def _at_work(running: Running, sign: Path, before: int = 0) -> float:
    """Wait until the command has touched its sign; when that was."""
    while running.process.poll() is None and not (sign.exists() and sign.stat().st_mtime_ns > before):
        time.sleep(0.005)
    return time.monotonic()


_ACTS: dict[str, Callable[[Trial, str], bool]] = {
    **dict.fromkeys(("driver", "group", "triple", "five"), _killed),
    **dict.fromkeys(("interrupt", "twice", "terminate"), _stopped),
    **dict.fromkeys(("second", "frozen"), _second),
}
