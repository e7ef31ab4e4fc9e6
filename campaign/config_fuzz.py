"""Read recipes and cluster profiles that are almost right: the answer is a recipe, or an error of one line for each problem.

    python -m campaign.config_fuzz [--trials N] [--cli N] [--seed S] [--only N] [--out r.json]

A trial draws a recipe from the schemas (every scorer, selector and field), damages one thing in it, writes it as YAML or JSON, and perhaps damages the
bytes, or overrides a field from the command line. It passes if reading it ends within two seconds and 300 MB in a CurateError whose every line says
where, or in a recipe that comes back from its resolved YAML with the same fields, and so with the same keys. With `--cli`, evenly spread trials run
`curate validate` too. Trials are functions of (seed, number): `--only` replays one and prints its text. Exit 1 on any failure, and where nothing
that was drawn is valid.
"""

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from campaign.catalogue import curate
from campaign.confined import MIB, Limits, confined
from campaign.drawing import Rng, as_text, damaged, mutated, paths, pick, rng_of, sampled
from campaign.tally import NAMES, words

SECONDS = 2.0
BATCH = 100
LIMITS = Limits(clock=BATCH * SECONDS + 60, processor=BATCH * SECONDS, memory=300 * MIB)
_PLACED = re.compile(r"(case\.yaml:[0-9]+: |command line\b|override |\.\.\. and [0-9]+ more problems).*")


@dataclass(frozen=True)
class Trial:
    """A text and overrides to read; `profile` says whether it is one of a cluster."""

    raw: bytes
    overrides: tuple[str, ...] = ()
    profile: bool = False


@lru_cache
def _schemas() -> dict[str, Mapping[str, Any]]:
    """The JSON schemas of a recipe, of every scorer and selector, and of a cluster's profile."""
    from curate.clusters.settings import KINDS
    from curate.recipe import Recipe
    from curate.registry import load, names

    found: dict[str, Mapping[str, Any]] = {"recipe": Recipe.model_json_schema()}
    found |= {f"profile/{kind}": profile.model_json_schema() for kind, profile in KINDS.items()}
    for kind in ("scorers", "selectors"):
        found |= {f"{kind}/{name}": load(kind, name).model_json_schema() for name in names(kind)}
    return found


def _drawn(name: str, rng: Rng) -> Any:
    schema = _schemas()[name]
    return sampled(schema, schema.get("$defs", {}), rng)


@lru_cache
def _needs() -> dict[str, frozenset[str]]:
    """What every selector needs; where that hangs on its fields, all that there is."""
    from curate.registry import load

    found = {name: getattr(load("selectors", name.partition("/")[2]), "needs", None) for name in _schemas() if name.startswith("selectors/")}
    return {name: needs if isinstance(needs, frozenset) else frozenset(("vectors", "scores", "similarity")) for name, needs in found.items()}


@lru_cache
def _output(scorer: str) -> str:
    from curate.registry import load

    return str(getattr(load("scorers", scorer), "output", "vectors"))


def _component(kind: str, rng: Rng, given: set[str] | None = None) -> Any:
    """A scorer or selector by its name, or with some of its fields; a selector that can do with what is `given`."""
    names = sorted(one for one in _schemas() if one.startswith(kind) and (given is None or _needs()[one] <= given))
    name = pick(rng, names)
    short = name.partition("/")[2]
    return short if rng.integers(2) else {"name": short, **{field: value for field, value in _drawn(name, rng).items() if field != "name"}}


