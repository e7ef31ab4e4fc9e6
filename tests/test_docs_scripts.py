"""What the documents tell to type beside `curate`: scripts, modules, targets of make and extras of pip exist, with the options and words that are given."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_docs_commands import PAGES, ROOT, typed

FOREIGN = ("venv", "build")  # modules that others wrote
PASSED_ON = ("curate.lm_eval",)  # its options are lm-eval's
EXTRA = re.compile(r"(?:curate|['\"]\.)\[([a-z0-9,-]+)\]")
_STARTS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python (?:-m )?[\w./]+|make [a-z])")


class Line(NamedTuple):
    """A line as a page shows it, without variables of the shell before it."""

    where: str
    words: tuple[str, ...]


def lines(text: str, page: str) -> Iterator[Line]:
    """The lines of blocks, and what a sentence shows, that begin with python or make. What is optional is taken to be given."""
    for number, shown, _ in typed(text):
        if _STARTS.match(shown):
            asked = re.split(r"\s{3,}|\s+#|\s&&\s", shown)[0]
            words = shlex.split(re.sub(r"[\[\]|]", " ", asked))
            yield Line(f"{page}:{number}", tuple(words[next(at for at, word in enumerate(words) if "=" not in word) :]))


SHOWN = [line for page in PAGES for line in lines(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))]


@cache
def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def texts(path: Path) -> set[str]:
    """The texts that stand in a script."""
    return {node.value for node in ast.walk(source(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def options(path: Path, seen: frozenset[Path] = frozenset()) -> set[str]:
    """The options that a script adds to its parser, and those of the modules beside it that it imports."""
    found, beside = set(), set()
    for node in ast.walk(source(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            found |= {word.value for word in node.args if isinstance(word, ast.Constant) and str(word.value).startswith("--")}
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("campaign"):
            beside |= {_file(node.module), *(_file(f"{node.module}.{name.name}") for name in node.names)}
    for other in sorted(one for one in beside if one.is_file() and one not in seen):
        found |= options(other, seen | {path, other})
    return {str(option) for option in found}


def _file(module: str) -> Path:
    folder = ROOT.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def targets() -> set[str]:
    """What make can make."""
    return set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())


def problem(line: Line) -> str | None:
    """What is wrong with a line."""
    program, *rest = line.words
    if program == "make":
        variables = set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
        absent = [word for word in rest if word not in targets() and word.split("=")[0] not in variables]
        return f"{line.where}: make has no {absent}" if absent else None
    name, *rest = rest[1:] if rest[0] == "-m" else rest
    if name in FOREIGN and "-m" in line.words:
        return None
    path = ROOT / name if name.endswith(".py") else _file(name)
    if name == "curate":
        path = ROOT / "curate" / "__main__.py"
    if not path.is_file():
        return f"{line.where}: there is no {name}"
    return None if name in PASSED_ON else _strange(line, path, rest)


def _strange(line: Line, path: Path, rest: list[str]) -> str | None:
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in options(path)]
    if unknown:
        return f"{line.where}: {path.name} has no option {unknown}"
    # A word of small letters that stands by itself is one that the script knows: a part of it, or a driver.
    free = [word for before, word in zip(("", *rest), rest, strict=False) if not before.startswith("--") and re.fullmatch(r"[a-z]+(_[a-z]+)*", word)]
    strange = [word for word in free if word not in texts(path)]
    return f"{line.where}: {path.name} does not know {strange}" if strange else None


def test_every_script_module_and_target_of_the_documents_exists_with_its_options() -> None:
    assert len(SHOWN) > 35
    assert [said for line in SHOWN if (said := problem(line))] == []


def test_every_extra_of_the_documents_can_be_installed() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {extra for page in PAGES for group in EXTRA.findall(page.read_text(encoding="utf-8")) for extra in group.split(",")}
    assert {"cpu", "slurm", "vllm"} <= named <= known


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    python benchmarks/gradient.py 5", "there is no benchmarks/gradient.py"),
        ("    python benchmarks/killed_experiment.py --kill 5", "killed_experiment.py has no option ['--kill']"),
        ("    python benchmarks/policy_mask.py cases | rice | scale", "policy_mask.py does not know ['rice']"),
        ("    python -m campaign.tier nightly", "there is no campaign.tier"),
        ("    python -m campaign.tiers nightly --onyl power_loss", "no option ['--onyl']"),
        ("    python -m campaign.tiers weekly", "does not know ['weekly']"),
        ("    python -m campaign.export_faults [--sort KIND] [--limit N]", "no option ['--sort']"),
        ("    make campaign-weekly", "make has no ['campaign-weekly']"),
        ("before a release, `OMP_NUM_THREADS=1 python benchmarks/pass_at_k.py MODEL --row 3`", "no option ['--row']"),
        ("```\n$ make tests\n```", "make has no ['tests']"),
    ],
)
def test_what_does_not_exist_is_seen(line: str, said: str) -> None:
    (one,) = lines(line, "page")
    assert said in (problem(one) or "")
