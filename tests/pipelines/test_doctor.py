"""Doctor has a line for everything that may be wrong with a machine, and none of them holds a secret."""

import importlib
import importlib.metadata
import os
import re
import shutil
import stat
import sys
import tomllib
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from curate.pipelines import doctor_machine as machine
from curate.pipelines.doctor import doctor, requirements
from curate.report.doctored import Check, Doctored, print_doctored

SECRET = "hf_QwErTyUiOp0123456789"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with nothing set, so that what a test finds is of its own making."""
    for name in [name for name in os.environ if name.startswith("DASK_")]:
        monkeypatch.delenv(name)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("dask.config.paths", [str(tmp_path / "dask")])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**39, 2**39))
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")


def of(what: str, store: Path) -> list[Check]:
    return [check for check in doctor(store).checks if check.what == what]


def one(what: str, store: Path) -> Check:
    (found,) = of(what, store)
    return found


def shown(found: Doctored) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))
    print_doctored(found, console)
    return console.export_text()


def without(monkeypatch: pytest.MonkeyPatch, *names: str, **versions: str) -> None:
    """These distributions are not installed, and those have other versions."""
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)


def test_this_machine_can_run_curate(tmp_path: Path) -> None:
    found = doctor(tmp_path / "store")
    assert not found.broken and {"python", "curate", "libraries", "devices", "store", "TMPDIR", "memory", "cores", "dask", "token"} <= {
        check.what for check in found.checks
    }
    assert Doctored.model_validate_json(found.model_dump_json()) == found
    assert list(tmp_path.iterdir()) == []  # nothing was made


def test_what_is_wanted_is_what_the_project_file_says(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]

    def least(lines: list[str]) -> dict[str, str]:
        pairs = (re.sub(r"\[.*?\]", "", line.split(";")[0]).split(">=") for line in lines)
        return {name.strip(): version.strip() for name, version in pairs}

    assert requirements() == least(project["dependencies"])
    extras = project["optional-dependencies"]
    assert requirements(("cpu", "gpu")) == least([*extras["cpu"], *extras["gpu"]])


def test_a_missing_library_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "peft")
    found = doctor(tmp_path)
    assert found.broken
    (check,) = [check for check in found.checks if check.what == "peft"]
    assert (check.level, check.found, check.advice) == ("error", "not installed", f"pip install 'peft>={requirements()['peft']}'")
    assert "error" in shown(found)


def test_distributed_is_missed_although_only_dask_is_wanted_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "distributed")
    assert one("distributed", tmp_path).level == "error"


@pytest.mark.parametrize(("version", "old"), [("4.57.1", True), ("5.0", False), ("5.0.0rc1", False), ("5.10", False), ("10.0+cpu", False), ("0.9", True)])
def test_versions_are_compared_by_their_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, old: bool) -> None:
    without(monkeypatch, transformers=version)
    assert ("transformers" in [check.what for check in doctor(tmp_path).checks if "too old" in check.found]) == old


@pytest.mark.parametrize("module", ["faiss", "torch", "peft"])
def test_a_library_that_cannot_be_imported_is_a_line_and_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    check = one(module, tmp_path)
    assert check.level == "error" and check.found.startswith("cannot be imported: ModuleNotFoundError") and "\n" not in check.found
    assert "pip install --force-reinstall" in check.advice


def test_a_library_may_break_with_any_exception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> Any:
        raise OSError(f"lib{name}.so: undefined symbol\nand more")

    monkeypatch.setattr(importlib, "import_module", broken)
    found = doctor(tmp_path)
    assert [check.what for check in found.checks if check.level == "error"] == ["faiss", "torch", "transformers", "peft", "distributed"]
    assert {check.found for check in found.checks if check.what == "peft"} == {"cannot be imported: OSError: libpeft.so: undefined symbol"}


def test_two_faiss_are_one_too_many_and_none_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, **{"faiss-gpu": "1.14.3", "faiss-cpu": "1.14"})
    assert "both write the same files" in one("faiss", tmp_path).advice
    without(monkeypatch, "faiss-cpu", "faiss-gpu")
    assert one("faiss", tmp_path).level == "warning"


def cuda(monkeypatch: pytest.MonkeyPatch, count: int, properties: Any) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def test_gpus_are_named_and_a_driver_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda(monkeypatch, 2, lambda number: types.SimpleNamespace(name=f"Card {number}", total_memory=80 * 2**30))
    assert "Card 0 with 80.0 GiB, Card 1 with 80.0 GiB" in one("devices", tmp_path).found
    cuda(monkeypatch, 0, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    blind = one("devices", tmp_path)
    assert blind.level == "warning" and "CUDA_VISIBLE_DEVICES is ''" in blind.advice

    def fails(number: int) -> Any:
        raise RuntimeError("CUDA error: device unavailable\nCompile with TORCH_USE_CUDA_DSA")

    cuda(monkeypatch, 1, fails)
    assert one("devices", tmp_path).level == "error" and "device unavailable" in one("devices", tmp_path).found


def test_a_full_disk_a_file_and_a_folder_that_refuses_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert one("store", tmp_path / "file" / "store").level == "error"
    assert one("store", tmp_path / "not" / "yet").level == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
    assert "cannot be written" in one("store", tmp_path).found
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))
    assert one("store", tmp_path).level == "warning" and "--store" in one("store", tmp_path).advice


def test_the_limits_of_a_container_of_either_version_are_found_also_above_its_own_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(machine, "OWN_GROUPS", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    own.write_text("4:memory:/job\n0::/slice/job\n")
    (groups / "slice" / "job").mkdir(parents=True)
    (groups / "slice" / "job" / "cpu.max").write_text("max 100000\n")
    assert one("cores", tmp_path).level == "ok"
    (groups / "slice" / "cpu.max").write_text("150000 100000\n")
    (groups / "slice" / "memory.max").write_text(f"{3 * 2**29}\n")
    cores, memory = one("cores", tmp_path), one("memory", tmp_path)
    assert cores.level == "warning" and "time for 1.5 of them" in cores.found and "--workers 1," in cores.advice
    assert memory.level == "warning" and "may use 1.5 GiB" in memory.found
    (groups / "memory" / "job").mkdir(parents=True)
    (groups / "memory" / "job" / "memory.limit_in_bytes").write_text(f"{2**30}\n")
    assert "may use 1.0 GiB" in one("memory", tmp_path).found


def test_settings_of_dask_that_run_code_or_move_addresses_are_named_without_their_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert one("dask", tmp_path).level == "ok"
    monkeypatch.setenv("DASK_LOGGING__DISTRIBUTED", SECRET)
    assert one("dask", tmp_path).level == "ok" and "DASK_LOGGING__DISTRIBUTED" in one("dask", tmp_path).found
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", SECRET)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", SECRET)
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "mine.yaml").write_text("distributed:\n  nanny:\n    preload_argv: [x]\n  comm:\n    timeouts: {connect: 3s}\n")
    found = doctor(tmp_path)
    lines = [check.found for check in found.checks if check.what == "dask"]
    assert lines == [
        "DASK_DISTRIBUTED__WORKER__PRELOAD runs code in every worker process",
        "DASK_SCHEDULER_ADDRESS changes where workers listen or connect",
        f"distributed.nanny.preload_argv in {tmp_path / 'dask' / 'mine.yaml'} runs code in every worker process",
    ]
    assert not found.broken and SECRET not in found.model_dump_json()
    (tmp_path / "dask" / "mine.yaml").write_text("a: [\n")
    assert "cannot be read" in of("dask", tmp_path)[0].found


def test_whether_there_is_a_token_is_said_and_never_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert one("token", tmp_path).found.startswith("no")
    (tmp_path / "hub").mkdir()
    file = tmp_path / "hub" / "token"
    file.write_text(SECRET)
    file.chmod(0o644)
    assert one("token", tmp_path).level == "warning" and f"chmod 600 {file}" in one("token", tmp_path).advice
    file.chmod(0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and one("token", tmp_path).found == f"yes, in {file}"
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", SECRET)
    found = doctor(tmp_path)
    assert one("token", tmp_path).found == "yes, in HF_TOKEN"
    assert SECRET not in found.model_dump_json() and SECRET not in shown(found)


def test_being_offline_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert one("Hub", tmp_path).found == "asked where needed"
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "yes")
    assert "offline by TRANSFORMERS_OFFLINE" in one("Hub", tmp_path).found
