"""What the drivers share that go through the small experiment stage by stage, each from what the stages before it left."""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from campaign.small_experiment import STAGES, run_stage
from campaign.tally import counts, ended, total
from campaign.trial import Work


class OneStage(Protocol):
    """A stage with the folder that it leaves when nothing disturbs it."""

    reference: Path


S = TypeVar("S", bound=OneStage)


def options(about: str | None, *, only: str, limit: str, seed: str) -> argparse.ArgumentParser:
    """The options of such a driver, with what three of them mean."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--only", type=int, default=0, metavar="N", help=only)
    parser.add_argument("--limit", type=int, default=0, metavar="N", help=limit)
    parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument("--rows", type=int, default=300, help="of the pool; scores come in shards of 256")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    return parser


@contextlib.contextmanager
def ground(settings: dict[str, object]) -> Iterator[tuple[Path, Path]]:
    """A scratch folder, and an empty one in it that the first stage starts from.

    Every stage was run once in this process, so that its children find all libraries imported and set up.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for stage in STAGES:
            run_stage(stage, scratch / "warm", settings)
        (scratch / "start").mkdir()
        yield scratch, scratch / "start"


def each(wanted: str, scratch: Path, start: Path, made: Callable[[str, Path, Path], S]) -> Iterator[tuple[str, S]]:
    """The wanted stage, or `all` in their order, as `made` (name, start, scratch folder); those before it are run without a fault."""
    for stage in STAGES:
        one = made(stage, start, scratch / stage)
        start = one.reference
        if wanted in (stage, "all"):
            yield stage, one
        if wanted == stage:
            return


def work_of(stage: str, settings: dict[str, object]) -> Work:
    """The stage as work in a folder."""
    return partial(_run, stage, settings)


def _run(stage: str, settings: dict[str, object], place: Path) -> None:
    run_stage(stage, place, settings)


def finish(found: Mapping[str, dict[str, Any]], given: argparse.Namespace, what: str) -> int:
    """Print the sums, write them where they are wanted, and say with the exit code whether all is well."""
    sums = total(found.values())
    print(f"all, {what}, seed {given.seed}: {counts(sums)}")
    return ended(sums, given.out, {"what": what, "seed": given.seed, "rows": given.rows, "total": sums, "stages": found})
