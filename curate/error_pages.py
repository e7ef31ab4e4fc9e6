"""What each exit code means and what helps: the sections of configs/errors.md, which is a page of the documents too."""

import importlib.metadata
import re
from pathlib import Path

from curate.errors import ConfigError

_HEADING = re.compile(r"^## (\d+): (\w+)$", re.MULTILINE)


def page() -> str:
    """The whole page, as Markdown."""
    return (Path(__file__).parent / "configs" / "errors.md").read_text(encoding="utf-8")


def section(wanted: str) -> str:
    """The section of an exit code, or of its name; ConfigError where there is none."""
    text = page()
    found = list(_HEADING.finditer(text))
    for heading, after in zip(found, [*found[1:], None], strict=True):
        if wanted in heading.groups():
            return text[heading.start() : after.start() if after else None].rstrip()
    known = ", ".join(f"{code} ({name})" for code, name in _HEADING.findall(text))
    raise ConfigError(f"no error has the exit code or name {wanted!r}; there are {known}")


def pointer(code: int) -> str:
    """Where an error with this exit code is explained: a command, and a link where the package's metadata name a site (`Documentation`)."""
    name = dict(_HEADING.findall(page()))[str(code)]
    links = dict(line.split(", ", 1) for line in importlib.metadata.metadata("curate").get_all("Project-URL") or ())
    site = f", or {links['Documentation'].rstrip('/')}/errors/#{code}-{name}" if "Documentation" in links else ""
    return f"what helps: curate errors {name}{site}"
