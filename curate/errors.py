"""Every failure a user can cause, as one line: what, where, what was allowed, what to do next.

The exit code of the command line is the error's `exit_code`; each class also inherits the builtin
it refines, so that library users can catch either. Errors cross process borders, so they pickle.
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class CurateError(Exception):
    """The root of all errors that are the user's to mend; printed as one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(CurateError, ValueError):
    """The recipe or a component's fields are wrong."""

    exit_code = 2


class DataError(CurateError, ValueError):
    """The pool, the target or an evaluation set cannot be used."""

    exit_code = 3


class ModelError(CurateError, RuntimeError):
    """The model, its tokenizer or its adapter cannot be used."""

    exit_code = 4


class NumericError(CurateError, ArithmeticError):
    """A number that must be finite is not, or too many rows had to be set aside."""

    exit_code = 5


class ClusterError(CurateError, RuntimeError):
    """Workers failed for good, or another process holds the run."""

    exit_code = 6


class DiskError(CurateError, OSError):
    """A file could not be written or read."""

    exit_code = 7


class IntegrityError(CurateError, RuntimeError):
    """Stored bytes differ from their recorded hash."""

    exit_code = 8


class ExportError(CurateError, RuntimeError):
    """The subset could not be exported."""

    exit_code = 9


class Interrupted(CurateError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130


class SafetyError(CurateError, RuntimeError):
    """Refused, because it would run foreign code or write outside its folder."""

    exit_code = 10


@contextlib.contextmanager
def about(subject: str) -> Iterator[None]:
    """Errors of the block say first what they are about."""
    try:
        yield
    except CurateError as error:
        raise type(error)(f"{subject}: {error}") from error
