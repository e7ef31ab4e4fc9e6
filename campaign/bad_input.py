"""Give curate every bad input of the catalogue, and then files that are damaged at random, and see that it names what is wrong.

    python -m campaign.bad_input [--part C|D|M|N|all] [--mutations N] [--seed S] [--tests] [--only ID] [--out r.json]

A case of the catalogue runs in a forked child with limits of time and memory. It passes if curate ends with the documented exit code and one line
that says what, where, what was allowed and what to do, without a traceback; what is wrong with a recipe is said within two seconds and before torch
is imported. With `--tests`, cases that a test of the suite shows count by that test. Cases that are out of reach are listed and counted as skipped.

Mutations are files of a small experiment (data, model, store, run, recipe) with flipped, cut, spliced or swapped bytes: see campaign.mutations.
`--only` replays one case by its id, or one mutation by its number. Exit 1 on any failure.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign.catalogue import TINY, Case, Shown, Skipped, arranged, played, wrong_with
from campaign.confined import MIB, Ended, Limits, confined
from campaign.tally import words

PARTS = ("C", "D", "M", "N")
LIGHT = Limits(clock=20, processor=10, memory=300 * MIB)
HEAVY = Limits(clock=120, processor=60, memory=3072 * MIB)
LIGHT_SECONDS = 2.0


@dataclass(frozen=True)
class Verdict:
    """One trial: what is wrong, why it was skipped, or that it passed."""

    id: str
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0


def catalogue(parts: Sequence[str]) -> list[Case | Shown | Skipped]:
    """Every case of these parts, the light ones first."""
    from campaign import catalogue_config, catalogue_data, catalogue_model, catalogue_numeric

    makers = dict(zip(PARTS, (catalogue_config, catalogue_data, catalogue_model, catalogue_numeric), strict=True))
    found = [case for part in parts for case in makers[part].cases()]
    names = [case.id for case in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the catalogue has {twice[0]} twice")
    return sorted(found, key=lambda case: not (isinstance(case, Case) and case.light))


def tried(case: Case) -> Verdict:
    """Run one case in a child; the child's folder is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        arranged(case, place)
        ended = confined(partial(played, case), place, LIGHT if case.light else HEAVY)
        return Verdict(case.id, _judged(case, place, ended), seconds=round(ended.seconds, 2))


def _judged(case: Case, place: Path, ended: Ended) -> list[str]:
    if not ended.returned:
        return [f"it did not come back (exit {ended.code}): {ended.error[-400:]!r}"]
    wrong = [f"{' '.join(command)} before it exits with {code}" for command, code in zip(case.again, ended.returned["before"], strict=True) if code]
    wrong += wrong_with(case, place, ended.returned["code"], ended.out, ended.error)
    if case.light and ended.seconds > LIGHT_SECONDS:
        wrong.append(f"it takes {ended.seconds:.1f} s of processor")
    if case.light and ended.returned["torch"]:
        wrong.append("it imports torch")
    return wrong


def by_tests(shown: Sequence[Shown]) -> list[Verdict]:
    """Run the tests that show these cases, all in one go; a test that is not there fails its case."""
    import subprocess
    from xml.etree import ElementTree

    if not shown:
        return []
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *dict.fromkeys(one.test for one in shown)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=1800)
        if not report.is_file():
            return [Verdict(one.id, [f"pytest gives no report: {done.stdout[-300:]}{done.stderr[-300:]}"]) for one in shown]
        outcomes = dict(_outcomes(ElementTree.parse(report).getroot()))
    return [Verdict(one.id, _of_test(one.test, outcomes, done.stdout)) for one in shown]


def _outcomes(report: Any) -> Iterator[tuple[str, str]]:
    """Every test by file::name, without its parameters, and what the first of them says that fails or was skipped; nothing where all passed."""
    found: dict[str, str] = {}
    for test in report.iter("testcase"):
        name = f"{test.get('classname', '').replace('.', '/')}.py::{str(test.get('name')).partition('[')[0]}"
        found[name] = found.get(name) or "; ".join(" ".join((one.get("message") or one.tag).split())[:600] for one in test if one.tag in _NOT_PASSED)
    yield from found.items()


_NOT_PASSED = ("failure", "error", "skipped")


def _of_test(test: str, outcomes: dict[str, str], said: str) -> list[str]:
    whole = test.partition("[")[0]
    if whole not in outcomes:
        return [f"{test} did not run: {said[-300:]!r}"]
    return [f"{test} fails or was skipped: {outcomes[whole]}"] if outcomes[whole] else []


