"""A scorer's state in parts: arrays whose names begin alike belong together."""

from collections.abc import Mapping
from typing import Any

from curate.interfaces import State


class Parts(dict[str, Any]):
    """The arrays of a state by their names; those of a part are gathered once, for a batch must not wait for it."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self._parts: dict[str, dict[str, Any]] = {}

    def part(self, name: str) -> Mapping[str, Any]:
        """The arrays named `name:...`, without that."""
        if name not in self._parts:
            prefix = f"{name}:"
            self._parts[name] = {key.removeprefix(prefix): value for key, value in self.items() if key.startswith(prefix)}
        return self._parts[name]


def part_of(state: State | None, name: str) -> Mapping[str, Any]:
    """The part of a state; quick where it was gathered before."""
    return (state if isinstance(state, Parts) else Parts(state or {})).part(name)


def named(name: str, arrays: State) -> dict[str, Any]:
    """Arrays under the names that they have as a part."""
    return {f"{name}:{key}": value for key, value in arrays.items()}
