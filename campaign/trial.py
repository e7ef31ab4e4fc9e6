"""One trial: a command in a forked child that a numbered fault kills, the same command again without a fault, and what is wrong afterwards."""

import json
import os
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from curate import fault
from curate.errors import IntegrityError
from curate.journal import JournalFile
from curate.store import file_digest, verify

Work = Callable[[Path], None]
_OWN_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8,32}\.(tmp|part|old)")  # what is being written, or was, under a name of its own
_TIMED = re.compile(r"(.*/)?(built\.json|run\.json|results\.json|report\.(md|html)|tables/.*)")  # hold seconds, so only their names are compared
_GROWING = ".starts"  # the end of names of journals, of the small experiment
_KEPT_APART = re.compile(r"(.*/)?(\.lock|[^/]*\.lock|log\.jsonl|logs(/tasks\.jsonl)?)")  # no stage reads these back

_MOST_SECONDS = 300  # that a child may take; then SIGALRM ends it, which is a failure


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for a signal; the operations that it began; what it said."""

    code: int
    operations: list[dict[str, Any]]
    said: str


@dataclass(frozen=True)
class Verdict:
    """One trial; it passed if its fault landed and nothing is wrong."""

    number: int
    operation: str
    landed: bool
    wrong: list[str] = field(default_factory=list)
    survived: bool = False  # the command ended well all the same


def in_child(
    work: Work, place: Path, notes: Path, at: int = 0, mode: fault.Mode = "before", *, lasting: bool = False, keep: Path | None = None
) -> Ended:
    """Run `work` in a forked child, with a fault at its operation `at`, or none; what it does is noted in the folder `notes`.

    `lasting`: an errno comes at all later operations too. `keep`: a folder that gets the bytes of every write, by their hash.
    """
    notes.mkdir(parents=True, exist_ok=True)
    operations, said = notes / "operations.jsonl", notes / "said.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        signal.alarm(_MOST_SECONDS)
        os._exit(_child(work, place, (operations, said, keep), lambda note: fault.Fault(at, mode, note, lasting=lasting)))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, [json.loads(line) for line in operations.read_text().splitlines()], said.read_text()[-2000:])


def _child(work: Work, place: Path, files: tuple[Path, Path, Path | None], faulty: Callable[[fault.Observer], fault.Fault]) -> int:
    operations, said, keep = files
    words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # whatever they were in the parent
    notes, last = os.open(operations, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), ["", ""]

    def note(operation: fault.Operation) -> None:
        last[:] = str(operation.path), operation.name
        digest = None if operation.data is None else blake2b(operation.data, digest_size=16).hexdigest()
        line = {"number": operation.number, "name": operation.name, "path": last[0], "digest": digest, "bytes": len(operation.data or b"")}
        os.write(notes, json.dumps({**line, "source": operation.source and str(operation.source)}).encode() + b"\n")
        if keep is not None and digest is not None:
            (keep / digest).write_bytes(operation.data or b"")

    def around(name: str, which: int) -> Callable[..., Any]:
        call = getattr(os, name)

        def pointed(*arguments: Any, **more: Any) -> Any:
            folder = Path(os.readlink(f"/proc/self/fd/{more['dir_fd']}")) if more.get("dir_fd") is not None else Path()
            paths = [folder / os.fsdecode(argument) for argument in arguments[: which + 1]]
            if last[0] != str(paths[which]) or last[1] == "rmtree":
                fault.point(name, paths[which], source=paths[0] if which else None)
            return call(*arguments, **more)

        return pointed

    # Renames and removals that the package does elsewhere than in its store are points too; one that was just announced counts once.
    for name, which in (("rename", 1), ("unlink", 0), ("rmdir", 0)):
        setattr(os, name, around(name, which))
    _note_flushes(operations.with_name("flushed.txt"))
    try:
        fault.arm(faulty(note))
        work(place)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # the child must not run on into the code of its parent
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    sys.stdout.flush()
    return 0


def _note_flushes(file: Path) -> None:
    """From now on the path of whatever this process really flushes goes into the file, a line each."""
    notes, flush = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.fsync

    def noted(handle: int) -> None:
        flush(handle)
        os.write(notes, os.fsencode(os.readlink(f"/proc/self/fd/{handle}")) + b"\n")

    os.fsync = noted  # type: ignore[assignment]


def announced_only(notes: Path, operations: list[dict[str, Any]]) -> list[str]:
    """The paths that a child said it would flush and did not, as often as that was so."""
    said = Counter(os.path.realpath(one["path"]) for one in operations if one["name"] in ("fsync", "fsync folder"))
    return sorted((said - Counter((notes / "flushed.txt").read_text().splitlines())).elements())


def kept_apart(name: str) -> bool:
    """Whether a file says nothing of what was computed: locks and logs, which no stage reads back."""
    return _KEPT_APART.fullmatch(name) is not None


def contents(place: Path) -> dict[str, str]:
    """Every file below `place` with its hash, every folder, and every link; locks and log.jsonl are left out."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if not kept_apart(name):
            found[name] = "folder" if path.is_dir() else "" if _TIMED.fullmatch(name) else file_digest(path)
    return found


