"""Locks that outlive no process: a file that the kernel lets go of when its holder dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from curate import fault
from curate.errors import ClusterError, DiskError
from curate.folders import make_folder, remove_temporaries

Notify = Callable[[str], None]
_IN_USE = "{} is in use by another curate process; wait for it, or give this run another name"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool, notify: Notify = lambda message: None) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which is removed afterwards; the kernel lets go of it when the process dies, however it dies.

    Without `wait` a lock held elsewhere is a ClusterError at once. A lock called `.lock` is that of its whole folder: who gets it removes the
    temporary files that a killed holder left there.
    """
    waited = 0
    while (handle := _lock(path)) is None:
        if not wait:
            raise ClusterError(_IN_USE.format(path.parent))
        if waited % 60 == 0:
            notify(f"waiting for another curate process that is building {path.stem}")
        waited += 1
        time.sleep(0.5)
    try:
        if path.name == ".lock":
            remove_temporaries(path.parent)
        yield
    finally:
        with contextlib.suppress(OSError):
            fault.point("unlock", path)
            path.unlink(missing_ok=True)  # while it is held: who opened it meanwhile finds that it is not the file under this name, and tries again
        os.close(handle)


def _lock(path: Path) -> int | None:
    """The open file of a lock that is ours now; None while another process holds it."""
    while True:
        try:
            make_folder(path.parent)
            fault.point("lock", path)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise DiskError(f"cannot write in {path.parent}: {error.strerror}; name folders that can be written with --runs and --store") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)


def refuse_held(path: Path) -> None:
    """ClusterError where another process holds the lock of a folder, before anything is loaded or computed for it; `locked` decides."""
    if is_held(path):
        raise ClusterError(_IN_USE.format(path.parent))


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock.

    Asked by a shared lock of some microseconds, and only where the file is there: a run that starts in the same moment, in a folder that a
    killed one left, may be told that the folder is in use.
    """
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DiskError(f"cannot tell whether {lock} is held: {error.strerror}; ask as the user who started the run") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
