"""Install a wheel in a clean environment without a compiler, and run the quickstart up to its selections, or whole, from an empty folder.

python tests/packaging/check_wheel.py dist/*.whl dist/*.tar.gz [--rows 300] [--whole] [--first "torch --index-url URL"]

Dependencies come as wheels only; the compiler's name leads nowhere, so that a package which wants to be built fails. `--first` names what is installed
before, as words for pip: PyTorch without CUDA comes from an index of its own. Exit 0 if all of it holds, else 1 with a line for what does not.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

WANTED = ("cli.py", "py.typed", "scorers/less.py", "selectors/transport.py", "pipelines/experiment.py", "configs/quickstart.yaml", "configs/starter.yaml")
WANTED += ("configs/errors.md",)
WANTED += ("configs/quickstart_model/model.safetensors", "configs/quickstart_model/chat_template.jinja", "configs/clusters/laptop.yaml", "tasks/likelihood.py")
SOURCES = ("pyproject.toml", "LICENSE", "README.md", "scorers/less.py", "selectors/transport.py", "pipelines/experiment.py", "configs/quickstart.yaml")
COMPILED = (".so", ".pyd", ".dylib", ".dll")
NO_COMPILER = {name: "/nonexistent/compiler" for name in ("CC", "CXX", "FC", "CARGO", "RUSTC", "NVCC")}


def wheel_problems(wheel: Path) -> list[str]:
    """What is missing from a wheel, and what should not be in it."""
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.split("/")[0] for name in names}
    strange = sorted(top for top in tops if top != "curate" and not top.endswith(".dist-info"))
    found = [f"{wheel.name} has no curate/{name}" for name in WANTED if f"curate/{name}" not in names]
    found += [f"{wheel.name} holds {name}, which is not curate" for name in strange]
    found += [f"{wheel.name} holds compiled {name}" for name in names if name.endswith(COMPILED)]
    if not wheel.name.endswith("-py3-none-any.whl"):
        found.append(f"{wheel.name} is not for every platform")
    return found


def sdist_problems(archive: Path) -> list[str]:
    """What is missing from a source archive. A link counts where it leads to something in the archive."""
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers()}
    return [f"{archive.name} has no {name}" for name in SOURCES if name not in names and f"curate/{name}" not in names]


def run(words: Sequence[object], folder: Path, **variables: str) -> str:
    """What the program prints; SystemExit with its last lines if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")} | NO_COMPILER | variables
    ended = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-3000:]}")
    return ended.stdout


def install(wheel: Path, folder: Path, first: Sequence[str]) -> Path:
    """The Python of a new environment that holds the wheel and, as wheels, what it needs."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    for packages in ([list(first)] if first else []) + [[str(wheel)]]:
        run([python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages], folder)
    return python


def quickstart(python: Path, folder: Path, rows: int, *, whole: bool) -> str:
    """The quickstart up to its selections, or whole, offline, in an empty folder; a line about it. SystemExit where it did not do what it should."""
    where = run([python, "-c", "import curate; print(curate.__file__)"], folder).strip()
    if not Path(where).is_relative_to(python.parents[1]):
        raise SystemExit(f"curate was imported from {where}, which is not the clean environment")
    fewer = [f"pool=[{{synthetic: pool, rows: {rows}, group: kind}}]", "budgets=[20]"] if rows else []
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    until = [] if whole else ["--until", "select"]
    run([python, "-m", "curate", "run", "quickstart", *fewer, *until, "--workers", 2 if whole else 1, "--quiet"], folder, **offline)
    results = json.loads((folder / "runs" / "quickstart" / "results.json").read_bytes())
    arms = {row["arm"] for row in results["selections"]}
    if len(arms) != 8 or len(results["selections"]) != 24:
        raise SystemExit(f"the quickstart has 24 selections of 8 arms, and {len(results['selections'])} of {', '.join(sorted(arms))} were made")
    run([python, "-m", "curate", "verify", "quickstart"], folder, **offline)
    if whole and not (results["comparisons"] and (folder / "runs" / "quickstart" / "report.html").is_file()):
        raise SystemExit("the quickstart ended without a comparison or without its report")
    compared = f", {len(results['comparisons'])} comparisons and a report" if whole else ""
    return f"{len(results['selections'])} selections of {len(arms)} arms{compared}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="A wheel, and its source archive if that is to be looked at too.")
    parser.add_argument("--rows", type=int, default=0, help="A smaller pool for the quickstart; default: its own 3,000 rows.")
    parser.add_argument("--whole", action="store_true", help="Train, evaluate and compare too: minutes.")
    parser.add_argument("--first", type=shlex.split, default=[], help="What to install before, as words for pip.")
    parser.add_argument("--python", type=Path, help="A Python that has the wheel already; no environment is made.")
    given = parser.parse_args(arguments)
    wheels = [file.absolute() for file in given.files if file.suffix == ".whl"]
    if len(wheels) != 1:
        parser.error(f"give one wheel, not {len(wheels)}")
    problems = wheel_problems(wheels[0]) + [line for file in given.files if file.name.endswith(".tar.gz") for line in sdist_problems(file)]
    if problems:
        print("\n".join(problems))
        return 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="curate-wheel-") as name:
        python = given.python.absolute() if given.python else install(wheels[0], Path(name) / "environment", given.first)
        empty = Path(name) / "empty"
        empty.mkdir()
        said = quickstart(python, empty, given.rows, whole=given.whole)
    print(f"{wheels[0].name}: installed from wheels only; {said} in an empty folder; {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
