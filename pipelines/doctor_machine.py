"""What the machine leaves to a run: disk, memory and cores, within the limits of a container.

Quotas of file systems and of schedulers are not seen.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from curate.report.doctored import Check
from curate.report.wording import size

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_LITTLE = 2**30  # bytes of disk below which a run soon ends
_SMALL = 2 * 2**30  # bytes of memory below which a model is hardly trained


def disk(store: Path) -> Iterator[Check]:
    """The store, which need not exist yet, and the folder of temporary files."""
    yield folder_check("store", store.absolute(), "name another folder with --store")
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        yield Check(what="TMPDIR", level="error", found=str(error), advice="set TMPDIR to a folder that can be written")
        return
    yield folder_check("TMPDIR", temporary, "set TMPDIR to another folder; `curate plan` needs room for one model there")


def folder_check(what: str, folder: Path, advice: str) -> Check:
    """Whether the folder, or the one that it would be made in, can be written, and what is free there."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        return Check(what=what, level="error", found=f"{there} is a file", advice=advice)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(what=what, level="error", found=f"{there} cannot be written", advice=advice)
    free = shutil.disk_usage(there).free
    little = free < _LITTLE
    return Check(what=what, level="warning" if little else "ok", found=f"{folder}: {size(free)} free", advice=advice if little else "")


def memory() -> Iterator[Check]:
    """What the machine has, and what the container leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available, limit = _available() or total, _memory_limit()
    usable = min(available, limit or available)
    bounded = f", this container may use {size(limit)}" if limit and limit < total else ""
    little = usable < _SMALL
    advice = "use --workers 1 and a small model, or stop other programs" if little else ""
    yield Check(what="memory", level="warning" if little else "ok", found=f"{size(total)}, {size(available)} available{bounded}", advice=advice)


def _available() -> int:
    with suppress(OSError):
        if match := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            return int(match[1]) * 1024
    return 0


def cores() -> Iterator[Check]:
    """Those that this process may use; a quota slows them down without taking any away."""
    mine, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{mine} of {there}" if mine < there else str(mine)
    quota = _quota()
    if quota and quota < mine:
        worth = max(1, int(quota))
        yield Check(what="cores", level="warning", found=f"{found}, with time for {quota:g} of them", advice=f"use --workers {worth}, or fewer")
        return
    yield Check(what="cores", level="ok", found=found)


def _quota() -> float | None:
    """Cores' worth of time that the container grants; None without a limit."""
    shares = []
    for folder in _own_groups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            shares.append(int(quota) / int(period))  # `max` is no number
        with suppress(OSError, ValueError):
            first, of = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            shares += [first / of] if first > 0 else []
    return min(shares, default=None)


def _memory_limit() -> int | None:
    """The least limit of this process's group and of those above it."""
    found = []
    for folder in _own_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                found.append(int((folder / name).read_text()))
    return min(found, default=None)


def _own_groups(controller: str) -> list[Path]:
    """This process's group and those above it, in the one tree of version 2 and in the controller's own of version 1."""
    found = [CGROUPS, CGROUPS / controller]
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = CGROUPS / controller if controllers else CGROUPS
            own = top / path.lstrip("/")
            found += [folder for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return list(dict.fromkeys(found))
