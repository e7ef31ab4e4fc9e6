"""Reading what torch.save wrote, without unpickling it.

Such a file is a zip: `data.pkl` is a program for a small stack machine, `data/0`, `data/1`, ... are the bytes of the
tensors. Python's pickle would call whatever function that program names. Here its instructions are carried out one by
one, and only those that plain containers, numbers and tensors need; a name is compared with a list, never imported.
"""

import io
import math
import pickletools
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.errors import CurateError, ModelError, SafetyError

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST_PROGRAM = 1 << 25  # bytes; an optimizer's takes about 300 for each parameter
_MOST_AXES = 64  # of a tensor, as in torch
_DTYPES = {
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_CALLS = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A class or function that the file mentions: words, nothing that can be called."""

    words: str


@dataclass(frozen=True)
class _Storage:
    """All elements of one `data/N`, in the order of memory, (E,)."""

    elements: "Tensor"


def read_torch(path: Path) -> Any:
    """The dicts, lists, tuples, strings, numbers and CPU tensors in a file of torch.save; nothing of it is run.

    Dtypes, strides and shared storages stay as they were saved; requires_grad is dropped, and an OrderedDict or a
    Parameter comes as the dict or the tensor that it holds. SafetyError: the file asks for anything else, by name, or
    is packed as torch never packs. ModelError: it is not there, cut short, damaged, or of torch before 1.6.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            folder = _folder(archive, path)
            program = archive.read(f"{folder}data.pkl")
            return _Machine(_Storages(archive, folder, path), path).run(program)
    except CurateError:
        raise
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} is no whole file of torch.save ({error}); copy it again, or save it again with torch 1.6 or later") from error
    except (OSError, EOFError, LookupError, ValueError, TypeError, OverflowError, RuntimeError) as error:  # what zipfile, pickletools and torch make of damage
        raise ModelError(f"{path} cannot be read ({_told(error)}); copy it again") from error


@dataclass(frozen=True)
class AdamwState:
    """The state_dict() of an AdamW: one entry for each parameter, in the order of its groups."""

    moments: Sequence[Mapping[str, Any]]  # exp_avg, exp_avg_sq and step, as they were saved
    sizes: Sequence[int]  # how many parameters each group has, groups without any left out
    names: Sequence[str] | None  # None where the file numbers its parameters
    constants: Mapping[str, float]  # beta1, beta2, epsilon and step, which all parameters share


def read_adamw(path: Path) -> AdamwState:
    """The optimizer state in a file of torch.save, by number or, from FSDP or for named parameters, by name.

    ModelError: it is of another optimizer, of Adam with a weight decay inside the gradient, or incomplete.
    """
    saved = read_torch(path)
    try:
        return _adamw(saved["param_groups"], saved["state"], path)
    except CurateError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:  # the file may hold anything at all
        raise ModelError(f"{path} holds no state_dict() of AdamW ({_told(error)}); copy it again, or use a later checkpoint") from error


