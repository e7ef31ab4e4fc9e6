"""Do a worker and the driver see the same folder? The driver leaves a random word there; a worker reads it and leaves its answer."""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from curate.errors import DiskError
from curate.store import atomic_write, digest

_NAME = ".greeting-{token}.{part}.tmp"  # as `curate.locks.remove_temporaries` knows names, so that nothing stays after a kill
_PATIENCE = 10.0  # seconds until another machine's file is seen over a network file system


class Sentinel:
    """One random word in one folder; `token` says which, and only who reads the file knows the word."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token, self._word = folder, secrets.token_hex(16), secrets.token_hex(16)

    @property
    def path(self) -> Path:
        return self.folder / _NAME.format(token=self.token, part="0" * 32)

    @contextlib.contextmanager
    def placed(self) -> Iterator["Sentinel"]:
        """The word is there; locked meanwhile, so that whoever finds it unlocked knows that its driver is gone."""
        remove_stale(self.folder)
        atomic_write(self.path, self._word.encode())
        handle = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: what a kill leaves behind stays there
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield self
        finally:
            _remove(self.folder, self.token)
            os.close(handle)

    def answered(self, name: str) -> bool:
        """Whether the answer of this worker is there, and right; it is removed."""
        answer = _answer(self.folder, self.token, self._word, name)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                right = answer.read_bytes() == name.encode()
                answer.unlink()
                return right
            time.sleep(0.2)
        return False


def answer(folder: Path, token: str, name: str) -> str:
    """In a worker: read the word, write the answer; what went wrong, or nothing."""
    if not folder.is_dir():
        return f"does not see the folder {folder}"
    path = folder / _NAME.format(token=token, part="0" * 32)
    deadline = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            return f"sees another folder under the name {folder}: what this process wrote there is not in it"
        time.sleep(0.2)
    try:
        atomic_write(_answer(folder, token, path.read_text(), name), name.encode())
    except (OSError, DiskError) as error:
        return f"cannot write in {folder} ({error})"
    return ""


def _answer(folder: Path, token: str, word: str, name: str) -> Path:
    return folder / _NAME.format(token=token, part=digest(f"{word} {name}".encode()))


def _remove(folder: Path, token: str) -> None:
    for path in folder.glob("*" + _NAME.format(token=token, part="*")):  # what a worker was writing when it was killed has a longer name
        path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """What drivers left behind that were killed: their words are not locked any more."""
    for path in folder.glob(_NAME.format(token="*", part="0" * 32)):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder, path.name.split(".")[1].removeprefix("greeting-"))
            finally:
                os.close(handle)
