"""Kill training at every optimizer step and at random moments, go on, and compare with a run that nothing disturbed.

    python -m campaign.train_resume [--way plain|packed|infobatch|validated|warm-up|all] [--steps 0] [--random 10] [--only WAY:N] [--seed S] [--out r.json]

A run of 60 steps in three epochs (and a warm-up as long) trains a small adapter on generated rows. A forked child dies by SIGKILL right after step n,
before that is saved, or at a random moment; the same work runs again in a new child. It passes if the second one goes on from the last checkpoint and
not from before it, if every step saw the very rows that it saw in the undisturbed run, in that order and as often, and if losses, weights and every
other file that is left have the same bytes. Checkpoints are written after every step, or every seventh. `--steps 0` kills at all of them.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign.small_experiment import NAME, ROOT, recipe, run_stage
from campaign.spread import spread
from campaign.tally import counts, ended, total
from campaign.trial import Work, differences, in_child
from campaign.trial import contents as files_of

WAYS = ("plain", "packed", "infobatch", "validated", "warm-up")
EPOCHS, BATCH = 3, 4
_EVERY = (1, 7)
_DRAWS = 12  # of a random moment, each within half the time of the one before: later runs can be much faster than the reference


@dataclass(frozen=True)
class Verdict:
    """One trial; it passed if its kill landed and nothing is wrong."""

    way: str
    number: int
    story: str
    landed: bool
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ground:
    """Prepared rows, the model, and how many of the rows are trained on."""

    scratch: Path
    examples: Path
    rows: int
    seed: int

    @classmethod
    def laid(cls, scratch: Path, seed: int, rows: int) -> "Ground":
        """Prepare the pool of the small experiment."""
        from curate.pipelines.check import stages_of

        run_stage("prepare", scratch / "prepared", recipe(seed, 2 * rows))
        key = next(stage["key"] for stage in stages_of(scratch / "prepared" / "runs" / NAME) if stage["label"] == "pool")
        return cls(scratch, scratch / "prepared" / "store" / key, rows, seed)

    def work(self, way: str, every: int) -> Work:
        """What a child does in its folder: train, from whatever stands there."""
        return partial(_warm_up if way == "warm-up" else _fine_tune, self, way, every)


def _handle() -> Any:
    from curate.model import resolve
    from curate.settings import Lora, ModelSpec

    lora = Lora(r=2, alpha=4, dropout=0.1, targets="attention")
    return resolve(ModelSpec(path=str(ROOT / "configs" / "quickstart_model"), max_length=32, lora=lora), ROOT)


def _fine_tune(ground: Ground, way: str, every: int, place: Path) -> None:
    import numpy as np

    from curate.pipelines.finetune import TrainTask, run_training
    from curate.settings import Train
    from curate.store import Workspace
    from curate.training.pruning import Infobatch

    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 1e-3, "match": "epochs", "micro_batch_tokens": 64}
    ways: dict[str, dict[str, Any]] = {
        "packed": {"packing": True},
        "infobatch": {"pruning": Infobatch(ratio=0.5)},
        "validated": {"validation": 0.1, "validate_every": 5, "patience": 100},
    }
    settings |= ways.get(way, {})
    rows, weights = np.arange(ground.rows), np.linspace(0.5, 1.5, ground.rows, dtype=np.float32)
    typed = Train(**settings, checkpoint_every=every)
    run_training(TrainTask(_handle(), ground.examples, rows, weights, typed, ground.seed, None, None, "cpu"), Workspace(place))


def _warm_up(ground: Ground, way: str, every: int, place: Path) -> None:
    from curate.data.examples import opened
    from curate.pipelines.warm import WarmupTask, run_warmup
    from curate.settings import Warmup

    fraction = ground.rows / len(opened(ground.examples))
    settings = Warmup(fraction=fraction, epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-3, seed=ground.seed)
    run_warmup(WarmupTask(_handle(), ground.examples, settings, place, "cpu"))


def watched(work: Work, notes: Path, death: int, moment: float, place: Path) -> None:
    """The work in a folder that is locked, with the rows of every step noted; it dies after step `death`, or so many seconds after its first step."""
    import curate.train
    from curate.locks import locked

    take = curate.train._Loop.take
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    begun: list[int] = []

    def noting(self: Any, step: Any, number: int, rate: float) -> Any:
        if moment and not begun:
            threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
        begun.append(number)
        found = take(self, step, number, rate)
        os.write(file, json.dumps([os.getpid(), number, [str(name) for name in self.data.ids[step.rows]]]).encode() + b"\n")
        if number + 1 == death:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    curate.train._Loop.take = noting  # type: ignore[method-assign]  # of a forked child
    with locked(place / ".lock", wait=False):  # as the store holds what it builds, which removes what a killed holder was writing
        work(place)


@dataclass
class Reference:
    """The undisturbed run of one way: its files, the rows of its steps, and how long it takes from its first step on."""

    files: dict[str, str]
    steps: list[list[str]]
    seconds: float

    @classmethod
    def of(cls, ground: Ground, way: str) -> "Reference":
        place, notes = ground.scratch / f"{way}-reference", ground.scratch / f"{way}-reference.jsonl"
        place.mkdir()
        began = time.monotonic()
        ended = in_child(partial(watched, ground.work(way, 1), notes, 0, 0.0), place, ground.scratch / "notes")
        if ended.code:
            raise SystemExit(f"the reference run of {way} exits with {ended.code}:\n{ended.said}")
        return cls(files_of(place), [rows for _, _, rows in noted(notes)], time.monotonic() - began)


def noted(notes: Path) -> list[tuple[int, int, list[str]]]:
    """(process, step from 0, ids) of every step that was taken, in the order of time."""
    return [(int(pid), int(step), list(rows)) for pid, step, rows in map(json.loads, notes.read_text().splitlines())] if notes.is_file() else []


def unlike(steps: Sequence[tuple[int, int, list[str]]], expected: Sequence[list[str]], every: int) -> list[str]:
    """What is wrong with the rows that were seen: a step that saw others, steps left out, more steps lost than lie between checkpoints."""
    wrong, effective, last = [], {}, (-1, -1)
    for pid, step, rows in steps:
        if pid != last[0] and last[0] >= 0 and not 0 <= last[1] + 1 - step <= every:
            wrong.append(f"killed after step {last[1] + 1}, it went on with step {step + 1}, with a checkpoint after every {every}")
        elif step != last[1] + 1 and pid == last[0]:
            wrong.append(f"step {step + 1} follows step {last[1] + 1}")
        if step < len(expected) and rows != expected[step]:
            wrong.append(f"step {step + 1} saw {rows[:2]}..., not {expected[step][:2]}...")
        effective[step], last = rows, (pid, step)
    seen, wanted = (Counter(name for rows in one for name in rows) for one in ([effective[step] for step in sorted(effective)], expected))
    odd = [name for name in sorted(seen.keys() | wanted.keys()) if seen[name] != wanted[name]]
    return wrong + [f"row {name} was seen {seen[name]} times, not {wanted[name]}" for name in odd]


def trial(ground: Ground, way: str, number: int, reference: Reference) -> Verdict:
    """Kill after step `number`, or for a negative number at a random moment; go on; look."""
    drawn = random.Random(f"{ground.seed} {way} {number}")
    every = _EVERY[number % 2]
    moment = 0.0 if number > 0 else drawn.uniform(0, reference.seconds / 2 ** (-number // 1000))
    between = len(reference.steps) // EPOCHS if way == "warm-up" else every  # a warm-up saves after each epoch
    story = f"after step {number}" if number > 0 else f"{moment:.3f} s after the first step began"
    place, notes = ground.scratch / "trial", ground.scratch / "trial.jsonl"
    place.mkdir()
    try:
        killed = in_child(partial(watched, ground.work(way, every), notes, max(number, 0), moment), place, ground.scratch / "notes")
        if killed.code != -signal.SIGKILL:
            wrong = [] if killed.code == 0 else [f"without a kill it exits with {killed.code}: {killed.said[-300:]}"]
            return Verdict(way, number, story, False, wrong)
        again = in_child(partial(watched, ground.work(way, every), notes, 0, 0.0), place, ground.scratch / "notes")
        if again.code:
            return Verdict(way, number, story, True, [f"going on, it exits with {again.code}: {again.said[-300:]}"])
        wrong = unlike(noted(notes), reference.steps, between) + differences(place, reference.files)
        return Verdict(way, number, story, True, wrong)
    finally:
        shutil.rmtree(place)
        notes.unlink(missing_ok=True)


def swept(ground: Ground, way: str, steps: int, draws: int, say: Callable[[str], None], only: int = 0) -> dict[str, Any]:
    """The counts of one way and its failures; a random kill that came after the end is drawn anew, and sooner."""
    began, reference = time.monotonic(), Reference.of(ground, way)
    taken = len(reference.steps)
    numbers = [only] if only else spread(range(1, taken + 1), steps) + [-1 - draw for draw in range(draws)]
    verdicts, missed = [], 0
    for number in numbers:
        one = trial(ground, way, number, reference)
        for attempt in range(1, _DRAWS):
            if one.landed or one.wrong or number > 0 or only:
                break
            missed += 1
            one = trial(ground, way, number - 1000 * attempt, reference)
        verdicts.append(one)
        if one.wrong:
            say(f"  FAILED {way}:{one.number} ({one.story}): " + "; ".join(one.wrong[:3]))
    return {
        "way": way,
        "steps": taken,
        "planned": len(numbers),
        "landed": sum(one.landed for one in verdicts),
        "not_landed": missed + sum(not one.landed for one in verdicts),
        "passed": sum(one.landed and not one.wrong for one in verdicts),
        "failed": sum(bool(one.wrong) for one in verdicts),
        "seconds": round(time.monotonic() - began, 1),
        "failures": [asdict(one) for one in verdicts if one.wrong],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=(*WAYS, "all"), default="all")
    parser.add_argument("--steps", type=int, default=0, help="how many of the steps to kill at, evenly spread; 0 for all")
    parser.add_argument("--random", type=int, default=10, help="kills at random moments, of each way")
    parser.add_argument("--rows", type=int, default=80, help="that are trained on: 80 make 60 steps in three epochs")
    parser.add_argument("--only", default="", metavar="WAY:N", help="replay one trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    only_way, _, only = given.only.partition(":")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground.laid(Path(folder), given.seed, given.rows)
        for way in WAYS:
            if way == only_way or (not only_way and given.way in (way, "all")):
                found.append(swept(ground, way, given.steps, given.random, lambda line: print(line, flush=True), int(only or 0)))
                print(f"{way}, {found[-1]['steps']} steps: {counts(found[-1])}", flush=True)
    sums = total(found)
    print(f"all, seed {given.seed}: {counts(sums)}")
    return ended(sums, given.out, {"seed": given.seed, "total": sums, "ways": found})


if __name__ == "__main__":
    sys.exit(main())
