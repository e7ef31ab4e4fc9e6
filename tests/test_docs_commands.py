"""Every command of the documents exists with its options; those that need no data are run, and every recipe that they name is valid."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "configs" / "errors.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("list", "schema", "validate", "init", "certificates")  # need neither data nor model, and take a moment
ON_A_RECIPE = ("run", "inspect", "plan", "validate", "advise", "validate-scores")


class Shown(NamedTuple):
    """A command as a page shows it: in a block, where it stands whole, or in a sentence, where it may be only named."""

    where: str
    words: tuple[str, ...]
    whole: bool


def typed(text: str) -> Iterator[tuple[int, str, bool]]:
    """What a page shows as typed: the number of the line, the words, and whether they stand in a block, or in a sentence."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            fenced = not fenced
            continue
        block = fenced or line.startswith("    ")
        for words in [line.strip().removeprefix("$ ")] if block else re.findall(r"`([^`]+)`", line):
            yield number, words, block


def shown(text: str, page: str) -> list[Shown]:
    """The commands of a page. Of alternatives the first; what is optional is taken to be given; what explains a command stands apart from it."""
    commands = ((number, words, block) for number, words, block in typed(text) if re.match(r"curate [a-z-]", words))
    return [Shown(f"{page}:{number}", tuple(shlex.split(_plain(words))[1:]), block) for number, words, block in commands]


def _plain(command: str) -> str:
    command = re.split(r"\s{3,}|\s+#", command)[0].split(" | ")[0]
    while optional := re.search(r"\[(--[^\[\]]*|[A-Z]+)\]", command):
        command = command[: optional.start()] + optional[1] + command[optional.end() :]
    return command


COMMANDS = [one for page in PAGES for one in shown(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))]


def problem(one: Shown, commands: Any) -> str | None:
    """What is wrong with a command, as the parser of the command line says it; nothing is run."""
    name, *arguments = one.words
    if name not in commands:
        return f"{one.where}: there is no command {name!r}"
    try:
        commands[name].make_context(name, [word for word in arguments if word != "--debug"])
    except Exception as error:  # typer brings click, or a copy of its own, so its errors are told by their names
        kind = type(error).__name__
        if kind == "Exit" or (kind == "MissingParameter" and not one.whole):
            return None  # --help; or a command that is only named
        return f"{one.where}: {' '.join(one.words)}: {error.format_message()}"  # type: ignore[attr-defined]
    return None


@pytest.fixture(scope="module")
def commands() -> Any:
    """The commands by name."""
    import typer

    from curate.cli import app

    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_command_in_the_documents_exists_with_its_options(commands: Any) -> None:
    assert len(COMMANDS) > 50
    assert [said for one in COMMANDS if (said := problem(one, commands))] == []


def test_every_command_is_in_the_documents(commands: Any) -> None:
    assert set(commands) - {one.words[0] for one in COMMANDS} == set()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    curate exprot RUN ARM DIR", "no command 'exprot'"),
        ("    curate export RUN ARM --pusch org/name", "No such option"),
        ("    curate run recipe.yaml --workers many", "valid integer"),
        ("    curate status", "Missing argument"),
        ("`curate run recipe.yaml --untill select`", "No such option"),
        ("    curate verify DIR [--rebuilt [--model MODEL]]", "No such option"),
        ("```\n$ curate run recipe.yaml --until elsewhere   # nothing\n```", "is not one of"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(line: str, said: str, commands: Any) -> None:
    (one,) = shown(line, "page")
    assert said in (problem(one, commands) or "")


def test_a_command_may_be_named_in_a_sentence(commands: Any) -> None:
    (one,) = shown("see `curate status`, and curate explain", "page")
    assert problem(one, commands) is None


@pytest.mark.parametrize("name", ["", "run", "init", "export", "update", "evaluate", "plan", "explain", "certificates"])
def test_help_is_there(name: str, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(*([name] if name else []), "--help") == 0
    assert "Usage: " in capsys.readouterr().out


def _placeholder(words: tuple[str, ...]) -> bool:
    return any(re.fullmatch(r"[A-Z]+|\.\.\.", word) and word != "DIR" for word in words)


RUNNABLE = sorted({one.words for one in COMMANDS if one.whole and one.words[0] in RUN and not _placeholder(one.words) and "--pool" not in one.words})


@pytest.mark.parametrize("words", RUNNABLE, ids=" ".join)
def test_a_command_that_needs_no_data_does_what_the_page_says(
    words: tuple[str, ...], command_line: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "validate":
        assert command_line("init", Path(words[1]).parent) == 0
    assert command_line(*words) == 0


RECIPES = sorted({one.words[1:] for one in COMMANDS if one.words[0] in ON_A_RECIPE and len(one.words) > 1 and not _placeholder(one.words[1:2])})


@pytest.mark.parametrize("words", RECIPES, ids=" ".join)
def test_a_recipe_of_the_documents_is_valid_with_what_is_changed_in_it(
    words: tuple[str, ...], command_line: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, *rest = words
    if recipe.startswith("-"):
        return
    changed = [word for word in rest if re.fullmatch(r"[a-z_.]+=.*", word)]
    monkeypatch.chdir(tmp_path)
    if recipe.startswith("benchmarks/"):
        recipe = str(ROOT / recipe)
    elif recipe.endswith(".yaml"):  # the reader's own: as `curate init` writes it
        assert command_line("init", Path(recipe).parent) == 0
        recipe = str(Path(recipe).parent / "recipe.yaml")
    assert command_line("validate", recipe, *changed) == 0
