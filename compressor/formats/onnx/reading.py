"""ONNX files read without their tensors: a model of any size costs what its graph costs.

A scan of the protobuf wire format over the file cuts the data of large tensors out before protobuf parses the
rest. Such a tensor becomes one with external data, whose location is the model file itself.

Source: onnx.proto (TensorProto), ONNX's ExternalData.md.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.arrays import UINT8, Array, ArraySpec, DType, MappedArray, NDArray, from_bytes
from compressor.errors import CompressorError
from compressor.formats import places
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.onnx.graphs import tensors
from compressor.formats.onnx.wire import EXTERNAL, without_data
from compressor.formats.wire import FileBytes, WireError
from compressor.packing import packed_nbytes

if TYPE_CHECKING:
    import onnx

_MAX_RANK = 64  # numpy's

Known = dict[str, tuple[Path, int]]
"""Files of external data by their location, with their bytes: a file of many tensors is looked up once."""


def load(path: Path) -> onnx.ModelProto:
    """The model of `path`; tensors with 1 KiB of data or more stay on disk, in external form.

    Raises:
        CompressorError: the file cannot be read or is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        if path.is_fifo():  # opening it would wait for its writer
            raise CompressorError(f"{path}: not a file, expected an ONNX model.")
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CompressorError(f"{path}: not a file, expected an ONNX model.")
            if os.fstat(file.fileno()).st_size == 0:
                raise CompressorError(f"{path}: the file is empty, expected an ONNX model.")
            model.ParseFromString(without_data(FileBytes(file.fileno()), path.name))
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
    except (DecodeError, WireError) as error:
        raise CompressorError(f"{path}: not an ONNX model, or truncated: {error}.") from error
    if not model.HasField("graph") or not model.opset_import:
        missing = "graph" if not model.HasField("graph") else "opset_import"
        raise CompressorError(f"{path}: not an ONNX model: it has no {missing}.")
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        _merge(imports)
    return model


def _merge(imports: Any) -> None:
    """Import each domain once; ONNX's own has two names. ONNX Runtime takes the last of several."""
    merged = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}
    if len(merged) < len(imports) or any(entry.domain not in merged for entry in imports):
        last = [type(imports[0])(domain=domain, version=version) for domain, version in merged.items()]
        del imports[:]
        imports.extend(last)


def files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """`path`, from which `model` was loaded, and the files in which its tensors lie, in the order of the tensors.

    Raises:
        CompressorError: one is missing, or not inside the model's directory.
    """
    found = {path.name: path}
    for tensor in (*model.graph.initializer, *tensors([model.graph], model.functions)):
        if tensor.data_location == EXTERNAL:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            if location not in found:
                found[location] = external(tensor, path.parent).path
    return tuple(dict.fromkeys(found.values()))


def spec(tensor: onnx.TensorProto) -> ArraySpec:
    """The declared shape and dtype of `tensor`.

    Raises:
        CompressorError: the dtype has no numpy type here, or the dimensions are impossible.
    """
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        choices = ", ".join(str(known) for known in DTYPES.values())
        raise CompressorError(f"tensor {tensor.name!r}: data type {tensor.data_type}, expected one of {choices}.")
    size(tensor.name, tensor.dims)
    return ArraySpec(tuple(tensor.dims), dtype)


def size(name: str, dims: Sequence[int]) -> int:
    """How many elements the tensor `name` of these dimensions has.

    Raises:
        CompressorError: no array has such dimensions.
    """
    if len(dims) > _MAX_RANK or any(dim < 0 for dim in dims) or math.prod(max(dim, 1) for dim in dims) >= 1 << 60:
        raise CompressorError(f"tensor {name!r}: impossible dimensions {list(dims)[: _MAX_RANK + 1]}.")
    return math.prod(dims)


