"""The folder is the registry: a file in `scorers/`, `selectors/` or `curate/tasks/` is a method, named by its stem.

Packages outside add methods through entry points of the group `curate.<kind>`; a name of ours cannot be
taken over. Listing imports nothing, and asking for one method imports that one alone.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic_core import to_json

from curate.errors import ConfigError
from curate.interfaces import Component, Press, Scorer, Selector, Task
from curate.strict_yaml import nearest

Kind = Literal["scorers", "selectors", "tasks", "presses", "importances", "allocators", "actions"]

_ONE: dict[Kind, str] = {"presses": "press"}  # where the singular is not the word without its s
_PARTS: tuple[Kind, ...] = ("importances", "allocators", "actions")  # of presses, in folders of curate.compression


def names(kind: Kind) -> list[str]:
    """All methods of this kind that a recipe may name, in alphabetical order."""
    return sorted({*_built_in(kind), *_outside(kind)})


def load(kind: Kind, name: str) -> type[Component]:
    """The class of one method; imports the module that holds it and no other."""
    outside = _outside(kind)
    if name in outside:
        return _from_outside(kind, outside[name])
    if name not in _built_in(kind):
        known = names(kind)
        raise ConfigError(f"there is no {one(kind)} {name!r}; {nearest(name, known, kind)}")
    module = importlib.import_module(f"{_package_of(kind)}.{name}")
    found: type[Component] = getattr(module, "".join(part.capitalize() for part in name.split("_")))
    return found


def component(kind: Kind, value: Mapping[str, Any] | str | Component) -> Component:
    """The method that a recipe describes: its name alone, or a mapping of its name and fields.

    Wrong fields raise pydantic's ValidationError and a wrong name a ConfigError, which is a ValueError: from a
    validator of another model, both nest at its place.
    """
    if isinstance(value, _role(kind)):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise ConfigError(f"a {one(kind)} is its name, or a mapping with its name and fields: {{name: ..., field: ...}}; {nearest('', names(kind), kind)}")
    # As JSON, a list may fill a tuple or set field and text a path field; every other conversion stays refused.
    return load(kind, fields["name"]).model_validate_json(to_json(dict(fields), inf_nan_mode="constants"))


def one(kind: Kind) -> str:
    """What a single method of the kind is called."""
    return _ONE.get(kind, kind[:-1])


def _package_of(kind: Kind) -> str:
    return f"curate.compression.{kind}" if kind in _PARTS else f"curate.{kind}"


def _role(kind: Kind) -> type[Component]:
    from curate.compression import parts

    roles: dict[Kind, type[Component]] = {"scorers": Scorer, "selectors": Selector, "tasks": Task, "presses": Press}
    return roles[kind] if kind in roles else {"importances": parts.Importance, "allocators": parts.Allocator, "actions": parts.Action}[kind]


def _built_in(kind: Kind) -> list[str]:
    package = importlib.import_module(_package_of(kind))
    return [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]


def _outside(kind: Kind) -> dict[str, EntryPoint]:
    """Entry points by name; one that takes a name of ours, or a name twice, is refused."""
    ours = frozenset(_built_in(kind))
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"curate.{kind}"):
        if point.name in ours:
            raise ConfigError(f"{_package(point)} registers a {one(kind)} {point.name!r}, which curate has itself; rename or uninstall it")
        if found.setdefault(point.name, point).value != point.value:
            raise ConfigError(f"{_package(point)} and {_package(found[point.name])} both register a {one(kind)} {point.name!r}; uninstall one")
    return found


def _from_outside(kind: Kind, point: EntryPoint) -> type[Component]:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{one(kind)} {point.name!r} of {_package(point)} cannot be imported from {point.value}: {error}") from error
    role = _role(kind)
    if not (isinstance(found, type) and issubclass(found, role)):
        raise ConfigError(f"{point.value} of {_package(point)} is not a curate.interfaces.{role.__name__}; a {one(kind)} must subclass it")
    return found


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist else f"entry point {point.value}"
