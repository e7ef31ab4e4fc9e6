"""Doctor: whether this machine can run curate, a line for everything that has to be right, with what to do where it is not.

Nothing is written, and nothing is asked of the network.
"""

import importlib
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from curate import __version__
from curate.pipelines.doctor_machine import cores, disk, folder_check, memory
from curate.report.doctored import Check, Doctored
from curate.report.wording import size

# Their parts in the machine's own code may be broken although they are installed, so they are loaded.
_LOADED = ("torch", "transformers", "peft", "distributed")
_FAISS = ("faiss-cpu", "faiss-gpu")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_CODE = re.compile(r"preload|plugin|environ|inherit")
_PLACE = re.compile(r"address|host|interface|listen|port$|protocol|scheme|scheduler-file|security|tls|encryption")


def doctor(store: Path) -> Doctored:
    """Look at the Python, the libraries, the devices, disk and memory, and what the environment would change; a broken thing is a line, no exception."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (_python, _libraries, _faiss, _loaded, _devices, lambda: disk(store), memory, cores, _dask, _hub)
    return Doctored(checks=[check for part in parts for check in part()])


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        wanted, installed = metadata.metadata("curate")["Requires-Python"], metadata.version("curate")
    except metadata.PackageNotFoundError:
        yield Check(what="python", level="ok", found=found)
        yield Check(what="curate", level="error", found=f"{__version__}, not installed", advice="run `pip install -e .` in its checkout")
        return
    old = _older(platform.python_version(), (wanted or "").removeprefix(">="))
    yield Check(what="python", level="error" if old else "ok", found=found, advice=f"curate needs {wanted}: make a new environment with it" if old else "")
    if installed == __version__:
        yield Check(what="curate", level="ok", found=__version__)
    else:
        yield Check(what="curate", level="warning", found=f"{__version__}, installed as {installed}", advice="install it again, for its libraries may differ")


def requirements(extras: tuple[str, ...] = ()) -> dict[str, str]:
    """The least version of every library that pyproject.toml wants, or that these extras want."""
    found = {}
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("curate") or ():
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            match = re.match(r"([\w.-]+)(?:\[[\w,-]*\])?\s*>=\s*([\d.]+)", line)
            if match and (extra[1] in extras if extra else not extras):
                found[match[1]] = match[2]
    return found


def _libraries() -> Iterator[Check]:
    """What is installed against what is wanted; those that are as they should be share a line."""
    fine = []
    for name, least in requirements().items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(what=name, level="error", found="not installed", advice=f"pip install '{name}>={least}'")
            continue
        if _older(installed, least):
            yield Check(what=name, level="error", found=f"{installed}, too old", advice=f"pip install '{name}>={least}'")
        else:
            fine.append(f"{name} {installed}")
    if fine:
        yield Check(what="libraries", level="ok", found=", ".join(fine))


def _faiss() -> Iterator[Check]:
    """One of two distributions, which overwrite each other."""
    there, least = {}, requirements(("cpu", "gpu"))
    for name in _FAISS:
        with suppress(metadata.PackageNotFoundError):
            there[name] = metadata.version(name)
    found = ", ".join(f"{name} {version}" for name, version in there.items())
    if not there:
        yield Check(what="faiss", level="warning", found="not installed", advice="large pools need it: pip install 'curate[cpu]', or 'curate[gpu]'")
    elif len(there) > 1:
        yield Check(what="faiss", level="warning", found=found, advice="both write the same files: pip uninstall both, then install one again")
    elif old := [name for name, version in there.items() if _older(version, least.get(name, ""))]:
        yield Check(what="faiss", level="warning", found=f"{found}, too old", advice=f"pip install '{old[0]}>={least[old[0]]}'")
    else:
        yield _load("faiss", "faiss", found)


def _loaded() -> Iterator[Check]:
    """Whether libraries can be imported; of those that are wanted by name and not installed there is a line already."""
    wanted = requirements()
    for name in _LOADED:
        try:
            check = _load(name, name, f"{metadata.version(name)}, can be imported")
        except metadata.PackageNotFoundError:
            if name not in wanted:
                yield Check(what=name, level="error", found="not installed", advice="install curate again, with all that it needs")
            continue
        if check.level != "ok" or name != "torch":  # which has a line with its devices
            yield check


def _load(what: str, module: str, found: str) -> Check:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        advice = f"install it again: pip install --force-reinstall {what if what != 'faiss' else found.split()[0]}"
        return Check(what=what, level="error", found=f"cannot be imported: {_first_line(error)}", advice=advice)
    return Check(what=what, level="ok", found=found)


def _devices() -> Iterator[Check]:
    """The processor or the GPUs that torch sees."""
    try:
        import torch
    except Exception:  # has its line
        return
    try:
        version, built = torch.__version__, torch.version.cuda
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [torch.cuda.get_device_properties(number) for number in range(count)]
    except Exception as error:  # whatever a driver raises
        yield Check(what="devices", level="error", found=f"torch cannot look at the GPUs: {_first_line(error)}", advice="see `nvidia-smi`, or use --device cpu")
        return
    if gpus:
        yield Check(what="devices", level="ok", found=f"torch {version}: " + ", ".join(f"{gpu.name} with {size(gpu.total_memory)}" for gpu in gpus))
    elif built:
        seen = f" (CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r})" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        advice = f"runs go on the processor; if there is a GPU, see whether `nvidia-smi` shows it and whether its driver knows CUDA {built}{seen}"
        yield Check(what="devices", level="warning", found=f"torch {version} is built for CUDA {built}, and sees no GPU", advice=advice)
    else:
        yield Check(what="devices", level="ok", found=f"torch {version}, for the processor only")


def _dask() -> Iterator[Check]:
    """Settings of Dask from the environment or from files, by name: their values may hold passwords."""
    found = {name: _setting(name) for name in sorted(os.environ) if name.startswith("DASK_")}
    risky = 0
    try:
        from dask.config import collect_yaml, paths

        for file, settings in collect_yaml(paths, return_paths=True):
            found |= {f"{key} in {file}": key.replace("_", "-") for key in _keys(settings)}
    except ImportError:
        pass  # has its line
    except Exception as error:  # whatever a damaged file raises
        risky += 1
        yield Check(what="dask", level="warning", found=f"its configuration cannot be read: {_first_line(error)}", advice="mend or remove that file")
    for name, key in found.items():
        does = "runs code in every worker process" if _CODE.search(key) else "changes where workers listen or connect" if _PLACE.search(key) else ""
        if does:
            risky += 1
            yield Check(what="dask", level="warning", found=f"{name} {does}", advice="unset it, unless it is yours and meant")
    if not risky:
        yield Check(what="dask", level="ok", found=f"no foreign code or addresses; other settings: {', '.join(found) or 'none'}")


def _setting(name: str) -> str:
    """`DASK_DISTRIBUTED__WORKER__PRELOAD` is `distributed.worker.preload`; DASK_CONFIG and its like name files, which are looked at themselves."""
    return name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")


def _keys(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _hub() -> Iterator[Check]:
    """Where models and data are kept, whether the Hub is asked, and whether there is a token; never the token."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"
    home = Path(os.environ.get("HF_HOME") or cache).expanduser().absolute()
    yield folder_check("HF_HOME", home, "set HF_HOME to a folder with room for the models")
    offline = [name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    yield Check(what="Hub", level="ok", found=f"offline by {', '.join(offline)}: models and data come from HF_HOME only" if offline else "asked where needed")
    names = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)]
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    with suppress(OSError):
        state = file.stat()
        if state.st_size and stat.S_IMODE(state.st_mode) & 0o077:
            yield Check(what="token", level="warning", found=f"yes, in {file}, which others may read", advice=f"chmod 600 {file}")
            return
        names += [str(file)] if state.st_size else []
    yield Check(what="token", level="ok", found=f"yes, in {names[0]}" if names else "no: private and gated models cannot be had")


def _older(installed: str, least: str) -> bool:
    """Whether a version is below another, by their numbers; what comes after them, such as `rc1` or `+cpu`, is not compared."""
    return _numbers(installed) < _numbers(least)


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
