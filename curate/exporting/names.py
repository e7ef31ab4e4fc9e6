"""Names that go into paths and addresses, held against lists of what is allowed."""

import re

from curate.errors import ExportError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_CONFIG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_MOST = 96  # characters that the Hub takes


def check_repository(name: str) -> str:
    """The name of a Hub dataset, `org/name`; ExportError for any that the Hub or a file system would take for something else."""
    bad = not _REPOSITORY.fullmatch(name) or len(name) > _MOST or ".." in name or "--" in name or name.lower().endswith(".git")
    if bad or any(_DEVICES.fullmatch(part) for part in name.split("/")):
        shown = ascii(name if len(name) <= 120 else name[:120] + "...")
        raise ExportError(f"{shown} is no name of a Hub dataset; write org/name: letters, digits, '.', '_' and '-', at most {_MOST}, no '..', no '--'")
    return name


def check_config(name: str) -> str:
    """The name of a configuration, which is that of a folder and of a cache folder too."""
    if not _CONFIG.fullmatch(name) or ".." in name or _DEVICES.fullmatch(name):
        allowed = "letters, digits, '.', '_' and '-', at most 128, and no device of Windows"
        raise ExportError(f"{ascii(name)[:140]} cannot name a configuration: {allowed}; export that arm alone")
    return name


def config_name(arm: str, target: str | None, budget: str) -> str:
    """The configuration of one of several selections: `less-5pct`, `less-maths-200000-tokens`."""
    words = [arm, *([target] if target else []), budget.replace("%", "pct")]
    return check_config(re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words)).strip("-"))
