"""Let a Hub fail at every request of a push, and look at what is there afterwards.

    python -m campaign.export_faults [--kind KIND]... [--limit N] [--lasting] [--races N] [--only SCENE:KIND:N] [--seed S] [--out r.json]

The Hub is a server on loopback (tests/hub/stub.py); the client is the real huggingface_hub. Two pushes are swept: the first one to a new name, and
one over an earlier export. A trial hits request n in one way: the connection drops before or after the request is done, a status, an answer that
comes late or too late, half of a body; with `--lasting` so do all requests after it. Then the repository must hold the old revision or the new one,
whole, with at most one commit more; a success must be the new one, an error must be an ExportError of one line that does not hold the token, and
is not told as "nothing was committed" if something was. The same push again, undisturbed, must succeed with that one commit, and once more be a no-op.
`--only first:after:7` replays one trial. `--races N` lets two pushes of different exports meet, N times: one wins, the other is told.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from campaign.spread import spread
from tests.hub.stub import Fault, Hub, serving

TOKEN = "hf_" + "Canary0Of1The2Token3That4Nobody5May6See"
NAME = "org/subset"
KINDS = ("before", "after", "short", "slow", "hang", "401", "403", "404", "409", "412", "429", "500", "503")
DAILY = ("before", "after", "short", "slow", "403", "429", "503")
SCENES = ("first", "update")
_PATIENCE, _SLOW, _HANG = 0.4, 0.1, 0.8  # seconds: what the client waits, what is merely late, what is too late
_sleep = time.sleep


@dataclass
class Verdict:
    """One trial; it passed if its fault landed and nothing is wrong."""

    trial: str
    request: str
    landed: bool
    outcome: str
    wrong: list[str] = field(default_factory=list)


@contextmanager
def hub_and_client(folder: Path) -> Iterator[Hub]:
    """A stub, and this process's huggingface_hub pointed at it: impatient, and with pauses between tries cut short."""
    with serving({TOKEN: True}) as hub:
        before = dict(os.environ)
        wanted = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
        os.environ |= {**wanted, "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if "huggingface_hub" in sys.modules:
            raise SystemExit("huggingface_hub was imported before it could be pointed at the stub; start this program by itself")
        from curate.exporting import hub_requests

        hub_requests._SECONDS = _PATIENCE
        time.sleep = _short_pause
        try:
            yield hub
        finally:
            time.sleep = _sleep
            os.environ.clear()
            os.environ |= before


def _short_pause(seconds: Any) -> None:
    _sleep(min(float(seconds), 0.01))


def exported(folder: Path, word: str, rows: int, seed: int) -> Path:
    """A small export whose rows, and so whose hashes, depend on the word and the seed."""
    from curate.export import Card, Export, Part, export_folder

    texts = [{"prompt": f"{word} {seed} {number}", "completion": str(number)} for number in range(rows)]
    part = Part(texts, [f"{word}-{number}" for number in range(rows)], [1.0] * rows, ["drawn"] * rows, file_bytes=400)
    return export_folder(folder / f"{word}-{rows}", Export([part], Card(name=word)))


def push(folder: Path) -> tuple[str, str]:
    """The outcome of a push, success, no-op or error, and the commit or the message."""
    from curate.errors import ExportError
    from curate.exporting.hub import push_folder
    from curate.exporting.manifest import read_manifest

    try:
        pushed = push_folder(folder, read_manifest(folder), NAME)
    except ExportError as error:
        return "error", str(error)
    return ("pushed" if pushed.new else "no-op"), pushed.revision


class Sweep:
    """One scene: the state that trials start from, and the requests of a push that nothing disturbs."""

    def __init__(self, hub: Hub, scene: str, scratch: Path, seed: int) -> None:
        self.hub, self.scene = hub, scene
        self.old, self.new = exported(scratch / scene, "old", 6, seed), exported(scratch / scene, "new", 4, seed)
        push(self.new)  # the client asks some things once in its life
        self.reset()
        push(self.new)
        self.requests = list(hub.seen)
        self.expected = dict(hub.repositories[NAME].commits[-1][1])

    def reset(self, fault: Fault | None = None) -> None:
        """The state of the scene, with a fault to come."""
        self.hub.arm(None)
        self.hub.repositories.clear()
        self.hub.blobs.clear()
        if self.scene == "update":
            push(self.old)
        self.before = {name: list(repository.commits) for name, repository in self.hub.repositories.items()}
        self.hub.arm(fault)

    def trial(self, kind: str, at: int, lasting: bool) -> Verdict:
        fault = Fault(at, kind, lasting, {"slow": _SLOW, "hang": _HANG}.get(kind, 0.0))
        self.reset(fault)
        outcome, said = push(self.new)
        if kind == "hang":
            _sleep(_HANG)  # what was sent too late to be answered may still be done
        self.hub.arm(None)
        wrong = self._wrong(outcome, said)
        again = [push(self.new)[0] for _ in range(2)]
        if again[0] == "error" or again[1] != "no-op":
            wrong.append(f"the same push again ends with {again[0]}, and once more with {again[1]}")
        if self.added() != 1 or self._files() != self.expected:
            wrong.append(f"in the end there are {self.added()} commits more, and the files are {'right' if self._files() == self.expected else 'wrong'}")
        return Verdict(f"{self.scene}:{kind}:{at}", self.requests[min(at, len(self.requests)) - 1][:60], fault.landed > 0, f"{outcome}: {said}", wrong)

    def _files(self) -> dict[str, bytes]:
        return dict(self.hub.repositories[NAME].commits[-1][1]) if NAME in self.hub.repositories else {}

    def added(self) -> int:
        """Commits since the reset, without the one that makes a repository."""
        now = self.hub.repositories[NAME].commits if NAME in self.hub.repositories else []
        return max(0, len(now) - (len(self.before.get(NAME, [])) or 1))

    def _wrong(self, outcome: str, said: str) -> list[str]:
        added, wrong = self.added(), []
        if added > 1 or (added == 1 and self._files() != self.expected):
            wrong.append(f"{added} commits were made, and the newest is not the export, whole")
        if outcome != "error" and added != 1:
            wrong.append("a success is told, and nothing was committed")
        if outcome == "error" and ("\n" in said or TOKEN in said):
            wrong.append("the error holds the token, or more than one line")
        if outcome == "error" and "nothing was committed" in said and added:
            wrong.append("the error says that nothing was committed, and something was")
        return wrong


def race(hub: Hub, scratch: Path, number: int, seed: int) -> Verdict:
    """Another push commits while ours is on its way: ours must be told so, and change nothing; pushed again it goes on top."""
    ours, theirs, base = (exported(scratch / f"race-{number}", word, 3, seed + number) for word in ("ours", "theirs", "base"))
    hub.arm(None)
    hub.repositories.clear()
    push(base)
    repository = hub.repositories[NAME]

    def faster() -> None:
        files = {str(path.relative_to(theirs)): path.read_bytes() for path in sorted(theirs.rglob("*")) if path.is_file()}
        repository.add({**repository.commits[-1][1], **files})

    hub.at_commit = faster
    outcome, said = push(ours)
    wrong = [] if outcome == "error" and "somebody else" in said else [f"the loser of a race ends with {outcome}: {said}"]
    if len(repository.commits) != 3:
        wrong.append(f"there are {len(repository.commits)} commits, and not the winner's alone")
    if (after := push(ours)[0]) != "pushed":
        wrong.append(f"the same push again ends with {after}")
    return Verdict(f"race:{number}", "commit", True, f"{outcome}: {said}", wrong)


def planned(sweep: Sweep, kinds: Sequence[str], limit: int) -> list[tuple[str, int]]:
    """(kind, request) of every trial of a scene; `limit` takes them evenly spread."""
    every = [(kind, at) for at in range(1, len(sweep.requests) + 1) for kind in kinds]
    return spread(every, limit)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be repeated; default: seven of them")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N trials a scene, evenly spread")
    parser.add_argument("--lasting", action="store_true", help="every request from n on fails")
    parser.add_argument("--only", metavar="SCENE:KIND:N", help="replay one trial")
    parser.add_argument("--races", type=int, default=0, metavar="N", help="pushes that meet another, besides")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--out", type=Path, help="write the counts and the trials here, as JSON")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="curate-faults-"))
    verdicts: list[Verdict] = []
    try:
        with hub_and_client(scratch) as hub:
            for scene in SCENES:
                sweep = Sweep(hub, scene, scratch, given.seed)
                trials = planned(sweep, given.kind or DAILY, given.limit)
                if given.only:
                    only_scene, kind, number = given.only.split(":")
                    trials = [(kind, int(number))] if only_scene == scene else []
                verdicts += [_said(sweep.trial(kind, at, given.lasting)) for kind, at in trials]
            verdicts += [_said(race(hub, scratch, number, given.seed)) for number in range(given.races)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return finish(verdicts, given, time.monotonic() - began)


def _said(verdict: Verdict) -> Verdict:
    if verdict.wrong:
        print(f"  FAILED {verdict.trial} ({verdict.request}; {verdict.outcome[:200]}): " + "; ".join(verdict.wrong), flush=True)
    return verdict


def finish(verdicts: Sequence[Verdict], given: argparse.Namespace, seconds: float) -> int:
    """Print the counts, write them where they are wanted, and say with the exit code whether all is well."""
    landed = [verdict for verdict in verdicts if verdict.landed]
    passed = sum(not verdict.wrong for verdict in landed)
    counts: dict[str, Any] = {"planned": len(verdicts), "landed": len(landed), "not_landed": len(verdicts) - len(landed), "passed": passed}
    counts |= {"failed": sum(bool(verdict.wrong) for verdict in verdicts), "seconds": round(seconds, 1), "seed": given.seed}
    counts["told as errors"] = sum(verdict.outcome.startswith("error") for verdict in landed)
    print("export_faults: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items()))
    if given.out:
        given.out.write_text(json.dumps({"total": counts, "trials": [asdict(verdict) for verdict in verdicts]}, indent=1) + "\n")
    return 0 if verdicts and passed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
