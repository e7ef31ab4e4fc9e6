"""Profiles in YAML: read strictly like recipes, with file and line in every error."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from curate.clusters.settings import KINDS, Adaptive, AnyProfile
from curate.errors import ConfigError
from curate.strict_yaml import Document, explain, load, nearest
from curate.yaml_reader import clip

SHIPPED = Path(__file__).parents[1] / "configs" / "clusters"


def read_profile(name: str) -> AnyProfile:
    """The profile in a file, or the one of this name that ships with curate; a file in the current folder needs its ending `.yaml`."""
    path = Path(name)
    if not ("/" in name or name.endswith((".yaml", ".yml"))):
        path = SHIPPED / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(f"there is no profile {name!r}; {nearest(name, shipped(), 'profiles')}, or name a file: ./{name}.yaml")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror}; profiles that ship with curate: {', '.join(shipped())}") from error
    return parse_profile(load(text, path.name))


def shipped() -> list[str]:
    """The names of the profiles that ship with curate."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def parse_profile(document: Document) -> AnyProfile:
    """The typed profile of a document."""
    kind = document.value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        said = f"kind is {clip(repr(kind))}" if "kind" in document.value else "kind is missing"
        raise ConfigError(f"{document.where(('kind',))}: {said}; {nearest(str(kind or ''), list(KINDS), 'kinds')}")
    try:
        return KINDS[kind].model_validate(document.value)  # type: ignore[return-value]
    except ValidationError as error:
        raise explain(document, error, lambda path: _fields(KINDS[kind], path)) from error


def _fields(profile: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The fields allowed at a place of the profile."""
    return list((Adaptive if path == ("adaptive",) else profile).model_fields)
