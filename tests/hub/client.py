"""The real clients, in a process of their own: huggingface_hub reads its settings when it is imported."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub.stub import Hub
from tests.safety.hostile import CANARY

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Place:
    """The folder of a run."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs" / "small"

    @property
    def store(self) -> Path:
        return self.folder / "store"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out.splitlines()[-1])


def start(hub: Hub, home: Path, *arguments: object, token: str = CANARY, **variables: str) -> "subprocess.Popen[str]":
    """`python ARGUMENTS` with the stub for its Hub."""
    named = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": token, "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE") and name != "HF_TOKEN"}
    environment = {name: value for name, value in {**kept, **named, **variables}.items() if value}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(hub: Hub, home: Path, *arguments: object, token: str = CANARY, **variables: str) -> Ended:
    """The same, to its end."""
    home.mkdir(parents=True, exist_ok=True)
    process = start(hub, home, *arguments, token=token, **variables)
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out, err)
