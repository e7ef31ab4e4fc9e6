"""Cut the power of an experiment at every operation on the file system, run the same command again, and compare with a run that nothing disturbed.

    python -m campaign.power_loss [--stage S|all] [--draws N] [--turns] [--only N] [--limit N] [--seed S] [--out r.json]

No power is cut: a run of each stage is noted, every write with its bytes, and campaign/durable.py, which says what it takes a file system to be, works out
what a cut just before operation n may leave: files that were not flushed empty, torn, or zeros; names that were not flushed absent, or there without others
that came earlier. Of each moment three ways are always looked at (nothing that was not flushed; all names and no bytes; all bytes and no names) and `--draws`
more by chance. A trial lays that out, and passes if every artifact under a final name is whole, no file is gone whose name was flushed before, and the same
command ends with the bytes of the reference run and leaves nothing temporary. After the last operation, where the command has ended well, all that it made
has to be there already. Ways that leave the same files are tried once; `--turns` tries one way at each moment, in turn. The notes are checked: played back to
the end they give the files that are really there, so that no write goes past them, and whatever they say is flushed has to be flushed then, so that no flush
is announced only.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from campaign.crash_sweep import counted
from campaign.durable import Disk, draws
from campaign.small_experiment import recipe
from campaign.stages import each, finish, ground, options, work_of
from campaign.tally import counts
from campaign.trial import Verdict, Work, announced_only, contents, differences, final_name, in_child, kept_apart, not_whole
from curate.store import digest

Left = Mapping[str, bytes | None]


class Cuts:
    """One stage: where it starts from, what it leaves undisturbed, and everything that it did to the disk."""

    def __init__(self, work: Work, start: Path, scratch: Path) -> None:
        self.work, self.start, self.scratch = work, start, scratch
        self.reference, self.bytes = scratch / "reference", scratch / "bytes"
        shutil.copytree(start, self.reference)
        self.bytes.mkdir()
        ended = in_child(work, self.reference, scratch / "notes", keep=self.bytes)
        if ended.code:
            raise SystemExit(f"the reference run exits with {ended.code}:\n{ended.said}")
        if forgotten := announced_only(scratch / "notes", ended.operations):
            raise SystemExit(f"what was to be flushed was not, {len(forgotten)} times, the first {forgotten[0]}")
        self.operations, self.expected = ended.operations, contents(self.reference)
        self.same = 0  # ways that left what another one had left

    def planned(self, limit: int, only: int) -> list[int]:
        """Operations before which the power goes, evenly spread; one more than there are is after the last."""
        numbers = [only] if only else list(range(1, len(self.operations) + 2))
        count = min(limit, len(numbers)) if limit else len(numbers)
        return [numbers[(place + 1) * len(numbers) // count - 1] for place in range(count)]

    def moments(self, planned: Sequence[int]) -> Iterator[tuple[int, Disk, set[str]]]:
        """The disk just before each of these operations, and the final names that were flushed by then."""
        disk, flushed = Disk(self.start, self.reference), Flushed(self.reference)
        for number, operation in enumerate([*self.operations, None], 1):
            if number in planned:
                yield number, disk, flushed.names
            if operation is not None:
                data = (self.bytes / operation["digest"]).read_bytes() if operation["digest"] else None
                disk.apply(operation, data)
                flushed.apply(operation)
        wrong = sorted({name for name, _ in disk.seen().items() ^ _files(self.reference).items() if not kept_apart(name)})
        if wrong:
            raise SystemExit(f"what was noted is not what was done, so the trials mean nothing: {', '.join(wrong[:5])}")

    def verdicts(self, planned: Sequence[int], count: int, seed: int, *, turns: bool = False) -> Iterator[Verdict]:
        """One for every way at every moment, or, in `turns`, for the next way at each; a way that leaves what another one left has its verdict."""
        known: dict[str, Verdict] = {}
        for place, (number, disk, flushed) in enumerate(self.moments(planned)):
            after = number > len(self.operations)
            what = "after the last operation" if after else "{name} {path}".format(**self.operations[number - 1]).replace(str(self.reference), "")
            ways = list(draws(count, np.random.Generator(np.random.Philox(key=[seed, number]))))
            for name, luck, cut in [ways[place % len(ways)]] if turns else ways:
                left = disk.left(luck, cut)
                state = digest(repr([sorted(left.items()), sorted(flushed), after]).encode())
                self.same += state in known
                if state not in known:
                    known[state] = Verdict(number, f"{what}; {name}", True, self._wrong(left, flushed, after))
                yield known[state]

    def _wrong(self, left: Left, flushed: set[str], after: bool) -> list[str]:
        place = self.scratch / "trial"
        _lay_out(left, place)
        try:
            wrong = not_whole(place)
            there = {final_name(Path(name)) for name in left}
            wrong += [f"{name} was flushed, and is gone" for name in sorted(flushed - there)]
            if after:
                wrong += [f"the command had ended, and {line}" for line in differences(place, self.expected)]
            again = in_child(self.work, place, self.scratch / "trial-notes")
            if again.code:
                return [*wrong, f"the same command exits with {again.code}: {again.said[-300:]}"]
            return wrong + differences(place, self.expected)
        finally:
            shutil.rmtree(place)


class Flushed:
    """Final names of files that were given, and whose folder was flushed, and that were not removed."""

    def __init__(self, root: Path) -> None:
        self.root, self.names = root, set[str]()
        self._given: dict[Path, str] = {}

    def apply(self, operation: Mapping[str, Any]) -> None:
        path = Path(operation["path"])
        if operation["name"] == "rename" and Path(operation["source"]).suffix == ".tmp":
            self._given[path] = final_name(path.relative_to(self.root))
        elif operation["name"] == "fsync folder":
            self.names |= {self._given.pop(given) for given in list(self._given) if given.parent == path}
        elif operation["name"] in ("unlink", "unlock"):
            self.names.discard(final_name(path.relative_to(self.root)))


def _files(place: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(place)): None if path.is_dir() else path.read_bytes() for path in place.rglob("*")}


def _lay_out(left: Left, place: Path) -> None:
    place.mkdir()
    for name, data in sorted(left.items()):
        if data is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(data)


def main(arguments: Sequence[str] | None = None) -> int:
    limits = "at most N moments per stage, evenly spread, the last one included"
    parser = options(__doc__, only="replay the trials at operation N of one stage", limit=limits, seed="of the rows, the training and chance")
    parser.add_argument("--draws", type=int, default=2, metavar="N", help="ways by chance at each moment, besides the three")
    parser.add_argument("--turns", action="store_true", help="one way at each moment, the next one at the next")
    given = parser.parse_args(arguments)
    if given.only and given.stage == "all":
        parser.error("--only needs --stage")
    settings, found = recipe(given.seed, given.rows), {}
    with ground(settings) as (scratch, start):
        for stage, cuts in each(given.stage, scratch, start, lambda stage, start, folder: Cuts(work_of(stage, settings), start, folder)):
            verdicts = cuts.verdicts(cuts.planned(given.limit, given.only), given.draws, given.seed, turns=given.turns)
            found[stage] = counted(verdicts, lambda line: print(line, flush=True))
            found[stage]["alike"] = cuts.same
            print(f"{stage}: {counts(found[stage])}, {cuts.same} of them alike", flush=True)
    return finish(found, given, "power loss")


if __name__ == "__main__":
    sys.exit(main())