def recipe(rng: Rng) -> dict[str, Any]:
    """A recipe that may be valid: plain sources, drawn features, arms that fit them, and a few fields drawn from the schema."""
    features = {f"f{number}": _component("scorers", rng) for number in range(int(rng.integers(1, 3)))}
    arms = {}
    for feature, scorer in features.items():
        output = _output(scorer if isinstance(scorer, str) else scorer["name"])
        given = {output, "similarity"} if output == "vectors" else {output}
        arms[f"a-{feature}"] = {output: feature, "selector": _component("selectors", rng, given)}
    found: dict[str, Any] = {
        "name": "case",
        "pool": {"synthetic": "pool", "rows": 40},
        "target": {"rare": {"synthetic": "target", "rows": 8}},
        "model": {"path": "model", "max_length": 128},
        "features": features,
        "arms": arms,
        "budgets": [10],
        "evaluate": {"task": "likelihood", "data": {"synthetic": "test", "rows": 10}},
    }
    properties = _schemas()["recipe"]["properties"]
    for _ in range(int(rng.integers(3))):
        field = str(pick(rng, sorted(set(properties) - {"features", "arms"})))
        found[field] = sampled(properties[field], _schemas()["recipe"].get("$defs", {}), rng)
    return found


def trial_of(seed: int, number: int) -> Trial:
    """The trial of this number: a whole recipe, one with damage, damaged bytes, or overrides; each tenth is a cluster's profile."""
    rng = rng_of(seed, number)
    if number % 10 == 9:
        kind = str(pick(rng, sorted(name for name in _schemas() if name.startswith("profile/"))))
        document = {**_drawn(kind, rng), "kind": kind.partition("/")[2]}
        raw = as_text(damaged(document, rng) if paths(document) and rng.integers(3) else document, rng)
        return Trial(mutated(raw, rng) if rng.integers(3) == 0 else raw, profile=True)
    document = recipe(rng)
    match int(rng.integers(8)):
        case 0 | 1:
            return Trial(as_text(document, rng))
        case 2 | 3 | 4:
            return Trial(as_text(damaged(document, rng), rng))
        case 5 | 6:
            return Trial(mutated(as_text(document, rng), rng))
    keys = [".".join(map(str, path)) for path in paths(document)]
    value = json.dumps(damaged({"x": 1, "y": [2]}, rng)) if rng.integers(2) else mutated(b"{a: [1, 2]}", rng).decode("utf-8", "surrogateescape")
    return Trial(as_text(document, rng), (f"{pick(rng, keys)}={value}", *((str(pick(rng, keys)),) if rng.integers(4) == 0 else ())))


def wrong_with(trial: Trial) -> tuple[str, bool]:
    """What is wrong with how the text is read, and whether it is valid."""
    from curate.errors import CurateError

    try:
        with _deadline():
            return (_profile if trial.profile else _recipe)(trial), True
    except CurateError as error:
        lines = str(error).split("\n")
        odd = [line for line in lines if not _PLACED.fullmatch(line)]
        return (f"a line of the error says no place: {odd[0][:200]!r}" if odd else "" if len(lines) <= 21 else f"{len(lines)} lines of error"), False
    except TimeoutError:
        return f"takes more than {SECONDS} s", False
    except BaseException as error:  # what must not happen, whatever it is
        return f"{type(error).__name__}: {str(error)[:200]!r}", False


def _recipe(trial: Trial) -> str:
    from curate.pipelines.summarise import recipe_text
    from curate.recipe import parse_recipe
    from curate.strict_yaml import load, override

    document = load(trial.raw, "case.yaml")
    for assignment in trial.overrides:
        document = override(document, assignment)
    typed = parse_recipe(document)
    text = recipe_text(typed)
    try:
        again = parse_recipe(load(text, "resolved"))
    except ValueError as error:
        return f"its resolved recipe is not one: {str(error)[:300]!r}"
    if again != typed or again.model_dump(mode="json") != typed.model_dump(mode="json") or recipe_text(again) != text:
        return "its resolved recipe is another one"
    return ""


def _profile(trial: Trial) -> str:
    from curate.clusters.profile import parse_profile
    from curate.strict_yaml import load

    typed = parse_profile(load(trial.raw, "case.yaml"))
    again = parse_profile(load(json.dumps(typed.model_dump(mode="json", exclude_none=True)), "resolved"))
    return "" if again == typed else "what it says of itself is another profile"


