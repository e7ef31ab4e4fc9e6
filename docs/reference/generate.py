"""The pages that the program writes itself: commands from --help, methods from `curate list`, and SECURITY.md; mkdocs-gen-files runs this at every build."""

import contextlib
import io
import os
from pathlib import Path

import mkdocs_gen_files
from rich.console import Console

WIDTH = 84  # characters of a block on the page
os.environ["COLUMNS"] = str(WIDTH)

from curate.error_pages import page as error_page  # noqa: E402
from curate.listing import KINDS, print_method  # noqa: E402
from curate.registry import names  # noqa: E402


def helped(*words: str) -> str:
    """What `curate WORDS --help` prints."""
    from curate.cli import app

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app(args=[*words, "--help"], prog_name="curate")
    return said.getvalue().strip()


def commands() -> str:
    """A section for each command."""
    import typer

    from curate.cli import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    sections = [f"## curate {name}\n\n```text\n{helped(name)}\n```\n" for name in known]
    return "\n".join(["# Commands\n", "Written by `curate --help` itself.\n", f"```text\n{helped()}\n```\n", *sections])


def methods() -> str:
    """A section for each kind, and in it what each method says of itself."""
    parts = ["# Methods\n", "Written by `curate list KIND NAME`. Fields stand in a recipe beside the name: `{name: less, width: 4096}`.\n"]
    for kind in KINDS:
        parts.append(f"## {kind.capitalize()}\n")
        for name in names(kind):
            console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
            print_method(kind, name, console)
            text = console.file.getvalue().rstrip()  # type: ignore[attr-defined]
            parts.append(f"### {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


ROOT = Path(__file__).parents[2]
made = {"reference/commands.md": commands(), "reference/methods.md": methods()}
made["errors.md"] = error_page()
made["security.md"] = (ROOT / "SECURITY.md").read_text(encoding="utf-8").replace("](docs/", "](")  # which lies beside docs/
for path in sorted((ROOT / "docs").glob("*.md")):
    if "](../SECURITY.md" in (text := path.read_text(encoding="utf-8")):
        made[path.name] = text.replace("](../SECURITY.md", "](security.md")
for page, text in made.items():
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)
