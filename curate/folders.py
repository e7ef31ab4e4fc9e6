"""Names on the disk: folders made so that a power cut does not take them, files and trees removed, and what a refusal means for the user."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from curate import fault
from curate.errors import DiskError

_TEMPORARY = f".*.{'[0-9a-f]' * 32}.tmp"
_MENDS = {
    errno.ENOENT: "another process finished or removed its folder;",
    errno.EACCES: "make its folder writable",
    errno.EPERM: "make its folder writable",
    errno.EROFS: "mount the disk for writing",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EDQUOT: "free a part of the quota",
    errno.EIO: "look at the disk, which fails",
}


def disk_error(path: Path, error: OSError, doing: str = "write") -> DiskError:
    """This refusal as one line: what, where, why, and what to do next."""
    mend = _MENDS.get(error.errno or 0, "free or mount the disk")
    joined = mend + (" " if mend.endswith(";") else " and ")
    return DiskError(f"cannot {doing} {path}: {error.strerror or error}; {joined}run the same command again")


def unforeseen(error: OSError) -> DiskError | None:
    """A refusal that nothing on its way was ready for, as one line too; None where the error is no refusal of a disk, or names no file."""
    if error.errno not in {*_MENDS, errno.ENOSPC} - {errno.ENOENT} or not isinstance(error.filename, str):
        return None
    return disk_error(Path(error.filename), error, "use")


@contextlib.contextmanager
def refusals(path: Path, doing: str = "write") -> Iterator[None]:
    """What the file system refuses within the block is a DiskError about this path."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise disk_error(path, error, doing) from error


def make_folder(path: Path, *, below: Path | None = None) -> None:
    """Make this folder and those above it that are missing, each flushed into the one that holds it; OSError.

    `below` has to be there already, and is not made again: who lost it to another process must not bring it back.
    """
    if path.is_dir():
        return
    if path == below:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if path.parent != path:
        make_folder(path.parent, below=below)
    fault.point("mkdir", path)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush the names in this folder to the disk: a file that was made, renamed or removed stays so after a power cut. OSError."""
    fault.point("fsync folder", path)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path, to: Path) -> None:
    """Rename within a file system and flush both folders. OSError."""
    fault.point("rename", to, source=source)
    os.rename(source, to)
    sync_folder(to.parent)
    if source.parent != to.parent:
        sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file, or nothing where there is none; DiskError."""
    with refusals(path, "remove"):
        fault.point("unlink", path)
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, or nothing where there is none; DiskError."""
    with refusals(path, "remove"), contextlib.suppress(FileNotFoundError):
        fault.point("rmtree", path)
        shutil.rmtree(path)


def is_temporary(name: str) -> bool:
    """Whether `curate.store.atomic_write` gives such names to what it is writing."""
    return Path(name).match(_TEMPORARY)


def remove_temporaries(folder: Path) -> None:
    """Remove what was being written in this folder or below when its process was killed; nobody else may be writing there. DiskError."""
    for leftover in folder.rglob(_TEMPORARY):
        remove(leftover)


def is_plain_file(path: Path) -> bool:
    """Whether a regular file lies under this name: no link, pipe, socket or device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def listed(folder: Path, prefix: str = "") -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """What lies in this folder and below, but for folders, by its name from here; nothing is followed. OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from listed(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry
