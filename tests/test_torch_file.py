"""Files of torch.save come out as torch.load gives them, and nothing in them is ever run."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import CurateError, ModelError, SafetyError
from curate.torch_file import read_adamw, read_torch

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def packed(path: Path, program: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A file in torch's layout with this pickle, and with `data0` as its data/0."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in members.items():
            archive.writestr("archive/" + name.replace("data", "data/"), data)
    return path


def number(value: int) -> bytes:
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def tensor_program(offset: int, size: int, stride: int, count: int) -> bytes:
    """The pickle of one float32 tensor over data/0."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    empty = b"ccollections\nOrderedDict\n)R"
    return b"\x80\x02" + REBUILD + b"(" + storage + number(offset) + number(size) + b"\x85" + number(stride) + b"\x85\x89" + empty + b"tR."


def same(ours: Any, theirs: Any) -> None:
    """Equal values, bit for bit, of equal types, but for OrderedDict and Parameter."""
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.stride() == theirs.stride()
        assert ours.storage_offset() == theirs.storage_offset() and not ours.requires_grad
        assert ours.flatten().contiguous().view(torch.uint8).tolist() == theirs.detach().flatten().contiguous().view(torch.uint8).tolist()
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs) and type(ours) is dict
        for key, value in theirs.items():
            same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)
    else:
        assert type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_an_optimizer_comes_out_as_torch_loads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Embedding(3, 4), torch.nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)).to(dtype)
    optimizer = torch.optim.AdamW([{"params": model[0].parameters(), "lr": 0.1}, {"params": [*model[1].parameters(), *model[2].parameters()]}])
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    path = saved(optimizer.state_dict(), tmp_path / "optimizer.pt")
    same(ours := read_torch(path), torch.load(path, weights_only=True))
    assert not ours["state"][3]["exp_avg"].is_contiguous()  # the channels-last one


