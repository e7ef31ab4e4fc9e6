"""Joint training: one model trained by several processes, one per GPU, which accelerate starts and which share every step's rows."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curate import errors
from curate.errors import ClusterError, CurateError
from curate.one_task import worker_number
from curate.pipelines.finetune import TrainTask, run_training
from curate.settings import Lora, Train
from curate.store import Workspace, canonical, read_json

_FOLDER = "joint"  # what the processes are told, and what they say, beside the run's own files
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def train_jointly(task: TrainTask, workspace: Workspace) -> dict[str, Any]:
    """What `run_training` does, by `task.processes` processes; they are gone when this returns, however it does."""
    folder = workspace.path / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    _write(task, workspace)
    try:
        found = _launched(task, workspace.path)
        if (folder / "error.json").is_file():
            error = read_json(folder / "error.json")
            raise getattr(errors, error["kind"])(error["message"])
        if found.returncode != 0 or not (folder / "result.json").is_file():
            lines = [line for line in found.stderr.splitlines() if line.strip()]
            raise ClusterError(f"the {task.processes} processes that train {task.label} ended with {found.returncode}: {lines[-1] if lines else 'no word'}")
        result: dict[str, Any] = read_json(folder / "result.json")
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _launched(task: TrainTask, place: Path) -> subprocess.CompletedProcess[str]:
    where = ["--cpu"] if task.device == "cpu" else ["--multi_gpu", "--gpu_ids", "all"]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", *where, "--num_processes", str(task.processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"),
        *("--main_process_ip", "127.0.0.1", "--main_process_port", str(_free_port()), "-m", "curate.pipelines.joint", str(place)),
    ]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    if task.device.startswith("cuda"):
        environment["CUDA_VISIBLE_DEVICES"] = _own_gpus(task.processes)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=_die_with_parent)


def _own_gpus(count: int) -> str:
    """The GPUs of this worker: its number tells which `count` of those that there are."""
    import torch

    number = worker_number() or 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else []
    every = shown or [str(index) for index in range(torch.cuda.device_count())]
    first = number * count % max(1, len(every))
    return ",".join(every[first : first + count])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _write(task: TrainTask, workspace: Workspace) -> None:
    from safetensors.numpy import save

    told = {
        "handle": {**task.handle.identity(), "path": str(task.handle.path)},
        "examples": str(task.examples),
        "settings": task.settings.model_dump(mode="json"),
        **{name: getattr(task, name) for name in ("seed", "tokens", "steps", "device", "label")},
        "report_to": list(task.report_to),
        "run_folder": str(task.run_folder),
    }
    workspace.write(f"{_FOLDER}/task.json", canonical(told))
    workspace.write(f"{_FOLDER}/rows.safetensors", save({"rows": np.asarray(task.rows, np.int64), "weights": np.asarray(task.weights, np.float32)}))


def _read(place: Path) -> TrainTask:
    from safetensors.numpy import load_file

    from curate.model import ModelHandle

    told = read_json(place / _FOLDER / "task.json")
    arrays = load_file(str(place / _FOLDER / "rows.safetensors"))
    handle = told.pop("handle")
    lora = Lora.model_validate_json(json.dumps(handle["lora"])) if handle["lora"] else None
    return TrainTask(
        ModelHandle(Path(handle["path"]), handle["fingerprint"], handle["dtype"], handle["max_length"], lora),
        Path(told["examples"]),
        arrays["rows"],
        arrays["weights"],
        Train.model_validate_json(json.dumps(told["settings"])),
        **{name: told[name] for name in ("seed", "tokens", "steps", "device", "label")},
        report_to=tuple(told["report_to"]),
        run_folder=Path(told["run_folder"]),
    )


def main() -> None:
    """What each of the processes runs."""
    import torch

    from curate.training.joint import joined

    place = Path(sys.argv[1])
    task, workspace = _read(place), Workspace(place)
    torch.set_num_threads(1)
    ranks, device = joined(task.device)
    try:
        alone = task if ranks.first else replace(task, report_to=())
        summary = run_training(replace(alone, device=device), workspace, ranks=ranks)
    except CurateError as error:
        if ranks.first:
            workspace.write(f"{_FOLDER}/error.json", canonical({"kind": type(error).__name__, "message": str(error)}))
        sys.exit(error.exit_code)
    if ranks.first:
        workspace.write(f"{_FOLDER}/result.json", canonical(summary))


if __name__ == "__main__":
    main()
