"""What every component promises, whatever its kind: a name, words about itself, defaults, and fields that stay."""

import sys
from collections.abc import Callable

from curate.errors import CurateError
from curate.interfaces import Component
from curate.registry import Kind


class Nonconforming(AssertionError):
    """A component broke a promise of its interface."""


def require(condition: bool, promise: str) -> None:
    """Nonconforming, with this sentence, unless the condition holds."""
    if not condition:
        raise Nonconforming(promise)


def require_refusal(promise: str, act: Callable[[], object]) -> None:
    """Nonconforming, with the promise, unless the act ends in a CurateError of one line."""
    try:
        act()
    except CurateError as error:
        require(len(str(error).splitlines()) == 1, promise)
    except Exception as error:  # whatever a method that does not check stumbles over
        raise Nonconforming(f"{promise}, not {type(error).__name__}") from error
    else:
        raise Nonconforming(promise)


def check_identity(component: Component, kind: Kind) -> None:
    """The name is the file's, class, module and fields are documented, every field has a default, and none can be set."""
    cls = type(component)
    stem = cls.__module__.rsplit(".", 1)[-1]
    if cls.__module__.startswith(f"curate.{kind}."):
        require(component.name == stem, f"{cls.__name__}: its name {component.name!r} must be its file's stem {stem!r}")
    require(bool((cls.__doc__ or "").strip()), f"{cls.__name__}: the class needs a docstring")
    require(bool((sys.modules[cls.__module__].__doc__ or "").strip()), f"{cls.__module__}: the module needs a docstring")
    for name, field in cls.model_fields.items():
        require(not field.is_required(), f"{cls.__name__}.{name}: every field needs a default, so that {cls.__name__}() works")
        require(bool(field.description) or name == "name", f"{cls.__name__}.{name}: every field needs a description")
    try:
        component.__setattr__("name", "changed")
    except (TypeError, ValueError, AttributeError):
        return
    raise Nonconforming(f"{cls.__name__}: instances must be frozen")
