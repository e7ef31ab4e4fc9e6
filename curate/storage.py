"""Formats of stored feature rows, and what each costs in bytes and in error.

    float32  D*4 bytes        exact
    float16  D*2              each number within 2^-11 of itself; below 6e-5 within 3e-8
    int8     D + 4            each number within absmax/254, absmax being the row's largest in size
    sign     ceil(D/8) + 4    each number becomes +a or -a with a = mean |v|, the size of least squared error

A row is coded by itself, so its neighbours and its shard do not matter. The dtype of the tensor `values` is the record
of the format: F32, F16, I8 (with `scale`, the row's absmax) or U8 (packed bits, with `scale`, the row's a, and `width`, D).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from curate.core import Integers
from curate.errors import ConfigError, DataError, NumericError

Stored = Literal["float32", "float16", "int8", "sign"]

_STEPS = 127  # int8 without -128, so that v and -v are stored alike
_BLOCK = 256
_COMPARED = 64  # rows whose pairwise cosines are compared
_LARGEST_HALF = 65504.0
_VANISHING_HALF = 2.0**-25  # up to here float16 rounds to zero


@dataclass(frozen=True)
class StoredRows:
    """Coded rows (n, D) that read as float32; indexing decodes the rows it is asked for and no others."""

    values: NDArray[Any]  # (n, D) float16 or int8, or (n, ceil(D/8)) uint8
    scale: NDArray[np.float32] | None  # (n,)
    width: int  # D

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), self.width

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """The rows of `key`: a number, a slice, an array of numbers or a mask."""
        codes = np.asarray(self.values[key])
        if self.scale is None:
            return codes.astype(np.float32)
        scale = self.scale[key][..., None]
        if codes.dtype == np.uint8:
            positive = np.unpackbits(codes, axis=-1, count=self.width).view(np.bool_)
            return np.asarray(np.where(positive, scale, -scale))
        out = codes.astype(np.float32)
        out /= _STEPS  # before the scale: a step of the smallest numbers is zero in float32
        out *= scale
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def encode(values: NDArray[np.float32], stored: Stored, rows: Integers | None = None) -> dict[str, NDArray[Any]]:
    """The tensors that `stored_rows` reads; `values` (n, D) are finite, or (n,) for float32 only.

    Zeros count as positive in `sign`, so it does not suit sparse rows. A NumericError names the row, by its number in
    `rows` (n,) where given, that is not finite, that float16 cannot hold, or of which it would leave only zeros.
    """
    check_stored(stored)
    plain = np.ascontiguousarray(values, np.float32)
    if stored == "float32":
        return {"values": plain}
    if plain.ndim != 2:
        raise DataError(f"values of shape {plain.shape} cannot be stored as {stored}, which is for vectors (rows, width); store scores as float32")
    sizes = np.abs(plain)
    absmax = sizes.max(axis=1, initial=0.0)
    _refuse(~np.isfinite(absmax), absmax, rows, "which is not finite; drop the row or score it again")
    if stored == "float16":
        _refuse(absmax > _LARGEST_HALF, absmax, rows, "beyond float16, which ends at 65504; store this feature as float32 or int8")
        _refuse((absmax > 0) & (absmax <= _VANISHING_HALF), absmax, rows, "which float16 rounds to zero; store this feature as float32 or int8")
        return {"values": plain.astype(np.float16)}
    if stored == "int8":
        divisor = np.where(absmax > 0, absmax, 1).astype(np.float64)
        return {"values": np.rint(plain * (_STEPS / divisor)[:, None]).astype(np.int8), "scale": absmax}
    mean = (sizes.sum(axis=1, dtype=np.float64) / max(plain.shape[1], 1)).astype(np.float32)
    smallest = np.finfo(np.float32).smallest_subnormal
    scale = np.where(absmax > 0, np.maximum(mean, smallest), np.float32(0))  # only a zero row may lose its direction
    return {"values": np.packbits(plain >= 0, axis=1), "scale": scale, "width": np.array([plain.shape[1]], np.int64)}


def check_stored(stored: str) -> None:
    """ConfigError unless this is the name of a format."""
    if stored not in get_args(Stored):
        raise ConfigError(f"stored: {stored!r} is not a storage format; choose one of {', '.join(get_args(Stored))}")


def _refuse(wrong: NDArray[np.bool_], absmax: NDArray[np.float32], rows: Integers | None, why: str) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        raise NumericError(f"row {first if rows is None else rows[first]} reaches {absmax[first]:g}, {why}")


def stored_rows(tensors: Mapping[str, NDArray[Any]]) -> "NDArray[np.float32] | StoredRows":
    """What `encode` made, to be read as float32 rows; nothing is decoded before it is asked for."""
    values = tensors["values"]
    if values.dtype == np.float32:
        return values
    return StoredRows(values, tensors.get("scale"), int(tensors["width"][0]) if "width" in tensors else values.shape[1])


def bytes_per_row(width: int, stored: Stored) -> int:
    """What a row of `width` numbers takes; a shard adds 8 bytes for the row's number, and a header of a few hundred."""
    check_stored(stored)
    return {"float32": 4 * width, "float16": 2 * width, "int8": width + 4, "sign": -(-width // 8) + 4}[stored]


def storage_error(values: Any, stored: Stored) -> dict[str, float]:
    """What the format costs on these rows (n, D), measured; the same rows give the same numbers.

    row_error     root mean square over the `rows` that are not zero of |v - decoded v| / |v|
    cosine_error  root mean square over `pairs` of |cos(u, v) - cos(decoded u, decoded v)|, all pairs of up to 64 rows
                  spread evenly over those that are not zero

    0 where there is no row or no pair to measure. Reads the rows in blocks, O(n D + 64^2 D).
    """
    if len(np.shape(values)) != 2:
        raise DataError(f"the storage error is that of vectors (rows, width), not of values of shape {np.shape(values)}")
    lengths, errors = np.zeros(len(values)), np.zeros(len(values))
    for start in range(0, len(values), _BLOCK):
        block = np.asarray(values[start : start + _BLOCK], np.float32)
        numbers = np.arange(start, start + len(block))
        lengths[numbers] = _norms(block)
        errors[numbers] = _norms(block - stored_rows(encode(block, stored, numbers))[:].astype(np.float64))
    real = np.flatnonzero(lengths)
    count = min(_COMPARED, len(real))
    compared = np.asarray(values[real[np.arange(count) * len(real) // max(count, 1)]], np.float32)
    apart = _cosines(compared) - _cosines(stored_rows(encode(compared, stored))[:])
    return {"rows": len(real), "row_error": _rms(errors[real] / lengths[real]), "pairs": len(apart), "cosine_error": _rms(apart)}


def _norms(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", wide, wide)))


def _cosines(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    unit = rows / _norms(rows)[:, None]
    products = np.einsum("id,jd->ij", unit, unit)  # no matrix product, whose last bits hang on the number of threads
    return np.asarray(products[np.triu_indices(len(rows), 1)])


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
