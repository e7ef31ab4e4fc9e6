"""Put known mistakes into a copy of the source, one at a time, and see that the driver that is there for each of them fails.

    python -m campaign.teeth [--only NAME] [--seed S] [--out r.json]

The bugs are those of campaign/teeth_bugs.py: exact edits of single places. Each is made in a copy of its own, in a temporary folder, and its driver runs
from that copy with the shortest options that reach the place. A bug is caught if the driver exits with another code than 0 and says the phrase that belongs
to the bug, so that a driver that breaks down by itself catches nothing. Before, the same command has to pass on a copy without a bug, or its driver is not
trusted. A bug whose edit does not fit the source any more has not landed. Exit 1 unless all planned bugs landed and were caught.
"""

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from campaign.command import ROOT, finish
from campaign.tally import counts, ended
from campaign.teeth_bugs import BUGS, Bug

COPIED = ("campaign", "configs", "curate", "pipelines", "scorers", "selectors", "tests", "pyproject.toml")
_MOST_SECONDS = 900  # of one driver
# Where a process imports from: this one, one that it forks, and one that it starts anew, as Dask does its workers.
_PLACES = """
import importlib.util, multiprocessing
names = ("curate.store", "curate.pipelines.score", "curate.scorers.loss", "campaign.trial", "tests.conftest")
found = [importlib.util.find_spec(name).origin for name in names]
for kind in ("fork", "spawn"):
    with multiprocessing.get_context(kind).Pool(1) as pool:
        found += [spec.origin for spec in pool.map(importlib.util.find_spec, names)]
print("\\n".join(found))
"""


@dataclass(frozen=True)
class Verdict:
    """One bug: whether its edit fitted, whether its driver caught it, and why not."""

    name: str
    landed: bool
    caught: bool
    wrong: str = ""
    seconds: float = 0.0


def misfit(bug: Bug, root: Path) -> str:
    """Why the bug cannot be put into the source below this folder; empty if every edit fits exactly one place and leaves it Python."""
    try:
        for file, text in _edited(bug, root).items():
            compile(text, file, "exec")
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    return ""


def _edited(bug: Bug, root: Path) -> dict[str, str]:
    """The files with their new text. ValueError, OSError."""
    texts: dict[str, str] = {}
    for edit in bug.edits:
        text = texts.get(edit.file) or (root / edit.file).read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise ValueError(f"{edit.file} has {edit.old.strip().splitlines()[0]!r} {text.count(edit.old)} times, not once")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def copied(root: Path, to: Path) -> Path:
    """The source that the drivers need, with its links, in a new folder."""
    to.mkdir(parents=True)
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, to / name)
    return to


def from_tree(arguments: Sequence[str], tree: Path) -> tuple[int, str]:
    """Run Python with these arguments on the source in `tree`; its exit code and what it said."""
    scratch = tree.parent / f"{tree.name}-scratch"
    scratch.mkdir(exist_ok=True)
    where = {"PYTHONPATH": str(tree), "TMPDIR": str(scratch)}
    code, _ = finish([sys.executable, *arguments], tree, scratch / "said.txt", where, seconds=_MOST_SECONDS)
    return code, (scratch / "said.txt").read_text(errors="replace")


def check_imports(tree: Path) -> None:
    """SystemExit if a process, forked or started, imports anything of ours from elsewhere: then bugs in the copy would show nothing."""
    code, said = from_tree(["-c", _PLACES], tree)
    elsewhere = [line for line in said.splitlines() if not Path(line).is_relative_to(tree)]
    if code or elsewhere or not said:
        raise SystemExit(f"a copy of the source in {tree} is not what is imported: {' '.join(elsewhere)[-300:]}")


class Controls:
    """Whether a command passes on the source as it is, run once for each."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.tree = copied(root, scratch / "whole")
        self._known: dict[tuple[str, ...], str] = {}

    def wrong(self, command: Sequence[str]) -> str:
        """Why its driver is not to be trusted; empty if it passes."""
        key = tuple(command)
        if key not in self._known:
            code, said = from_tree(command, self.tree)
            self._known[key] = f"without the bug it exits with {code}: {_end(said)}" if code else ""
        return self._known[key]


def _end(said: str) -> str:
    return " ".join(said.split())[-300:]


def tried(bug: Bug, root: Path, scratch: Path, controls: Controls, seed: int) -> Verdict:
    """Put the bug into a copy, run its driver there, and the same where it is not."""
    began = time.monotonic()
    if reason := misfit(bug, root):
        return Verdict(bug.name, False, False, reason)
    command = ["-m", f"campaign.{bug.driver}", "--seed", str(seed), *shlex.split(bug.options)]
    wrong = controls.wrong(command)
    if not wrong:
        tree = copied(root, scratch / "planted")
        try:
            for file, text in _edited(bug, root).items():
                (tree / file).write_text(text, encoding="utf-8")
            code, said = from_tree(command, tree)
        finally:
            shutil.rmtree(tree)
        if code == 0:
            wrong = "the driver passes"
        elif bug.said not in said:
            wrong = f"the driver exits with {code}, but does not say {bug.said!r}: {_end(said)}"
    return Verdict(bug.name, True, not wrong, wrong, round(time.monotonic() - began, 1))


def swept(bugs: Sequence[Bug], root: Path, scratch: Path, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every bug, and the counts."""
    began, verdicts = time.monotonic(), []
    controls = Controls(root, scratch)
    check_imports(controls.tree)
    for bug in bugs:
        verdicts.append(one := tried(bug, root, scratch, controls, seed))
        state = "caught" if one.caught else f"MISSED: {one.wrong}" if one.landed else f"NOT LANDED: {one.wrong}"
        say(f"  {bug.name}: {bug.driver} {bug.options}: {state}, {one.seconds} s")
    landed, caught = sum(one.landed for one in verdicts), sum(one.caught for one in verdicts)
    return {
        "planned": len(verdicts),
        "landed": landed,
        "not_landed": len(verdicts) - landed,
        "passed": caught,
        "failed": landed - caught,
        "seconds": round(time.monotonic() - began, 1),
        "bugs": [asdict(bug) | asdict(one) for bug, one in zip(bugs, verdicts, strict=True)],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="one bug: " + ", ".join(bug.name for bug in BUGS))
    parser.add_argument("--seed", type=int, default=0, help="of the drivers, where the bug's own options do not say")
    parser.add_argument("--out", type=Path, help="write the counts and every bug here, as JSON")
    given = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if given.only in ("", bug.name)]
    if not bugs:
        parser.error(f"there is no bug {given.only!r}; there are {', '.join(bug.name for bug in BUGS)}")
    with tempfile.TemporaryDirectory() as folder:
        found = swept(bugs, ROOT, Path(folder).resolve(), given.seed, lambda line: print(line, flush=True))
    print(f"teeth, seed {given.seed}: {counts(found)}")
    return ended(found, given.out, {"seed": given.seed, **found})


if __name__ == "__main__":
    sys.exit(main())