def _adamw(groups: list[dict[str, Any]], state: dict[int | str, dict[str, Any]], path: Path) -> AdamwState:
    used = [group for group in groups if group["params"]]
    keys = [key for group in used for key in group["params"]]
    kept = sorted({name for moments in state.values() for name in moments})
    odd = any(group.get("amsgrad") is not False or group.get("maximize") for group in used)  # only Adam and AdamW have amsgrad at all
    coupled = any(group.get("weight_decay") and not group.get("decoupled_weight_decay", True) for group in used)
    if odd or coupled or kept not in ([], ["exp_avg", "exp_avg_sq", "step"]):
        why = "its weight decay is part of the gradient" if coupled else f"it keeps {', '.join(kept) or 'nothing'}{' and has other settings' * odd}"
        raise ModelError(f"{path} is not of a plain AdamW: {why}; train with optim: adamw_torch or adamw_torch_fused, or let curate train a warm-up")
    if len(set(keys)) != len(keys) or set(keys) != set(state) or any(len(moments) != len(kept) for moments in state.values()):
        raise ModelError(f"{path} has moments of {len(state)} parameters where its groups list {len(keys)}; each must be trained from the first step on")
    constants = {(*map(float, group["betas"]), float(group["eps"])) for group in used}
    steps = {int(moments["step"]) for moments in state.values()}
    if len(constants) != 1 or len(steps) != 1:
        raise ModelError(f"{path}: its parameters took {sorted(steps)} steps with (beta1, beta2, eps) of {sorted(constants)}; train all alike")
    beta1, beta2, epsilon = constants.pop()
    names = keys if all(isinstance(key, str) for key in keys) else [name for group in used for name in group.get("param_names", ())]
    if len(names) not in (0, len(keys)) or not (0 <= beta1 < 1 and 0 <= beta2 < 1 and 0 < epsilon < math.inf):
        raise ValueError(f"{len(names)} names, {len(keys)} parameters, betas {beta1} and {beta2}, eps {epsilon}")
    shared = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "step": steps.pop()}
    return AdamwState([state[key] for key in keys], [len(group["params"]) for group in used], [str(name) for name in names] or None, shared)


