"""Folders outside the store that a process needs for a while; what a killed process left of them is removed by the next one."""

import contextlib
import fcntl
import functools
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

from curate.errors import DiskError

Purpose = Literal["export", "hub", "plan", "sandbox", "stacks", "verify", "vllm"]
_HOLDER = ".holder"  # the file by whose lock a folder says that its process lives; it names the machine
_NAME = re.compile(rf"curate-(?:{'|'.join(get_args(Purpose))})-[a-z0-9_]+")  # as tempfile ends the names that `Scratch` begins
_SETTLED = 3600.0  # seconds after which a folder that nobody has locked will not be


class Scratch:
    """An empty folder of one's own, `path`, below the folder for temporary files (TMPDIR), removed by `remove` or at the end of a `with` block.

    A process that is killed leaves its folder behind. The first folder that another process of this user asks for on this machine removes it, for
    nobody holds its lock then. DiskError where none can be made.
    """

    def __init__(self, purpose: Purpose) -> None:
        try:
            where = tempfile.gettempdir()
            _remove_left(where)
            self._whole = tempfile.TemporaryDirectory(prefix=f"curate-{purpose}-", dir=where, ignore_cleanup_errors=True)
            self._lock = _held(Path(self._whole.name) / _HOLDER)
            self.path = Path(self._whole.name) / "own"
            self.path.mkdir(mode=stat.S_IRWXU)
        except OSError as error:
            raise DiskError(
                f"no folder for temporary files can be made: {error}; name one in TMPDIR that can be written, and run the same command again"
            ) from error

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all in it, as far as that can be done; a second time changes nothing."""
        self._whole.cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _held(holder: Path) -> int:
    handle = os.open(holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # where files cannot be locked, a folder that is left stays
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(handle, _machine())  # not before, for then it would look as if it was left
    return handle


def _machine() -> bytes:
    """Of this machine: the lock of another one may not be seen here, although the folder is."""
    return platform.node().encode() or b"?"


@functools.cache
def _remove_left(where: str) -> None:
    """Once a process: remove the folders in `where` that processes of this user left there when they were killed."""
    with contextlib.suppress(OSError), os.scandir(where) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                if found.st_uid == os.getuid():
                    _remove_if_left(Path(entry.path), settled=time.time() - found.st_mtime > _SETTLED)


def _remove_if_left(folder: Path, *, settled: bool) -> None:
    with contextlib.suppress(OSError):
        try:
            holder = os.open(folder / _HOLDER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if settled:
                folder.rmdir()  # only an empty one goes
            return
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            machine = os.read(holder, 1024)
            if machine == _machine() or (settled and not machine):
                _remove_whatever_its_modes(folder)
        finally:
            os.close(holder)


def _remove_whatever_its_modes(folder: Path) -> None:
    for above, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(path := os.path.join(above, name)):
                os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
