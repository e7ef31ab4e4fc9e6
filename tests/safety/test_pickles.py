"""P16, S01, S02: a pickle that lies where curate reads is refused in one line or passed over, and never opened."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

from tests.safety.hostile import Ran, safe_recipe

Command = Callable[..., tuple[int, str]]


class Trap:
    """An object whose pickle touches a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def curate(command_line: Callable[..., int], capsys: pytest.CaptureFixture[str], canary: Path) -> Command:
    """Run `curate ...`; its exit code and what it said. No trap may have sprung by then."""

    def run(*arguments: object) -> tuple[int, str]:
        code = command_line(*arguments)
        found = capsys.readouterr()
        assert not canary.exists() and "Traceback" not in found.err
        return code, found.out + found.err

    return run


@pytest.fixture
def copied(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished run, copied to where the command line works now."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "store"):
        shutil.copytree(ran.folder / name, tmp_path / name)
    return tmp_path


def plant(folder: Path, canary: Path) -> None:
    """A trap under every name that some library would unpickle."""
    folder.mkdir(parents=True, exist_ok=True)
    trap = Trap(canary)
    for name in ("results.pkl", "state.pickle", "data.joblib", "rng_state.pth", "training_args.bin", "optimizer.pt", "scheduler.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(trap))
    torch.save(trap, folder / "adapter_model.bin")
    torch.save({"weights": trap}, folder / "consolidated.pt")
    np.save(folder / "rows.npy", np.array([trap], dtype=object), allow_pickle=True)
    np.savez(folder / "rows.npz", rows=np.array([trap], dtype=object))


def test_the_traps_spring_when_they_are_loaded(tmp_path: Path, canary: Path) -> None:
    plant(tmp_path / "x", canary)
    loaders: dict[str, Callable[[Path], Any]] = {
        "results.pkl": lambda path: pickle.loads(path.read_bytes()),
        "consolidated.pt": lambda path: torch.load(path, weights_only=False),
        "rows.npy": lambda path: np.load(path, allow_pickle=True),
    }
    for name, load in loaders.items():
        load(tmp_path / "x" / name)
        assert canary.exists()
        canary.unlink()


def test_pickles_in_a_run_folder_and_in_the_store_are_passed_over(curate: Command, copied: Path, canary: Path) -> None:
    for folder in (copied / "runs" / "safe", copied / "runs" / "safe" / "tables", copied / "store", copied / "store" / ".part"):
        plant(folder, canary)
    for command in (("report", "safe"), ("verify", "safe"), ("explain", "safe", "row 9"), ("export", "safe", "hard", "out")):
        assert curate(*command)[0] == 0


@pytest.mark.parametrize("stage", ["examples", "features", "selection"])
def test_pickles_in_an_artifact_are_named_by_verify(curate: Command, copied: Path, canary: Path, stage: str) -> None:
    for folder in copied.glob(f"store/{stage}-*"):
        plant(folder, canary)
    code, said = curate("verify", "safe")
    assert code == 8 and "is not in the manifest" in said


@pytest.mark.parametrize("stage", ["examples", "features", "selection"])
@pytest.mark.parametrize("command", [("verify", "safe"), ("explain", "safe", "row 9"), ("export", "safe", "hard", "out")], ids=lambda command: command[0])
def test_pickles_in_the_place_of_an_artifacts_files_are_refused(curate: Command, copied: Path, canary: Path, stage: str, command: tuple[str, ...]) -> None:
    for file in copied.glob(f"store/{stage}-*/*"):
        if file.suffix not in (".json",):
            file.write_bytes(pickle.dumps(Trap(canary)))
    code, said = curate(*command)
    assert code in (3, 8, 9) and said.startswith("error: ") or (command[0], stage, code) == ("export", "features", 0)  # which it does not read


@pytest.mark.parametrize("name", ["results.json", "run.json"])
def test_a_pickle_in_the_place_of_a_record_is_refused(curate: Command, copied: Path, canary: Path, name: str) -> None:
    (copied / "runs" / "safe" / name).write_bytes(pickle.dumps(Trap(canary)))
    code, said = curate("report" if name == "results.json" else "verify", "safe")
    assert (code, said.count("\n")) == (8, 1) and name in said


@pytest.fixture
def score(curate: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Score with a model of its own folder, which can be tampered with."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "model")

    def run(*overrides: str, until: str = "score") -> tuple[int, str]:
        return curate("run", safe_recipe(tmp_path, Path("model")), *overrides, "--until", until, "--quiet", "--workers", "1")

    return run


def test_pickles_beside_the_weights_of_a_model_are_passed_over(score: Callable[..., tuple[int, str]], tmp_path: Path, canary: Path) -> None:
    plant(tmp_path / "model", canary)
    assert score()[0] == 0


def header(fields: Any, length: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file with this header, told to be of this length."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape: list[int], start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "huge": header({}, 2**63),
    "over-cap": header({}, 100_000_001),
    "past-the-end": header({"a": tensor([4], 0, 16)}, body=b"\0" * 8),
    "overlap": header({"a": tensor([4], 0, 16), "b": tensor([4], 8, 24)}, body=b"\0" * 24),
    "hole": header({"a": tensor([4], 0, 16), "b": tensor([4], 32, 48)}, body=b"\0" * 48),
    "backwards": header({"a": tensor([4], 16, 0)}, body=b"\0" * 16),
    "negative": header({"a": tensor([-4], 0, 16)}, body=b"\0" * 16),
    "overflow": header({"a": tensor([2**62, 2**62], 0, 16)}, body=b"\0" * 16),
    "twice": header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', body=b"\0" * 16),
    "deep": header(b"[" * 100_000),
    "kind": header({"a": tensor([4], 0, 16, "OBJECT")}, body=b"\0" * 16),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("hostile", HEADERS.values(), ids=HEADERS)
def test_a_hostile_safetensors_header_is_one_line(score: Callable[..., tuple[int, str]], tmp_path: Path, hostile: bytes) -> None:
    (tmp_path / "model" / "model.safetensors").write_bytes(hostile)
    code, said = score()
    assert (code, said.count("\n")) == (4, 1) and ("model does not load: " in said or "lack " in said) and "restore" in said


DATA = [("rows.npy", ""), ("rows.npz", ""), ("results.pkl", ""), ("consolidated.pt", "")]
DATA += [("rows.npy", ".jsonl"), ("rows.npz", ".parquet"), ("results.pkl", ".arrow"), ("consolidated.pt", ".csv"), ("results.pkl", ".json")]


@pytest.mark.parametrize(("name", "told"), DATA)
def test_a_pickle_is_no_data_whatever_it_is_called(score: Callable[..., tuple[int, str]], tmp_path: Path, canary: Path, name: str, told: str) -> None:
    plant(tmp_path / "x", canary)
    (tmp_path / "x" / name).rename(tmp_path / f"{name}{told}")
    code, said = score(f"pool={{path: {name}{told}}}", until="prepare")
    assert (code, said.count("\n")) == (3, 1) and f"{name}{told}" in said


def test_a_folder_of_data_is_read_without_the_pickles_in_it(score: Callable[..., tuple[int, str]], tmp_path: Path, canary: Path) -> None:
    safe_recipe(tmp_path, Path("model"))
    plant(tmp_path / "rows", canary)
    (tmp_path / "pool.jsonl").rename(tmp_path / "rows" / "pool.jsonl")
    assert score("pool={path: rows}", until="prepare")[0] == 0


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_type_that_is_a_pickle_is_not_made(score: Callable[..., tuple[int, str]], tmp_path: Path, canary: Path, kind: str) -> None:
    """pyarrow before 14.0.1 unpickled the extension type of a column while it read the schema (CVE-2023-47248)."""
    from pyarrow import parquet

    planted = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Trap(canary))}
    fields = [pyarrow.field("prompt", pyarrow.string()), pyarrow.field("completion", pyarrow.string(), metadata=planted)]
    table = pyarrow.table([[f"{n} + 1" for n in range(20)], [str(n + 1) for n in range(20)]], schema=pyarrow.schema(fields))
    if kind == "parquet":
        parquet.write_table(table, tmp_path / "pool.parquet")
    else:
        with pyarrow.ipc.new_file(str(tmp_path / "pool.arrow"), table.schema) as file:
            file.write_table(table)
    assert b"py_extension_type" in (tmp_path / f"pool.{kind}").read_bytes() or kind == "parquet"
    code, said = score(f"pool={{path: pool.{kind}}}", until="prepare")
    assert code in (0, 3) and said.count("\n") >= (code == 3)


def test_pickles_in_a_trainers_folder_are_refused_or_passed_over(tmp_path: Path, canary: Path) -> None:
    from curate.errors import CurateError
    from curate.torch_file import read_torch
    from curate.trainer_folder import fingerprint, lora_of

    folder = tmp_path / "run" / "checkpoint-1"
    plant(folder, canary)
    torch.save({"state": Trap(canary), "param_groups": []}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 1, "log_history": []}')
    assert lora_of(folder) is None
    with pytest.raises(CurateError, match="pickled weights"):
        fingerprint(tmp_path / "run")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "consolidated.pt", "rows.npz"):
        with pytest.raises(CurateError) as refused:
            read_torch(folder / name)
        assert str(folder / name) in str(refused.value) and "\n" not in str(refused.value)
    assert not canary.exists()
