"""Put pickles, hostile names, templates and a token where curate works, and see that nothing of them runs, leaks or leaves its folder.

    python -m campaign.security [--part run|pickles|trainer|names|templates|calls|all] [--limit N] [--seed S] [--only ID] [--out r.json]

run        a real run with two workers, with a token in its environment: the token is in no file, no line, no argument of a process; all ports that
           listened are on the loopback interface; no script of Dask's files ran; what fails, with --debug too, does not tell the token either
pickles    at every file of the finished run, in four formats, a pickle that touches a canary when it is loaded: `verify`, `report`, `explain`,
           `export` and the run again name it or go on, and the canary is never touched
trainer    the same in a Trainer's run that a warm-up is read from: its files are refused or passed over, and the canary is never touched
names      hostile names of the run, a feature, an arm and a target are refused, and nothing is made
templates  hostile chat templates do not render
calls      `strace` of a run: files are written in its own folder and that of temporary files only, and no other machine is connected to

`--limit` takes trials evenly spread; `--only` replays one. What cannot be looked at here is counted as skipped. Exit 1 on any failure.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from campaign.bad_input import Verdict, counts, line, warmed
from campaign.catalogue import CODES, TINY, curate
from campaign.catalogue_security import FORMATS, NAMES, TEMPLATES
from campaign.confined import MIB, Limits, confined
from campaign.hostile import CANARY, Ran, holding, safe_recipe, watched_run
from campaign.security_trainer import trainer_trials
from campaign.spread import spread

PARTS = ("run", "pickles", "trainer", "names", "templates", "calls")
LIMITS = Limits(clock=300, processor=60, memory=3072 * MIB)
COMMANDS = (("verify", "safe"), ("report", "safe"), ("explain", "safe", "row 9"), ("export", "safe", "hard", "out", "--seed", "0"))
AGAIN = ("run", "safe.yaml", "--until", "select", "--quiet", "--workers", "1", "--device", "cpu")
FAILING = (("model.path=org/not-here", 4), ("pool.path=absent.jsonl", 3), ("pool={hub: org/not-here, split: train}", 3), ("train.token=" + CANARY, 2))
_OPENED = re.compile(r'(?P<call>open|openat|creat)\((?:[^,"]+, )?"(?P<path>[^"]*)", (?P<flags>[^,)]+)')
_CONNECTED = re.compile(r"connect\(.*?(inet_addr\(\"(?P<four>[^\"]*)\"\)|inet_pton\(AF_INET6, \"(?P<six>[^\"]*)\")")

_OF_PYTHON = re.compile(r"<|__|0x|root:")  # how Python shows what is its own, and how a file of accounts begins

Trial = tuple[str, Callable[[], list[str]]]


def run_trials(ran: Ran) -> Iterator[Trial]:
    """What the watched run shows, and runs that fail."""
    yield "run-ends", lambda: [] if ran.code == 0 else [f"it exits with {ran.code}: {ran.said[-300:]!r}"]
    yield "run-files", lambda: [f"{path.relative_to(ran.folder)} holds the token" for path in holding(ran.folder, CANARY)]
    yield "run-said", lambda: ["it says the token"] if CANARY.encode() in ran.said else []
    yield "run-arguments", lambda: [f"a process shows the token: {words[:60]}" for words in ran.arguments if CANARY in words]
    yield "run-ports", lambda: [f"{address}:{port} is open" for _, address, port in ran.listening if address not in ("127.0.0.1", "::1")]
    yield "run-cluster", lambda: [] if ran.listening and ran.processes >= 2 else ["no cluster was seen"]
    yield "run-scripts", lambda: ["a script of Dask's files ran"] if (ran.home / "sprung").exists() else []
    for override, code in FAILING:
        for debug in ((), ("--debug",)):
            yield f"fails-{override.partition('=')[0]}{'-debug' if debug else ''}-{code}", partial(_failing, override, code, debug)


def _failing(override: str, code: int, debug: tuple[str, ...]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        safe_recipe(place, TINY)

        def act() -> dict[str, Any]:
            os.environ["HF_TOKEN"] = CANARY
            return {"code": curate("run", "safe.yaml", override, "--until", "prepare", "--workers", "1", "--device", "cpu", *debug)}

        ended = confined(act, place, LIMITS)
        wrong = [] if ended.returned.get("code") == code else [f"it exits with {ended.returned.get('code')}, not {code}: {ended.error[-200:]!r}"]
        wrong += ["it says the token"] if CANARY in ended.out + ended.error else []
        return wrong + [f"{path.relative_to(place)} holds the token" for path in holding(place, CANARY) if path.name != "safe.yaml"]


def pickle_trials(ran: Ran) -> Iterator[Trial]:
    """A pickle in the place of every file of the run and of the store, in every format."""
    for folder in ("runs", "store"):
        for path in sorted((ran.folder / folder).rglob("*")):
            if path.is_file():
                name = path.relative_to(ran.folder)
                for form in FORMATS:
                    yield f"{form}:{name}", partial(_planted, ran, name, form)


def _planted(ran: Ran, name: Path, form: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        place, canary = Path(folder).resolve() / "copy", Path(folder).resolve() / "canary"
        shutil.copytree(ran.folder, place, copy_function=os.link)
        (place / name).unlink()
        (place / name).write_bytes(FORMATS[form](canary))
        wrong = []
        for command in (*COMMANDS, AGAIN):
            ended = confined(lambda command=command: {"code": curate(*command)}, place, LIMITS)  # type: ignore[misc]
            if ended.returned.get("code") not in CODES or "Traceback" in ended.error:
                wrong.append(f"{command[0]} exits with {ended.returned.get('code', ended.code)}: {ended.error[-300:]!r}")
            if canary.exists():
                return [*wrong, f"{command[0]} ran the pickle"]
        return wrong


def name_trials() -> Iterator[Trial]:
    """Every name in every place."""
    for place in ("name", "features", "arms", "target"):
        for number, name in enumerate(NAMES):
            yield f"{place}-{number}", partial(_named, place, name)


def _named(kind: str, name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        path = safe_recipe(place, TINY)
        old = {"name": "name: safe", "features": "surprise: loss", "arms": "hard: {", "target": "rare: {"}[kind]
        new = old.replace("safe", json.dumps(name)) if kind == "name" else old.replace(old.split(":")[0], json.dumps(name))
        path.write_text(path.read_text().replace(old, new, 1))
        before = sorted(os.listdir(place))
        ended = confined(lambda: {"code": curate("validate", "safe.yaml")}, place, LIMITS)
        allowed = (0, 2) if kind == "name" and name in ("zero_shot", "full") else (2,)  # reserved for features, arms and targets alone
        wrong = [] if ended.returned.get("code") in allowed else [f"it exits with {ended.returned.get('code')}: {ended.error[:200]!r}"]
        return wrong + ([] if sorted(os.listdir(place)) == before else ["it made something"])


class _Tokenizer:
    """As much of a tokenizer as the check of its template asks for."""

    special_tokens_map: dict[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}
    name_or_path = "hostile"

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def get_chat_template(self) -> str:
        return self.chat_template


def template_trials() -> Iterator[Trial]:
    """Every template, checked as a run checks it."""
    for number, template in enumerate(TEMPLATES):
        yield f"template-{number}", partial(_rendered, template)


def _rendered(template: str) -> list[str]:
    from curate.data.preflight import check_template
    from curate.errors import ModelError, SafetyError

    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"

        def act() -> dict[str, Any]:
            written = template.replace("CANARY", str(canary))
            try:
                check_template(_Tokenizer(written), seconds=2)
            except (ModelError, SafetyError) as error:
                return {"refused": str(error)}
            from transformers.utils.chat_template_utils import render_jinja_template

            return {"refused": "", "rendered": render_jinja_template(conversations=[[{"role": "user", "content": "a row"}]], chat_template=written)[0][0]}

        ended = confined(act, Path(folder), LIMITS)
        if "refused" not in ended.returned:
            return [f"the check did not come back: {ended.error[-200:]!r}"]
        said = str(ended.returned["refused"])
        shown = str(ended.returned.get("rendered", ""))  # what is out of reach renders as nothing, and only its use is an error
        wrong = [f"{template} renders as {shown[:80]!r}"] if _OF_PYTHON.search(shown) else []
        return wrong + (["it touched the canary"] if canary.exists() else []) + (["the refusal has several lines"] if "\n" in said else [])


def call_trials(ran: Ran) -> Iterator[Trial]:
    """The calls of a run to the system."""
    yield "calls", partial(_traced, ran)


def _traced(ran: Ran) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        safe_recipe(place, TINY)
        trace, scratch = place / "trace", place / "tmp"
        scratch.mkdir()
        command = ["strace", "-f", "-qq", "-e", "trace=open,openat,creat,connect", "-o", str(trace), sys.executable, "-m", "curate", *AGAIN]
        own = {"HF_TOKEN": CANARY, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment = {**os.environ, **own}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            return [f"the run exits with {done.returncode}: {done.stderr[-300:]!r}"]
        return traced(trace.read_text(errors="replace").splitlines(), place)


def traced(calls: Sequence[str], place: Path) -> list[str]:
    """Files that were opened to be written outside of `place`, and other machines that were connected to."""
    wrong = set()
    for call in calls:
        if (opened := _OPENED.search(call)) and re.search(r"O_WRONLY|O_RDWR|O_CREAT", opened["flags"] if opened["call"] != "creat" else "O_CREAT"):
            path = Path(os.path.normpath(place / opened["path"]))
            if " = -1 " not in call and not path.is_relative_to(place) and not str(path).startswith(("/dev/", "/proc/self/")):
                wrong.add(f"it writes {path}")
        if connected := _CONNECTED.search(call):
            address = connected["four"] or connected["six"]
            if not address.startswith("127.") and address != "::1":
                wrong.add(f"it connects to {address}")
    return sorted(wrong)


def trials(part: str, ran: Ran) -> list[Trial]:
    """All of one part."""
    makers: dict[str, Callable[[], Iterator[Trial]]] = {"names": name_trials, "templates": template_trials}
    makers |= {"run": partial(run_trials, ran), "pickles": partial(pickle_trials, ran)}
    makers |= {"trainer": partial(trainer_trials, ran.home), "calls": partial(call_trials, ran)}
    return list(makers[part]())


def settled(planned: Sequence[Trial], say: Callable[[str], None]) -> list[Verdict]:
    """The verdict of every trial."""
    found = []
    for name, act in planned:
        if name == "calls" and not shutil.which("strace"):
            found.append(Verdict(name, skipped="strace is not installed"))
            continue
        found.append(Verdict(name, act()))
        if found[-1].wrong:
            say(f"  FAILED {name}: " + "; ".join(found[-1].wrong[:2]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most N trials of each part, evenly spread")
    parser.add_argument("--seed", type=int, default=0, help="nothing is drawn: kept with the figures")
    parser.add_argument("--only", default="", metavar="ID")
    parser.add_argument("--out", type=Path, help="write the counts and the failures here, as JSON")
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        parts = PARTS if given.part == "all" else (given.part,)
        needed = set(parts) & {"run", "pickles"}
        ran = watched_run(TINY, Path(folder).resolve(), Path(home).resolve()) if needed else Ran(Path(folder), Path(home))
        warmed()
        for part in parts:
            planned = [one for one in trials(part, ran) if given.only in ("", one[0])]
            began = time.monotonic()
            chosen = spread(planned, given.limit)
            found[part] = counts(settled(chosen, partial(print, flush=True)), time.monotonic() - began)
            print(line(part, found[part]), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"seed": given.seed, **found}, indent=1) + "\n")
    return 0 if any(one["planned"] for one in found.values()) and not any(one["failed"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