def _folder(archive: zipfile.ZipFile, path: Path) -> str:
    """The folder in the zip that holds data.pkl; no member may unpack to more bytes than the file has."""
    members = archive.infolist()
    odd = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size]
    if odd or sum(member.file_size for member in members) > path.stat().st_size:
        raise SafetyError(f"{path} is refused: {odd[0] if odd else 'the zip'} unpacks to more than is stored, and torch.save never compresses")
    programs = [member for member in members if member.filename.count("/") == 1 and member.filename.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ModelError(f"{path} is a zip but no file of torch.save: it holds {len(programs)} data.pkl; give an optimizer.pt")
    if programs[0].file_size > _LONGEST_PROGRAM:
        raise SafetyError(f"{path} is refused: its data.pkl has {programs[0].file_size} bytes, at most {_LONGEST_PROGRAM} are read")
    return programs[0].filename.removesuffix("data.pkl")


class _Storages:
    """The zip's `data/N` as flat tensors, each read once, so that views of one storage share it."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path) -> None:
        self._archive, self._folder, self._path = archive, folder, path
        self._sizes = {member.filename: member.file_size for member in archive.infolist()}
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in self._sizes else "little"
        if order not in ("little", "big"):
            raise ModelError(f"{path} is damaged: its byte order is {order!r}, not little or big; copy it again")
        self._swapped = order != sys.byteorder
        self._read: dict[str, tuple[str, _Storage]] = {}

    def find(self, identity: Any) -> _Storage:
        """The storage of ("storage", type, N, device, number of elements)."""
        if not (type(identity) is tuple and len(identity) == 5 and identity[0] == "storage" and isinstance(identity[1], _Name)):
            raise SafetyError(f"{self._path} is refused: it refers to {_shown(identity)} outside of itself, not to a tensor's storage")
        _, kind, key, _, count = identity
        dtype = _DTYPES.get(kind.words)
        if dtype is None or not isinstance(key, str) or type(count) is not int:
            raise SafetyError(f"{self._path} is refused: {_shown(identity)} is no tensor's storage")
        if key not in self._read:
            self._read[key] = (dtype, _Storage(self._load(f"{self._folder}data/{key}", dtype, count)))
        known, storage = self._read[key]
        if known != dtype or len(storage.elements) != count:
            raise ModelError(f"{self._path} is damaged: data/{key} is used as {known} and as {dtype}, or with two sizes; copy it again")
        return storage

    def _load(self, member: str, dtype: str, count: int) -> "Tensor":
        import torch

        kind = getattr(torch, dtype)
        if self._sizes.get(member) != count * kind.itemsize:
            raise ModelError(f"{self._path} is damaged: {member} has {self._sizes.get(member, 0)} bytes for {count} elements of {dtype}; copy it again")
        if count == 0:
            return torch.empty(0, dtype=kind)
        data = self._archive.read(member)  # which compares the checksum
        if self._swapped:
            data = np.frombuffer(data, f"u{kind.itemsize}").byteswap().tobytes()
        return torch.frombuffer(bytearray(data), dtype=kind)


class _Machine:
    """The stack machine that a pickle is written for, without its instructions that import, call or build objects."""

    def __init__(self, storages: _Storages, path: Path) -> None:
        self._storages, self._path = storages, path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        """What the program leaves on the stack."""
        for opcode, argument, _ in pickletools.genops(io.BytesIO(program)):
            self._step(opcode.name, argument)
        (result,) = self._stack
        return result

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            self._stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name == "TUPLE":
            self._stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            self._stack.append(tuple(self._take(_TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            self._extend(self._take(1) if name == "APPEND" else self._since_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self._update(self._take(2) if name == "SETITEM" else self._since_mark())
        elif name == "GLOBAL":
            self._stack.append(self._name(argument))
        elif name == "BINPERSID":
            self._stack.append(self._storages.find(self._take(1)[0]))
        elif name == "REDUCE":
            self._stack.append(self._call(*self._take(2)))
        elif name not in ("PROTO", "STOP"):
            raise SafetyError(f"{self._path} is refused: its pickle uses {name}, which tensors and plain containers do not need; nothing of it was run")

    def _take(self, count: int) -> list[Any]:
        taken = self._stack[-count:]
        if len(taken) < count or any(item is _MARK for item in taken):
            raise ValueError("the pickle takes more than it put down")
        del self._stack[-count:]
        return taken

    def _since_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            taken.append(item)
        return taken[::-1]

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("the pickle appends to what is no list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        target, keys, values = self._stack[-1], items[::2], items[1::2]
        if type(target) is not dict or not all(isinstance(key, str | int) for key in keys):
            raise ValueError("the pickle sets items of what is no dict, or under keys that are no strings or integers")
        target.update(zip(keys, values, strict=True))

    def _name(self, words: str) -> _Name:
        if words not in _CALLS and words not in _DTYPES:
            raise SafetyError(
                f"{self._path} is refused: it asks for {words.replace(' ', '.')}; only plain tensors, such as optim: adamw_torch leaves, are read; "
                "nothing of it was run"
            )
        return _Name(words)

    def _call(self, function: Any, arguments: Any) -> Any:
        """What the three functions of the list would return."""
        if not isinstance(function, _Name) or function.words not in _CALLS or type(arguments) is not tuple:
            raise SafetyError(f"{self._path} is refused: it calls {_shown(function)}; nothing of it was run")
        if function.words == "collections OrderedDict" and not arguments:
            return {}
        if function.words == "torch._utils _rebuild_parameter" and len(arguments) == 3 and _is_tensor(arguments[0]):
            return arguments[0]
        if function.words == "torch._utils _rebuild_tensor_v2" and len(arguments) == 6 and isinstance(arguments[0], _Storage):
            return _view(*arguments[:4])
        raise SafetyError(f"{self._path} is refused: it calls {_shown(function)} with other arguments than torch.save gives it")


def _view(storage: _Storage, offset: Any, size: Any, stride: Any) -> "Tensor":
    """The tensor over these elements; one that lies outside its storage or repeats elements to grow beyond it is refused."""
    import torch

    paired = type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= _MOST_AXES
    if not paired or not all(type(number) is int and 0 <= number < 1 << 62 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's offset, sizes and strides are not whole numbers of memory")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and (last >= len(storage.elements) or math.prod(size) > len(storage.elements)):
        raise ValueError(f"a tensor of shape {size} does not lie in its storage of {len(storage.elements)} elements")
    return torch.as_strided(storage.elements, size, stride, offset)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _shown(value: Any) -> str:
    return value.words.replace(" ", ".") if isinstance(value, _Name) else f"a {type(value).__name__}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