@pytest.mark.parametrize("build", [torch.optim.SGD, torch.optim.Adafactor, torch.optim.Adagrad])
def test_other_optimizers_and_schedulers_read_as_well(build: Callable[..., torch.optim.Optimizer], tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = build([("layer.weight", weight)], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    schedule.step()
    path = saved([optimizer.state_dict(), schedule.state_dict()], tmp_path / "both.pt")
    same(read_torch(path), torch.load(path, weights_only=True))


def test_views_share_their_storage_as_they_did(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32)
    value = {"whole": whole, "end": whole[20:], "turned": whole[:12].view(3, 4).T, "every": whole[1::5], "scalar": whole[7], "none": whole[:0]}
    path = saved(value, tmp_path / "views.pt")
    same(ours := read_torch(path), torch.load(path, weights_only=True))
    ours["whole"][21] = -1
    assert ours["end"][1] == -1
    assert ours["every"].stride() == (5,) and ours["turned"].stride() == (1, 4)


def test_every_dtype_and_plain_value_comes_back(tmp_path: Path) -> None:
    numbers = torch.tensor([0, 1, 100])
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    value = {
        "tensors": [numbers.to(kind) for kind in kinds],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": OrderedDict(a=[(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, []], b=OrderedDict()),
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31, 2**70, -(2**70), 0.1, float("inf"), True, False, None],
        7: "text \u00e4\U0001f600",
        "many": {f"name {i}": torch.full((2,), float(i)) for i in range(300)},  # more than one byte of memo can number
        "shared": [(twice := ["again"]), twice],
    }
    path = saved(value, tmp_path / "plain.pt")
    same(ours := read_torch(path), torch.load(path, weights_only=True))
    assert ours["shared"][0] is ours["shared"][1]


def test_bytes_of_the_other_order_are_turned_round(tmp_path: Path) -> None:
    path, other = saved(torch.tensor([1.5, -2.25, 3e10]), tmp_path / "little.pt"), tmp_path / "big.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            data = b"big" if name.endswith("byteorder") else np.frombuffer(data, "<f4").astype(">f4").tobytes() if "/data/" in name else data
            new.writestr(name, data)
    assert read_torch(other).tolist() == torch.load(other, weights_only=True).tolist() == torch.load(path).tolist()


def test_a_file_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attack = type("Attack", (), {"__reduce__": lambda self: (os.system, (f"touch {mark}",))})()
    path = saved({"state": {}, "param_groups": [attack]}, tmp_path / "optimizer.pt")
    with pytest.raises(SafetyError, match=r"posix\.system.*nothing of it was run"):
        read_torch(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so the file was a real attack


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "SHORT_BINUNICODE"),
        (b"(X\x02\x00\x00\x00idios\nsystem\n.", "INST"),
        (b"\x80\x02ctorch\nFloatStorage\n)\x81.", "NEWOBJ"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls a str"),
        (b"\x80\x02" + REBUILD + b")R.", "calls torch._utils._rebuild_tensor_v2 with other arguments"),
        (b"\x80\x02ccollections\nOrderedDict\n)R}b.", "BUILD"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "refers to a str outside of itself"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (tensor_program(0, 1, 1, 1).replace(b"\x07\x00\x00\x00storage", b"\x05\x00\x00\x00other"), "refers to a tuple outside of itself"),
    ],
)
def test_an_instruction_or_name_off_the_list_is_refused_by_its_name(program: bytes, named: str, tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match=named):
        read_torch(packed(tmp_path / "odd.pt", program))


def test_a_hand_made_tensor_reads_so_the_next_refusals_are_for_their_numbers(tmp_path: Path) -> None:
    ours = read_torch(packed(tmp_path / "fine.pt", tensor_program(1, 2, 2, 4), data0=struct.pack("<4f", 1, 2, 3, 4)))
    assert ours.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [(3, 2, 1, 4), (0, 2, 4, 4), (-1, 1, 1, 4), (0, -1, 1, 4), (0, 4, -1, 4), (0, 5, 0, 4), (0, 1 << 62, 0, 4), (0, 4, 1, 5), (0, 4, 1, 3), (0, 1, 1, -1)],
)
def test_a_tensor_that_does_not_fit_its_bytes_is_refused(offset: int, size: int, stride: int, count: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not lie|not whole numbers" if count == 4 else f"has 16 bytes for {count} elements"):
        read_torch(packed(tmp_path / "odd.pt", tensor_program(offset, size, stride, count), data0=bytes(16)))


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    for count in (4, 10**7):
        path = packed(tmp_path / "bomb.pt", tensor_program(0, count, 1, count), compression=zipfile.ZIP_DEFLATED, data0=bytes(4 * count))
        with pytest.raises(SafetyError, match="unpacks to more than is stored"):
            read_torch(path)
    assert path.stat().st_size < 10**6


def test_a_program_of_absurd_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.torch_file._LONGEST_PROGRAM", 100)
    with pytest.raises(SafetyError, match="at most 100 are read"):
        read_torch(saved(list(range(200)), tmp_path / "long.pt"))


def test_a_member_that_claims_more_bytes_than_the_file_has_is_refused(tmp_path: Path) -> None:
    data = packed(tmp_path / "odd.pt", tensor_program(0, 4, 1, 4), data0=bytes(16)).read_bytes()
    start = data.rindex(b"PK\x01\x02")
    (tmp_path / "odd.pt").write_bytes(data[: start + 20] + struct.pack("<II", 1 << 30, 1 << 30) + data[start + 28 :])
    with pytest.raises(SafetyError, match="unpacks to more"):
        read_torch(tmp_path / "odd.pt")


def test_a_file_cut_short_anywhere_gives_one_clear_line(tmp_path: Path) -> None:
    data = saved({"state": {0: {"exp_avg": torch.randn(50)}}}, tmp_path / "whole.pt").read_bytes()
    for length in (0, 1, 30, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"cut\.pt is no whole file of torch\.save") as caught:
            read_torch(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def test_a_changed_byte_of_a_tensor_is_seen(tmp_path: Path) -> None:
    data = bytearray(saved(torch.full((1000,), 7.0), tmp_path / "whole.pt").read_bytes())
    data[data.index(struct.pack("<4f", 7, 7, 7, 7)) + 100] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(ModelError, match="CRC"):
        read_torch(tmp_path / "flipped.pt")


def test_a_file_that_is_absent_old_or_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_torch(tmp_path / "absent.pt")
    torch.save([1], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="torch 1.6 or later"):
        read_torch(tmp_path / "old.pt")
    with pytest.raises(ModelError, match="data/0 has 0 bytes for 4 elements"):
        read_torch(packed(tmp_path / "part.pt", tensor_program(0, 4, 1, 4)))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ModelError, match="no file of torch.save"):
        read_torch(tmp_path / "other.pt")


def trained(build: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW, **settings: Any) -> dict[str, Any]:
    """The state of an optimizer after two steps of three parameters in two groups, and a third group without any."""
    a, b, c = (torch.nn.Parameter(torch.ones(size, 2)) for size in (1, 2, 3))
    optimizer = build([{"params": [a, b]}, {"params": []}, {"params": [c]}], lr=0.1, **settings)
    for _ in range(2):
        for parameter in (a, b, c):
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
    return dict(optimizer.state_dict())


def test_the_moments_of_adamw_come_in_the_order_of_its_groups(tmp_path: Path) -> None:
    ours = read_adamw(saved(trained(betas=(0.8, 0.99), eps=1e-6), tmp_path / "optimizer.pt"))
    assert [moments["exp_avg"].shape[0] for moments in ours.moments] == [1, 2, 3]
    assert (ours.sizes, ours.names, ours.constants) == ([2, 1], None, {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6, "step": 2})
    named = trained()
    named["param_groups"][0]["param_names"], named["param_groups"][2]["param_names"] = ["a", "b"], ["c"]
    assert read_adamw(saved(named, tmp_path / "optimizer.pt")).names == ["a", "b", "c"]
    read_adamw(saved(trained(torch.optim.Adam, weight_decay=0.0), tmp_path / "optimizer.pt"))  # without decay the two are one


def edited(edit: Callable[[Any], object]) -> dict[str, Any]:
    state = trained()
    edit(state)
    return state


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: trained(torch.optim.SGD), "not of a plain AdamW: it keeps nothing.*train with optim: adamw_torch"),
        (lambda: trained(torch.optim.Adafactor), "it keeps col_var, row_var, step"),
        (lambda: trained(torch.optim.RAdam), "has other settings"),
        (lambda: trained(amsgrad=True), "max_exp_avg_sq"),
        (lambda: trained(maximize=True), "has other settings"),
        (lambda: trained(torch.optim.Adam, weight_decay=0.1), "its weight decay is part of the gradient"),
        (lambda: edited(lambda state: state["state"].pop(1)), "moments of 2 parameters where its groups list 3"),
        (lambda: edited(lambda state: state["state"].update({9: state["state"][0]})), "moments of 4 parameters"),
        (lambda: edited(lambda state: state["state"][1].pop("exp_avg_sq")), "moments of 3 parameters"),
        (lambda: edited(lambda state: state["param_groups"][2].update(params=[2, 2])), "groups list 4"),
        (lambda: edited(lambda state: state["state"][1].update(step=torch.tensor(7.0))), r"took \[2, 7\] steps"),
        (lambda: edited(lambda state: state["param_groups"][2].update(betas=(0.5, 0.5))), r"\(0\.5, 0\.5, 1e-08\)"),
        (lambda: edited(lambda state: state["param_groups"][2].update(param_names=["c"])), "1 names, 3 parameters"),
        (lambda: edited(lambda state: [group.update(eps=-1.0) for group in state["param_groups"]]), "no state_dict"),
        (lambda: edited(lambda state: state.pop("state")), "no state_dict"),
    ],
)
def test_what_is_no_whole_state_of_a_plain_adamw_is_refused(make: Callable[[], dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        read_adamw(saved(make(), tmp_path / "optimizer.pt"))


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_ends_in_an_error_of_ours_or_leaves_the_values(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]) -> None:
    path = saved(trained(), tmp_path_factory.getbasetemp() / "damaged.pt")
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data)
    try:
        assert isinstance(read_torch(path), dict)
    except CurateError as error:
        assert str(path) in str(error)


@given(st.binary(max_size=40), st.sampled_from([pickle.dumps({"a": [1, (2, 3)]}, 2), tensor_program(0, 4, 1, 4)]), st.integers(0, 200))
def test_any_pickle_ends_in_a_value_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, noise: bytes, program: bytes, position: int) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pt"
    try:
        read_torch(packed(path, program[:position] + noise + program[position:], data0=bytes(16)))
    except CurateError as error:
        assert str(path) in str(error)
