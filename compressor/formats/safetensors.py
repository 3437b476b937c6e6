"""The header of a `.safetensors` file: where each tensor lies, without reading one, and before one is written.

    bytes 0-7      N, the length of the header, little-endian
    bytes 8-8+N    JSON: name -> {dtype, shape, data_offsets: [begin, end]}, and `__metadata__`: text by text
    the rest       the tensors, row-major and little-endian, one behind the other without gaps

Source: the format's description and limits in the documentation of the safetensors library.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from compressor.arrays import DType, MappedArray, Shape
from compressor.errors import CompressorError

MAX_HEADER = 100_000_000
MAX_RANK = 64  # numpy's
METADATA = "__metadata__"

DTYPES: Mapping[str, tuple[DType, int]] = {
    name: (np.dtype(kind), width)
    for name, kind, width in (
        ("BOOL", np.bool_, 8),
        ("U8", np.uint8, 8),
        ("I8", np.int8, 8),
        ("U16", np.uint16, 16),
        ("I16", np.int16, 16),
        ("U32", np.uint32, 32),
        ("I32", np.int32, 32),
        ("U64", np.uint64, 64),
        ("I64", np.int64, 64),
        ("F4", ml_dtypes.float4_e2m1fn, 4),
        ("F6_E2M3", ml_dtypes.float6_e2m3fn, 6),
        ("F6_E3M2", ml_dtypes.float6_e3m2fn, 6),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn, 8),
        ("F8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz, 8),
        ("F8_E5M2", ml_dtypes.float8_e5m2, 8),
        ("F8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz, 8),
        ("F8_E8M0", ml_dtypes.float8_e8m0fnu, 8),
        ("F16", np.float16, 16),
        ("BF16", ml_dtypes.bfloat16, 16),
        ("F32", np.float32, 32),
        ("F64", np.float64, 64),
        ("C64", np.complex64, 64),
    )
}
"""The types of the format, with the bits of an element."""

KINDS: Mapping[DType, str] = {dtype: name for name, (dtype, _) in DTYPES.items()}
ALIGNMENT = 8
"""The data begin at a multiple of this, the widest elements first: so each is aligned in a file that is mapped."""


def read(path: Path) -> dict[str, MappedArray]:
    """The tensors of a file by name, in the order of their data.

    Raises:
        CompressorError: the header is truncated or damaged, or describes what the file cannot hold.
    """
    described, start, size = header(path)
    places = sorted(
        (place(path, name, entry) for name, entry in described.items() if name != METADATA), key=lambda one: one[1:3]
    )
    tensors: dict[str, MappedArray] = {}
    end = 0
    for name, begin, stop, shape, dtype, width in places:
        if begin != end:
            raise _damaged(path, f"tensor {name!r} begins at byte {begin} of the data, expected {end}")
        end = stop
        tensors[name] = MappedArray(path, start + begin, shape, dtype, 0 if width >= 8 else width)
    if start + end != size:
        raise _damaged(path, f"the tensors take {end} bytes, the file has {size - start} of data")
    return tensors


def header(path: Path) -> tuple[Mapping[str, Any], int, int]:
    """The header, where the data begin, and the size of the file.

    Raises:
        CompressorError: it is truncated or damaged.
    """
    try:
        if path.is_fifo():  # opening it would wait for its writer
            raise _damaged(path, "not a regular file")
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _damaged(path, "not a regular file")
            length = int.from_bytes(file.read(8), "little")
            if found.st_size < 8 or length > min(MAX_HEADER, found.st_size - 8):
                raise _damaged(path, f"a header of {length} bytes in a file of {found.st_size}")
            text = file.read(length)
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
    try:
        described = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"a header that is not JSON: {error}") from error
    if not isinstance(described, dict):
        raise _damaged(path, "a header that is not a JSON object")
    return described, 8 + length, found.st_size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def laid_out(
    tensors: Mapping[str, tuple[DType, Shape]], metadata: Mapping[str, str] = {}
) -> tuple[bytes, Mapping[str, int], int]:
    """The head of a file of these tensors, where each begins in the file, and the file's size.

    >>> head, places, size = laid_out({"b": (np.dtype(np.int8), (3,)), "a": (np.dtype(np.float32), (2,))})
    >>> len(head) % 8, places["a"] - len(head), places["b"] - len(head), size - len(head)
    (0, 0, 8, 11)
    """
    described: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begins: dict[str, int] = {}
    end = 0
    widths = {name: DTYPES[KINDS[dtype]][1] for name, (dtype, _) in tensors.items()}
    for name in sorted(tensors, key=lambda name: (-widths[name], name)):
        dtype, shape = tensors[name]
        begins[name] = end
        end += math.prod(shape) * widths[name] // 8
        described[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [begins[name], end]}
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    head = text + b" " * (-len(text) % ALIGNMENT)
    head = len(head).to_bytes(8, "little") + head
    return head, {name: len(head) + begin for name, begin in begins.items()}, len(head) + end


def place(path: Path, name: str, entry: Any) -> tuple[str, int, int, tuple[int, ...], DType, int]:
    """The name of a tensor, its first byte and the one behind its last, its shape, dtype and bits of an element.

    Raises:
        CompressorError: the header's entry contradicts itself.
    """
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _damaged(path, f"tensor {name!r} without dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise CompressorError(f"{path}: tensor {name!r}: dtype {kind!r}, expected one of {', '.join(DTYPES)}.")
    if not _counts(shape) or len(shape) > MAX_RANK or math.prod(max(dim, 1) for dim in shape) >= 1 << 56:
        raise _damaged(path, f"tensor {name!r} of the shape {str(shape)[:80]}")
    if not _counts(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name!r} at the offsets {str(offsets)[:80]}")
    dtype, width = DTYPES[kind]
    nbytes, odd = divmod(math.prod(shape) * width, 8)
    if odd or offsets[1] - offsets[0] != nbytes:
        raise _damaged(path, f"tensor {name!r} {kind}{shape} takes {nbytes} bytes, its offsets are {offsets}")
    return name, offsets[0], offsets[1], tuple(shape), dtype, width


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _damaged(path: Path, what: str) -> CompressorError:
    return CompressorError(f"{path}: not a readable safetensors file ({what}). Save or download it again.")