def array(tensor: onnx.TensorProto, directory: Path, known: Known | None = None) -> Array:
    """The elements of `tensor`; those of external data, looked up in `directory`, as a slice of their file.

    known: the files that were looked up, to which this one is added.

    Raises:
        CompressorError: the data are missing, or are not what shape and dtype declare.
    """
    expected = spec(tensor)
    if tensor.data_location == EXTERNAL:
        found = external(tensor, directory, expected.nbytes, known)
        if found.size != expected.nbytes:
            raise _mismatch(tensor, expected, f"{found.size} bytes", str(found.path))
        if expected.nbytes == 0:
            return np.empty(expected.shape, expected.dtype)
        return MappedArray(found.path, found.offset, expected.shape, expected.dtype)
    raw = np.frombuffer(tensor.raw_data, np.uint8) if tensor.HasField("raw_data") else _typed(tensor, expected.dtype)
    if raw.size != expected.nbytes:
        raise _mismatch(tensor, expected, f"{raw.size} bytes", "the model")
    return from_bytes(raw, expected.shape, expected.dtype)


def external(
    tensor: onnx.TensorProto, directory: Path, nbytes: int | None = None, known: Known | None = None
) -> MappedArray:
    """The bytes of a tensor's external data: uint8 `[length]`; `nbytes` where the tensor does not say how many.

    known: as for `array`.

    Raises:
        CompressorError: the file is missing, too short, or not inside `directory`.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data if isinstance(entry.value, str)}
    known, location = {} if known is None else known, entries.get("location", "")
    if location not in known:
        known[location] = _inside(tensor, location, directory)
    path, available = known[location]
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except ValueError as error:
        raise CompressorError(f"tensor {tensor.name!r}: external data at {path}: {error}.") from error
    if length < 0:
        length = available - offset if nbytes is None else nbytes
    if offset < 0 or length < 0 or offset + length > available:
        raise CompressorError(
            f"tensor {tensor.name!r}: expected bytes {offset} to {offset + length} of {path}, which has {available}."
        )
    return MappedArray(path, offset, (length,), UINT8)


def _inside(tensor: onnx.TensorProto, location: str, directory: Path) -> tuple[Path, int]:
    """The file at `location` and its bytes; it must lie in `directory`, the model's: no other file is to be read."""
    if reason := places.why_not(location, directory, directory, "the model's folder"):
        raise CompressorError(
            f"tensor {tensor.name!r}: the location {location!r} of its data {reason}; "
            f"expected a file inside {directory}: put a copy there."
        )
    path = directory / location
    try:
        found = path.stat()
    except OSError as error:
        raise CompressorError(
            f"tensor {tensor.name!r}: its data file {path} cannot be read ({error.strerror}); put it beside the model."
        ) from error
    return path, found.st_size if stat.S_ISREG(found.st_mode) else 0


def _typed(tensor: onnx.TensorProto, dtype: DType) -> NDArray:
    """The bytes of the elements in a tensor's typed fields; a number of `int32_data` holds one byte of packed codes."""
    if dtype == np.float32:
        values = np.array(tensor.float_data, dtype)
    elif dtype == np.float64:
        values = np.array(tensor.double_data, dtype)
    elif dtype == np.int64:
        values = np.array(tensor.int64_data, dtype)
    elif dtype in (np.dtype(np.uint32), np.dtype(np.uint64)):
        values = np.array(tensor.uint64_data, np.uint64).astype(dtype)
    else:
        stored = {2: "<u2", 4: "<i4"}.get(dtype.itemsize, "u1")
        values = np.array(tensor.int32_data, np.int32).astype(stored)
    return values.view(np.uint8)


def _mismatch(tensor: onnx.TensorProto, expected: ArraySpec, got: str, where: str) -> CompressorError:
    return CompressorError(
        f"tensor {tensor.name!r} {expected.dtype}{list(expected.shape)}: "
        f"expected {expected.nbytes} bytes of data, got {got} in {where}."
    )


def packed(raw: Array, to: Sequence[int], dtype: DType, width: int) -> Array:
    """Stored bytes as the codes packed in them; a slice of a file stays one.

    Raises:
        ValueError: they are too few.
    """
    dims, nbytes = tuple(to), packed_nbytes(math.prod(to), width)
    if raw.size < nbytes:
        raise ValueError(f"{list(dims)} codes of {width} bits take {nbytes} bytes, got {raw.size}")
    if isinstance(raw, MappedArray):
        return MappedArray(raw.path, raw.offset, dims, dtype, width)
    values = from_bytes(np.asarray(raw).reshape(-1)[:nbytes], dims, dtype if width in {2, 4} else UINT8, width)
    return values.view(dtype) if dtype == np.bool_ else values
