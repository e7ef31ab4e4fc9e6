"""Numbered fault points: kill this process, or refuse it an operation, at its n-th operation on the file system, so that a sweep over n visits them all.

    CURATE_FAULT=before:17     die just before operation 17
    CURATE_FAULT=torn:17       die in operation 17, a write, with half of its bytes in the file
    CURATE_FAULT=ENOSPC:17     operation 17 fails with this errno; a write that takes space leaves half of its bytes
    CURATE_FAULT=ENOSPC:17+    so does every later one that this errno can hit, until the process starts anew

Off unless the variable is set or `arm` is called, and then one comparison per operation. Every process counts its own operations.
The kill is SIGKILL: no handler, no `finally`, no flush runs. The kernel lives on, so what a power cut takes is not shown by this.
An errno is raised in the place of the call, so what a real file system does beside failing is not shown either; reads are not operations.
"""

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from curate.errors import ConfigError

Kill = Literal["before", "torn"]
Refusal = Literal["ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EROFS"]
Mode = Literal[Kill, Refusal]
VARIABLE = "CURATE_FAULT"
_TAKES_SPACE = frozenset({"mkdir", "lock", "open", "write", "fsync", "fsync folder", "rename"})
_HALVES = frozenset({"ENOSPC", "EDQUOT", "EFBIG", "EIO"})  # that leave the first bytes of a write; the others refuse all of it


@dataclass(frozen=True)
class Operation:
    """What is about to be done: the how manieth operation of this process, its name, the path, the bytes of a write, what a rename moves."""

    number: int
    name: str
    path: Path
    data: bytes | None = None
    source: Path | None = None


Observer = Callable[[Operation], None]


def hits(mode: Mode, name: str) -> bool:
    """Whether a fault of this mode can come at an operation of this name: limits of space at what takes space, EFBIG at writes, all others anywhere."""
    if mode in ("torn", "EFBIG"):
        return name == "write"
    return name in _TAKES_SPACE if mode in ("ENOSPC", "EDQUOT") else True


class Fault:
    """Numbers operations from 1, tells `observe` of each before it is done, and strikes at operation `at`, or, `lasting`, from there on; 0 never comes."""

    def __init__(self, at: int, mode: Mode = "before", observe: Observer = lambda operation: None, *, lasting: bool = False) -> None:
        self.at, self.mode, self.observe, self.lasting = at, mode, observe, lasting
        self.count = 0

    def reach(self, name: str, path: Path, data: bytes | None, source: Path | None) -> None:
        self.count += 1
        operation = Operation(self.count, name, path, data, source)
        self.observe(operation)
        if (self.count == self.at or (self.lasting and self.count > self.at)) and hits(self.mode, name):
            _strike(operation, self.mode)


_fault: Fault | None = None
_unread = VARIABLE in os.environ  # read at the first operation, where a wrong value is an error like any other


def point(name: str, path: Path, data: bytes | None = None, source: Path | None = None) -> None:
    """Call before an operation on the file system. A write gives its bytes, which go behind those that its file holds already."""
    if _fault is not None or _unread:
        _reach(name, path, data, source)


def arm(fault: Fault | None) -> None:
    """From now on this fault, with its own count; None for none, whatever the environment says."""
    global _fault, _unread
    _fault, _unread = fault, False


def parse(text: str) -> Fault:
    """The fault that `MODE:NUMBER` asks for; ConfigError for anything else."""
    mode, _, number = text.partition(":")
    lasting = number.endswith("+") and mode in get_args(Refusal)
    number = number.removesuffix("+") if lasting else number
    for known in get_args(Mode):
        if mode == known and number.isascii() and number.isdigit() and int(number) > 0:
            return Fault(int(number), known, lasting=lasting)
    modes = ", ".join(get_args(Mode))
    raise ConfigError(f"{VARIABLE}={text!r} is no fault; write MODE:NUMBER, with one of {modes} and the operation from 1 (an errno: 1+ to last), or unset it")


def _reach(name: str, path: Path, data: bytes | None, source: Path | None) -> None:
    if _unread:
        arm(parse(os.environ[VARIABLE]))
    if _fault is not None:
        _fault.reach(name, path, data, source)


def _strike(operation: Operation, mode: Mode) -> None:
    """Where a write has nothing to tear the process lives on, and the caller sees that no fault landed."""
    if mode in get_args(Kill):
        if mode == "torn" and not operation.data:
            return
        if mode == "torn":
            _write_half(operation)
        os.kill(os.getpid(), signal.SIGKILL)
    if mode in _HALVES and operation.data:
        _write_half(operation)
    number = getattr(errno, mode)
    raise OSError(number, os.strerror(number), str(operation.path))


def _write_half(operation: Operation) -> None:
    data = operation.data or b""
    handle = os.open(operation.path, os.O_WRONLY | os.O_APPEND)
    os.write(handle, data[: len(data) // 2])
    os.close(handle)
