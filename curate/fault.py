"""Numbered fault points: kill this process at its n-th operation on the file system, so that a sweep over n visits every moment at which a run can die.

    CURATE_FAULT=before:17    die just before operation 17
    CURATE_FAULT=torn:17      die in operation 17, a write, with half of its bytes in the file

Off unless the variable is set or `arm` is called, and then one comparison per operation. Every process counts its own operations.
The kill is SIGKILL: no handler, no `finally`, no flush runs. The kernel lives on, so what a power cut takes is not shown by this.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from curate.errors import ConfigError

Mode = Literal["before", "torn"]
VARIABLE = "CURATE_FAULT"


@dataclass(frozen=True)
class Operation:
    """What is about to be done: the how manieth operation of this process, its name, the path, and the bytes of a write."""

    number: int
    name: str
    path: Path
    data: bytes | None = None


Observer = Callable[[Operation], None]


class Fault:
    """Numbers operations from 1, tells `observe` of each before it is done, and dies at operation `at`; 0 never comes."""

    def __init__(self, at: int, mode: Mode = "before", observe: Observer = lambda operation: None) -> None:
        self.at, self.mode, self.observe = at, mode, observe
        self.count = 0

    def reach(self, name: str, path: Path, data: bytes | None) -> None:
        self.count += 1
        operation = Operation(self.count, name, path, data)
        self.observe(operation)
        if self.count == self.at:
            _die(operation, self.mode)


_fault: Fault | None = None
_unread = VARIABLE in os.environ  # read at the first operation, where a wrong value is an error like any other


def point(name: str, path: Path, data: bytes | None = None) -> None:
    """Call before an operation on the file system. A write gives its bytes, and its file exists already, empty."""
    if _fault is not None or _unread:
        _reach(name, path, data)


def arm(fault: Fault | None) -> None:
    """From now on this fault, with its own count; None for none, whatever the environment says."""
    global _fault, _unread
    _fault, _unread = fault, False


def parse(text: str) -> Fault:
    """The fault that `MODE:NUMBER` asks for; ConfigError for anything else."""
    mode, _, number = text.partition(":")
    for known in get_args(Mode):
        if mode == known and number.isascii() and number.isdigit() and int(number) > 0:
            return Fault(int(number), known)
    raise ConfigError(f"{VARIABLE}={text!r} is no fault; write MODE:NUMBER, with {' or '.join(get_args(Mode))} and the operation from 1, or unset it")


def _reach(name: str, path: Path, data: bytes | None) -> None:
    if _unread:
        arm(parse(os.environ[VARIABLE]))
    if _fault is not None:
        _fault.reach(name, path, data)


def _die(operation: Operation, mode: Mode) -> None:
    """An operation that writes nothing cannot be torn: there the process lives on, and the caller sees that no fault landed."""
    if mode == "torn":
        if not operation.data:
            return
        handle = os.open(operation.path, os.O_WRONLY)
        os.write(handle, operation.data[: len(operation.data) // 2])
        os.close(handle)
    os.kill(os.getpid(), signal.SIGKILL)