def differences(place: Path, reference: dict[str, str]) -> list[str]:
    """A line per file that is missing, stray or other than after the run that nothing disturbed."""
    here = contents(place)
    wrong = [f"{name} is missing" for name in sorted(reference.keys() - here.keys())]
    wrong += [f"{name} is stray" for name in sorted(here.keys() - reference.keys())]
    return wrong + [f"{name} has other bytes" for name in sorted(here.keys() & reference.keys()) if here[name] != reference[name]]


def is_own_name(path: str) -> bool:
    """Whether a file or folder of this path is being written under a name of its own, or is to be removed."""
    return any(_OWN_NAME.fullmatch(part) for part in Path(path).parts)


def whole_files(place: Path) -> dict[str, str]:
    """Every file under a final name with its hash, whatever it holds."""
    files = ((str(path.relative_to(place)), path) for path in sorted(place.rglob("*")) if path.is_file() and not _OWN_NAME.fullmatch(path.name))
    return {name: file_digest(path) for name, path in files if not kept_apart(name)}


def not_whole(place: Path) -> list[str]:
    """A line for everything that is wrong with an artifact under its final name in the store."""
    wrong = []
    for manifest in sorted(place.glob("store/*/manifest.json")):
        try:
            wrong += verify(manifest.parent)
        except IntegrityError as error:
            wrong.append(str(error))
    return [f"a finished artifact is not whole: {line}" for line in wrong]


def half_made(place: Path, before: dict[str, str], operations: list[dict[str, Any]]) -> list[str]:
    """Files that stand under a final name with bytes that neither were there `before` nor are the whole of what was to be written; journals may be cut."""
    known = {(final_name(Path(name)), digest) for name, digest in before.items()}
    known |= {(final_name(Path(one["path"]).relative_to(place)), one["digest"]) for one in operations if one["digest"] is not None}
    unknown = [name for name, digest in whole_files(place).items() if (final_name(Path(name)), digest) not in known]
    return [f"{name} is visible, but not whole" for name in unknown if not _grown(place / name)] + not_whole(place)


def _grown(path: Path) -> bool:
    """Whether this is a journal, which grows in its place, with nothing in it but whole lines, of which the last may have been cut short."""
    if not path.name.endswith(_GROWING):
        return False
    try:
        JournalFile(path).entries()
    except IntegrityError:
        return False
    return True


def final_name(path: Path) -> str:
    """The name that a file under construction will have."""
    parts = [match["name"] if (match := _OWN_NAME.fullmatch(part)) else part.removesuffix(".closed") for part in path.parts]
    return "/".join(part for part in parts if part != ".part")


def judged(work: Work, place: Path, notes: Path, reference: dict[str, str], at: int, mode: fault.Mode) -> Verdict:
    """Kill `work` at operation `at`, look, run it again, look again."""
    before = whole_files(place)
    killed = in_child(work, place, notes / "killed", at, mode)
    last = killed.operations[-1] if killed.operations else {"name": "none", "path": ""}
    operation = f"{last['name']} {last['path'].removeprefix(str(place))}"
    if killed.code != -signal.SIGKILL:
        wrong = [] if killed.code == 0 else [f"without a kill it exits with {killed.code}: {killed.said[-300:]}"]
        return Verdict(at, operation, False, wrong)
    wrong = half_made(place, before, killed.operations)
    again = in_child(work, place, notes / "again")
    if again.code:
        return Verdict(at, operation, True, [*wrong, f"the same command again exits with {again.code}: {again.said[-300:]}"])
    return Verdict(at, operation, True, wrong + differences(place, reference))
