"""The check of a wheel sees what is missing; built from this checkout, nothing is (slow: needs pip and setuptools, and no network)."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def check(root: Path) -> Any:
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("check_wheel", root / "tests" / "packaging" / "check_wheel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")
    return path


def test_what_a_wheel_lacks_and_what_it_should_not_hold_is_told(check: Any, tmp_path: Path) -> None:
    whole = [f"curate/{name}" for name in check.WANTED]
    good = packed(tmp_path / "curate-1-py3-none-any.whl", [*whole, "curate-1.dist-info/METADATA"])
    assert check.wheel_problems(good) == []
    bad = packed(tmp_path / "curate-2-cp311-cp311-linux_x86_64.whl", [*whole[1:], "tests/test_x.py", "curate/fast.so"])
    said = "\n".join(check.wheel_problems(bad))
    assert "has no curate/cli.py" in said and "holds tests" in said and "compiled curate/fast.so" in said and "not for every platform" in said


def test_what_a_source_archive_lacks_is_told(check: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with tarfile.open(tmp_path / "curate-1.tar.gz", "w:gz") as archive:
        for name in check.SOURCES[1:]:
            archive.add(tmp_path / "file", f"curate-1/{name}")
    assert check.sdist_problems(tmp_path / "curate-1.tar.gz") == ["curate-1.tar.gz has no pyproject.toml"]


def test_a_compiler_is_out_of_reach(check: Any, tmp_path: Path) -> None:
    said = check.run([sys.executable, "-c", "import os; print(os.environ['CC'], os.environ.get('PYTHONPATH'))"], tmp_path)
    assert said.split() == ["/nonexistent/compiler", "None"]
    with pytest.raises(SystemExit, match="ended with 3"):
        check.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.slow
def test_the_wheel_of_this_checkout_holds_all_of_the_package(check: Any, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    left = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs", "store")
    shutil.copytree(root, source, symlinks=True, ignore=left)
    pytest.importorskip("setuptools", minversion="77")
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert check.wheel_problems(wheel) == []