@contextmanager
def _deadline() -> Any:
    """TimeoutError after so many seconds of processor."""

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def batch(seed: int, numbers: Sequence[int]) -> dict[str, Any]:
    """Run these trials in this process."""
    import curate.clusters.profile
    import curate.pipelines.summarise  # noqa: F401 - what is imported by the first trial would count as its time

    _needs()
    wrong, valid, slowest = {}, 0, 0.0
    for number in numbers:
        trial = trial_of(seed, number)
        began = time.process_time()
        said, is_valid = wrong_with(trial)
        slowest = max(slowest, time.process_time() - began)
        valid += is_valid
        if said:
            wrong[str(number)] = said
    return {"wrong": wrong, "valid": valid, "slowest": slowest}


def through_cli(seed: int, number: int) -> str:
    """What is wrong with what `curate validate` says of the trial."""
    trial = trial_of(seed, number)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "case.yaml").write_bytes(trial.raw)
        overrides = [text for text in trial.overrides if "\0" not in text and not text.startswith("-")]
        ended = confined(lambda: {"code": curate("validate", "case.yaml", *overrides)}, Path(folder), Limits(clock=60, processor=10, memory=300 * MIB))
    code = ended.returned.get("code")
    if code not in (0, 2, 10) or "Traceback" in ended.error:
        return f"validate exits with {code} ({ended.code}): {ended.error[-300:]!r}"
    return "" if code == 0 or ended.error.startswith("error: ") else f"validate says {ended.error[:200]!r}"


def fuzzed(seed: int, numbers: Sequence[int], cli: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The counts of these trials, in children of a hundred each, and of `cli` of them through the command line."""
    import curate.cli
    import curate.pipelines.summarise  # noqa: F401

    _needs()
    began, wrong, valid, slowest, memory = time.monotonic(), {}, 0, 0.0, 0
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        with tempfile.TemporaryDirectory() as folder:
            ended = confined(partial(batch, seed, some), Path(folder), LIMITS)
        if not ended.returned:
            wrong[f"{some[0]}..{some[-1]}"] = f"the process ended with {ended.code}: {ended.error[-300:]!r}"
            continue
        wrong |= ended.returned["wrong"]
        valid, slowest, memory = valid + ended.returned["valid"], max(slowest, ended.returned["slowest"]), max(memory, ended.memory)
    asked = [numbers[place * len(numbers) // cli] for place in range(min(cli, len(numbers)))] if cli else []
    texts = [number for number in asked if not trial_of(seed, number).profile]
    wrong |= {f"cli {number}": said for number in texts if (said := through_cli(seed, number))}
    for name, said in wrong.items():
        say(f"  FAILED {name}: {said}")
    planned = len(numbers) + len(texts)
    counts = {"planned": planned, "landed": planned, "not_landed": 0, "passed": planned - len(wrong), "failed": len(wrong), "cli": len(texts)}
    figures = {"valid": valid, "slowest": round(slowest, 3), "most_memory": memory, "seconds": round(time.monotonic() - began, 1)}
    return {**counts, **figures, "failures": wrong}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, metavar="N")
    parser.add_argument("--cli", type=int, default=20, metavar="N", help="of the trials that also run through the command line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=-1, metavar="N", help="replay one trial, and print its text")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    numbers = [given.only] if given.only >= 0 else list(range(given.trials))
    if given.only >= 0:
        trial = trial_of(given.seed, given.only)
        print(trial.raw.decode("utf-8", "backslashreplace")[:5000], *trial.overrides, sep="\n")
    found = fuzzed(given.seed, numbers, min(given.cli, len(numbers)), partial(print, flush=True))
    said = words(found, (*NAMES, "valid"))
    print(f"config_fuzz, seed {given.seed}: {said}, slowest {found['slowest']} s, most {found['most_memory'] / MIB:.0f} MB, {found['seconds']} s")
    if given.out:
        given.out.write_text(json.dumps({"seed": given.seed, **found}, indent=1) + "\n")
    return 0 if found["planned"] and not found["failed"] and (found["valid"] or given.only >= 0) else 1


if __name__ == "__main__":
    sys.exit(main())
