"""What a function returned is kept as long as there is room: a cache that counts bytes, not values.

Many small values all stay, and a few large ones do not fill the memory. Every process keeps its own. What is read from a file that may
vanish has a limit on the number of values too, or a long process would keep every small one that ever was.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
V = TypeVar("V")


class Kept(Generic[P, V]):
    """A function that remembers its values by its arguments, up to `most_bytes` and `most_values` of them; the least recently used go first.

    The last value stays whatever it takes: who asked for it holds it anyway, and most often asks again at once.
    """

    def __init__(self, make: Callable[P, V], most_bytes: int, most_values: int | None = None) -> None:
        functools.update_wrapper(self, make)
        self.most_bytes = most_bytes
        self.most_values = most_values
        self.bytes = 0
        self._make = make
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()  # the most recently used last

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> V:
        key = (args, tuple(sorted(kwargs.items())))
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key][0]
        value = self._make(*args, **kwargs)
        size = size_of(value)
        self._values[key] = (value, size)
        self.bytes += size
        while len(self._values) > 1 and (self.bytes > self.most_bytes or (self.most_values and len(self._values) > self.most_values)):
            self.bytes -= self._values.popitem(last=False)[1][1]
        return value

    def cache_clear(self) -> None:
        """Let everything go."""
        self._values.clear()
        self.bytes = 0


def kept(most_bytes: int, most_values: int | None = None) -> Callable[[Callable[P, V]], Kept[P, V]]:
    """Decorate a function whose values are worth keeping, up to so many bytes and values in each process; its arguments must be hashable."""
    return lambda make: Kept(make, most_bytes, most_values)


def size_of(value: Any) -> int:
    """The bytes of all arrays and tensors in a value: itself, or what mappings, sequences and dataclasses hold."""
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, field.name)) for field in fields(value))
    return 0
