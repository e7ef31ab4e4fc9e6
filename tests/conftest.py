"""Every test runs offline, on one thread, with caches of its own, and draws the same examples each time."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="curate-tests-")

# Libraries read these when they are imported, so they are set before any test module is.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HOME": _CACHE.name,
    "MPLCONFIGDIR": _CACHE.name,
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout; its tests carry the mark `real`."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the shared real data, which is not beside this checkout")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: a kill spares what the kernel has not written yet, and what counts as flushed is what was announced."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `curate ...` in this process; its exit code."""

    def run(*arguments: object) -> int:
        from curate.__main__ import main

        monkeypatch.setattr(sys, "argv", ["curate", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of the tiny pretrained Llama that ships with the package."""
    return ROOT / "configs" / "quickstart_model"
