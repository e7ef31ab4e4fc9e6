"""Hostile names, chat templates and pickles: data of `campaign.security`."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = (
    *("../up", "../../up", "..", ".", "...", "./a", "a/..", "a/b", "a//b", "/", "/tmp/outside", "//tmp/outside", "~", "~root", "~/a", "\\", "a\\b", "..\\up"),
    *("C:x", "C:\\x", "\\\\host\\share", "con:", "", " ", "  ", " a", "a ", "a b", "\t", "a\tb", "a\nb", "a\rb", "a\0b", "\x1b[31m", "a\x7f", "a\x85b"),
    *(".hidden", "-rf", "--help", "-", "_a", "$(x)", "${HOME}", "`x`", "a;b", "a|b", "a&b", "a>b", "a*", "a?", "[a]", "{a}", "a:b", "a@b", "a#b", "a%2fb"),
    *("%2e%2e%2f", "x" * 65, "x" * 300, "\u0430", "a\u202eb", "\ufeffa", "e\u0301", "\U0001f600", "zero_shot", "full"),
)

_ESCAPES = (
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "''['__class__']",
    "''|attr('__class__')",
    "cycler.__init__.__globals__.os.system('touch CANARY')",
    "lipsum.__globals__['os'].popen('touch CANARY').read()",
    "joiner.__init__.__globals__.os",
    "namespace.__init__.__globals__",
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "messages.__class__.__base__",
    "raise_exception.__globals__",
    "raise_exception.__code__",
    "strftime_now.__globals__",
    "tojson.__globals__",
    "'{0.__class__}'.format(messages)",
    "'{0.__class__.__mro__}'.format('')",
    "('%c' * 3) % (1, 2, 3) ~ ''.__doc__.__class__",
    "range.__class__",
    "dict.__subclasses__()",
    "messages.append.__self__.__class__",
    "[].__class__.__base__.__subclasses__()[0]",
    "(1).__class__",
    "true.__class__",
    "config.items()",
    "request.application.__globals__",
    "get_flashed_messages.__globals__",
    "url_for.__globals__",
    "import('os')",
    "__import__('os').system('touch CANARY')",
    "open('CANARY', 'w')",
    "eval('1')",
)
_STATEMENTS = (
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{% for i in range(99999999) %}{% for j in range(99999999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 10 }}",
    "{% set x = [] %}{% for i in range(99999) %}{{ x.append('a' * 99999) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages.clear() }}{% for m in messages %}",
)
TEMPLATES = (*("{{ " + escape + " }}" for escape in _ESCAPES), *_STATEMENTS)


class Trap:
    """An object whose pickle touches a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def _pickled(canary: Path) -> bytes:
    return pickle.dumps(Trap(canary))


def _torch(canary: Path) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save({"weights": Trap(canary)}, file)
    return file.getvalue()


def _numpy(canary: Path) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([Trap(canary)], dtype=object), allow_pickle=True)
    return file.getvalue()


def _joblib(canary: Path) -> bytes:
    import joblib

    file = io.BytesIO()
    joblib.dump([Trap(canary)], file, compress=3)
    return file.getvalue()


FORMATS: dict[str, Callable[[Path], bytes]] = {"pickle": _pickled, "torch": _torch, "npy": _numpy, "joblib": _joblib}
