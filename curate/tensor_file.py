"""Tensors of a safetensors file, mapped into memory as the library's own reader maps them, which loses two numbers for every tensor.

`load_file` and `get_tensor` of safetensors (seen in 0.8.0) never free the two Python integers that bound a tensor in its file: some 56 bytes a tensor,
for ever. That is nothing once, and megabytes an hour in a process that reads checkpoint after checkpoint. Here the library opens and checks the file,
and torch alone cuts it into tensors.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}


def read_tensors(path: Path, device: str = "cpu") -> "dict[str, Tensor]":
    """The tensors by name, as `safetensors.torch.load_file` gives them; on a CPU mapped, so that processes share them.

    OSError where the file cannot be read, SafetensorError where it is damaged. Types that the table lacks are left to the library.
    """
    import torch
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:  # raises unless the header is sound and its offsets cover the file exactly
        with open(path, "rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(size))
        stored = torch.UntypedStorage.from_file(str(path), False, os.path.getsize(path))
        tensors = {}
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            entry = header[name]
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            if entry["dtype"] not in _DTYPES:
                tensors[name] = file.get_tensor(name).to(device)
                continue
            flat = torch.asarray(stored[begin:end], dtype=torch.uint8)  # a storage of its own: an offset need not divide by the size of a number
            tensors[name] = flat.view(getattr(torch, _DTYPES[entry["dtype"]])).reshape(entry["shape"]).to(device)
    return tensors