def settled(cases: Sequence[Case | Shown | Skipped], tests: bool, say: Callable[[str], None]) -> list[Verdict]:
    """The verdict of every case. Light ones come first, in a process that has not imported torch."""
    import curate.cli  # noqa: F401
    import curate.recipe  # noqa: F401

    verdicts: list[Verdict] = []
    ready = False
    for case in cases:
        if isinstance(case, Case) and not case.light and not ready:
            warmed()
            ready = True
        if isinstance(case, Case):
            verdict = tried(case)
        elif isinstance(case, Skipped) or not tests:
            verdict = Verdict(case.id, skipped=case.why if isinstance(case, Skipped) else f"shown by {case.test}, which --tests runs")
        else:
            continue
        verdicts.append(verdict)
        _tell(verdict, say)
    for verdict in by_tests([case for case in cases if isinstance(case, Shown)]) if tests else []:
        verdicts.append(verdict)
        _tell(verdict, say)
    return verdicts


def _tell(verdict: Verdict, say: Callable[[str], None]) -> None:
    if verdict.wrong:
        say(f"  FAILED {verdict.id}: " + "; ".join(verdict.wrong[:2]))


def warmed() -> None:
    """Run a small experiment once in this process, so that its children find all libraries imported and set up."""
    import yaml

    from campaign.small_experiment import recipe
    from curate.model import resolve
    from curate.pipelines.launch import execute
    from curate.pipelines.prepare import checked_tokenizer
    from curate.recipe import Runtime, parse_recipe
    from curate.settings import ModelSpec
    from curate.strict_yaml import load

    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(store=Path(folder) / "store", runs=Path(folder) / "runs", workers=1)
        execute(parse_recipe(load(yaml.safe_dump(recipe(0, 40)), "campaign")), runtime, Path(folder), until="", command="curate run", quiet=True)
    checked_tokenizer(resolve(ModelSpec(path=str(TINY), max_length=128), Path()))  # which takes a process of its own, and is kept


def counts(verdicts: Sequence[Verdict], seconds: float) -> dict[str, Any]:
    """Planned, landed, skipped, passed and failed, with the failures."""
    bad = [verdict for verdict in verdicts if verdict.wrong]
    skipped = [verdict for verdict in verdicts if verdict.skipped]
    return {
        "planned": len(verdicts),
        "landed": len(verdicts) - len(skipped),
        "not_landed": 0,
        "skipped": len(skipped),
        "passed": len(verdicts) - len(skipped) - len(bad),
        "failed": len(bad),
        "seconds": round(seconds, 1),
        "slowest": max((verdict.seconds for verdict in verdicts), default=0.0),
        "skips": {verdict.id: verdict.skipped for verdict in skipped},
        "failures": [asdict(verdict) for verdict in bad],
    }


def line(name: str, found: dict[str, Any]) -> str:
    """The counts as they are printed."""
    return f"{name}: {words(found, ('planned', 'landed', 'not_landed', 'skipped', 'passed', 'failed'))}, {found['seconds']} s"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all", "none"), default="all", help="of the catalogue")
    parser.add_argument("--mutations", type=int, default=0, metavar="N", help="damage files in N ways")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--tests", action="store_true", help="also run the tests that show the cases without a command of their own")
    parser.add_argument("--only", default="", metavar="ID", help="replay one case, or the mutation of this number")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    parts = {"all": PARTS, "none": ()}.get(given.part, (given.part,))
    if parts and not given.only.isdigit():
        cases = [case for case in catalogue(parts) if given.only in ("", case.id)]
        began = time.monotonic()
        found["catalogue"] = counts(settled(cases, given.tests, partial(print, flush=True)), time.monotonic() - began)
        for name, why in found["catalogue"]["skips"].items():
            print(f"  skipped {name}: {why}")
        print(line("catalogue", found["catalogue"]), flush=True)
    if given.mutations or given.only.isdigit():
        from campaign.mutations import mutated

        warmed()
        numbers = [int(given.only)] if given.only.isdigit() else list(range(given.mutations))
        found["mutations"] = mutated(given.seed, numbers, partial(print, flush=True))
        print(line(f"mutations, seed {given.seed}", found["mutations"]))
    if given.out:
        given.out.write_text(json.dumps({"seed": given.seed, **found}, indent=1) + "\n")
    return 0 if found and all(one["planned"] and not one["failed"] and not one["not_landed"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
