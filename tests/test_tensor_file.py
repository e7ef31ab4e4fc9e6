"""Tensors are read as the library reads them, and nothing of them stays behind."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from curate.tensor_file import read_tensors

TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether names, types, shapes and bits agree."""
    alike = (torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items())
    return set(found) == set(expected) and all(alike)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float8_e4m3fn, torch.complex64])
def test_every_type_and_shape_comes_back_as_the_library_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    shapes = ((3, 5), (7,), (), (0, 4), (2, 1, 3))
    tensors = {f"t{number}": (torch.arange(100)[: torch.Size(shape).numel()] - 7).abs().reshape(shape).to(dtype) for number, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_tensors(tmp_path / "a.safetensors")
    assert same({name: tensor.to(torch.complex128) for name, tensor in found.items()}, {name: each.to(torch.complex128) for name, each in tensors.items()})
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(tensors, dtype)


def test_numbers_that_begin_at_an_odd_byte_are_read(tmp_path: Path) -> None:
    data = save({"a": torch.arange(5, dtype=torch.float32), "b": torch.tensor([True, False, True])})
    size = int.from_bytes(data[:8], "little")
    path = tmp_path / "odd.safetensors"
    path.write_bytes((size + 3).to_bytes(8, "little") + data[8 : 8 + size] + b"   " + data[8 + size :])
    assert same(read_tensors(path), load_file(path)) and read_tensors(path)["a"].tolist() == [0, 1, 2, 3, 4]


def test_what_is_read_outlives_the_file_and_writing_into_it_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1000), "b": torch.zeros(3)}, path)
    before = path.read_bytes()
    found = read_tensors(path)
    found["a"].mul_(2)
    assert path.read_bytes() == before
    path.unlink()
    assert found["a"].tolist() == [2.0] * 1000 and found["b"].tolist() == [0.0] * 3


@pytest.mark.parametrize("damage", ["empty", "cut", "no header"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    data = save({"a": torch.ones(8)})
    path = tmp_path / "a.safetensors"
    path.write_bytes({"empty": b"", "cut": data[:-4], "no header": b"\xff" * 64}[damage])
    with pytest.raises(SafetensorError):
        read_tensors(path)


def test_an_absent_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.safetensors")


def left_by(turns: int, act: Callable[[], object], files: tuple[str, ...]) -> int:
    """Objects made in files of these names that so many turns leave behind."""
    for _ in range(3):
        act()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    for _ in range(turns):
        act()
    gc.collect()
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    return sum(line.count_diff for line in after.compare_to(before, "filename") if line.traceback[0].filename.endswith(files))


def test_reading_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"t{number}": torch.full((100,), float(number)) for number in range(32)}, path)  # the library's reader leaves two objects a tensor
    assert left_by(50, lambda: read_tensors(path), ("tensor_file.py",)) < 32 * 50
