"""vLLM in a process of its own, which it may keep its habits in: started when it is first asked, gone with its last user."""

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from curate.beat import beat
from curate.errors import ConfigError, ModelError
from curate.scratch import Scratch

CHILD = (sys.executable, "-P", str(Path(__file__).resolve().with_name("vllm_child.py")))
_ENDING = 10.0  # seconds in which it may end by itself
_GLANCE = 1.0  # seconds between two signs of life while it computes
# No second process in there, no network, no plugins (which are code of other packages); and no size of the cache but the one that is given.
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_PLUGINS": "",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",  # torch.distributed listens even for one process
    "NCCL_SOCKET_IFNAME": "lo",
}
_SIZE = "VLLM_CPU_KVCACHE_SPACE"


def build() -> str:
    """Which vLLM is installed, by the name and version of its distribution; ConfigError where there is none."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("--vllm needs vLLM, which is not installed; pip install 'curate[vllm]', or leave --vllm out")
    names = packages_distributions().get("vllm") or ["vllm"]
    return f"{names[0]} {version(names[0])}"


class VllmProcess:
    """A vLLM with one base model; `start` are the fields of its EngineArgs."""

    def __init__(self, start: Mapping[str, Any], device: str, *, patience: float = 600.0, command: Sequence[str] = CHILD) -> None:
        """`patience`: seconds that it may take over its start, or over one step, before it is ended."""
        self._wanted = {"start": dict(start), "device": device.split(":")[0]}
        self._environment = {name: value for name, value in os.environ.items() if name != _SIZE} | _SETTINGS | _visible(device)
        self._patience, self._command = patience, command
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Scratch | None = None  # where vLLM leaves files behind

    def exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What it answers to a line; ModelError, in one line, where it fails, dies or takes too long, and it is then gone."""
        try:
            if self._process is None:
                self._start()
            return self._said(message)
        except BaseException:
            self.close(kill=True)
            raise

    def close(self, *, kill: bool = False) -> None:
        """End it, at once or when it is through with its step."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        if not kill:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_ENDING)
        if process.returncode is None:  # until it is reaped no other group can have its number
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=_ENDING)
        if process.stdout is not None:
            process.stdout.close()
        if self._scratch is not None:
            self._scratch.remove()

    def _start(self) -> None:
        self._scratch = Scratch("vllm")
        environment = {**self._environment, "TMPDIR": str(self._scratch.path)}
        self._process = subprocess.Popen(
            list(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        self._said(self._wanted)

    def _said(self, message: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise ModelError("vLLM was ended before it was asked; evaluate again")
        with suppress(BrokenPipeError):  # what it said before it went is still there to be read
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(process, process.stdout.fileno()))
        if "error" in answer:
            raise ModelError(f"vLLM failed ({answer['error']}); leave --vllm out, and the engine generates by itself")
        return answer

    def _line(self, process: "subprocess.Popen[bytes]", pipe: int) -> bytes:
        deadline = time.monotonic() + self._patience
        pieces: list[bytes] = []
        with selectors.DefaultSelector() as waiting:
            waiting.register(pipe, selectors.EVENT_READ)
            while not (pieces and pieces[-1].endswith(b"\n")):  # it says nothing more before it is asked again
                beat()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ModelError(f"vLLM said nothing for {self._patience:g} seconds and was ended; leave --vllm out, or lower --batch-tokens")
                if waiting.select(min(left, _GLANCE)):
                    pieces.append(os.read(pipe, 1 << 16))
                    if not pieces[-1]:
                        raise ModelError(f"vLLM's process ended by itself ({_end(process)}); leave --vllm out, or lower --batch-tokens if memory ran out")
        return b"".join(pieces)


def _end(process: "subprocess.Popen[bytes]") -> str:
    try:
        code = process.wait(timeout=_ENDING)
    except subprocess.TimeoutExpired:
        return "it closed its output"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _visible(device: str) -> dict[str, str]:
    """The one GPU that it may see."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return {}
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    place = int(number or 0)
    return {"CUDA_VISIBLE_DEVICES": seen[place] if place < len(seen) else str(place)}
