"""Libraries that only some launchers need."""

from importlib.util import find_spec

from curate.errors import ConfigError


def needs(library: str, extra: str) -> None:
    """ConfigError where the library of an extra is not installed."""
    if find_spec(library) is None:
        raise ConfigError(f"this profile needs {library}, which is not installed; run: pip install 'curate[{extra}]'")
