"""ONNX models written tensor by tensor: one file while protobuf can hold it, else one with the data beside it.

The lengths of all messages follow from the tensors' types and dimensions, so nothing is held but the tensor in hand.

Source: onnx.proto; protobuf's encoding, "Message Structure"; ONNX's ExternalData.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from compressor.arrays import NDArray, Shape
from compressor.errors import CompressorError

if TYPE_CHECKING:
    import onnx

MODEL, DATA = "model.onnx", "model.onnx.data"

SINGLE_FILE_BYTES = (1 << 31) - (1 << 24)
"""Protobuf refuses 2 GiB; the margin is for whoever adds to a model that this wrote."""

INLINE_BYTES = 1024
"""Smaller tensors stay in the model's file."""

ALIGNMENT = 4096
"""Where external data may begin: ONNX Runtime maps pages. Source: ONNX's ExternalData.md, "offset"."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # ModelProto.graph, GraphProto.initializer, TensorProto.raw_data


class Tensor(Protocol):
    """A tensor to be written: `nbytes` of data, of which `payload` gives all but zeros at the end."""

    @property
    def name(self) -> str: ...
    @property
    def data_type(self) -> int: ...
    @property
    def dims(self) -> Shape: ...
    @property
    def nbytes(self) -> int: ...
    def payload(self) -> NDArray: ...


def write(model: onnx.ModelProto, planned: Sequence[Tensor], tensors: Iterable[Tensor], directory: Path) -> None:
    """Write `model` with the initializers `tensors` into `directory`.

    planned: the tensors without data; tensors: the same ones in the same order, each read when its turn comes.

    Raises:
        CompressorError: the model is too large for its format, or `tensors` are not those planned.
        OSError: the files cannot be written.
    """
    headers = [_header(tensor) for tensor in planned]
    sizes = [len(header) + _field_size(_RAW_DATA, t.nbytes) for header, t in zip(headers, planned, strict=True)]
    graph = model.graph.SerializeToString(deterministic=True)
    rest = _without_graph(model)
    length = len(graph) + sum(_field_size(_INITIALIZER, size) for size in sizes)
    if len(rest) + _field_size(_GRAPH, length) > SINGLE_FILE_BYTES:
        _write_external(model, planned, tensors, directory)
        return
    with (directory / MODEL).open("wb") as file:
        file.write(rest + _key(_GRAPH) + _varint(length) + graph)
        for header, size, plan, tensor in zip(headers, sizes, planned, _checked(planned, tensors), strict=True):
            file.write(_key(_INITIALIZER) + _varint(size) + header + _key(_RAW_DATA) + _varint(plan.nbytes))
            _write_payload(file, tensor)


def _write_external(
    model: onnx.ModelProto, planned: Sequence[Tensor], tensors: Iterable[Tensor], directory: Path
) -> None:
    """The data in a file of their own, each tensor at a multiple of `ALIGNMENT`."""
    import onnx

    described = onnx.ModelProto()
    described.CopyFrom(model)
    with (directory / DATA).open("wb") as data:
        for tensor in _checked(planned, tensors):
            made = described.graph.initializer.add()
            made.MergeFromString(_header(tensor))
            if tensor.nbytes < INLINE_BYTES:
                made.raw_data = bytes(tensor.payload()).ljust(tensor.nbytes, b"\0")
                continue
            data.write(bytes(-data.tell() % ALIGNMENT))
            made.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", DATA), ("offset", data.tell()), ("length", tensor.nbytes)):
                made.external_data.add(key=key, value=str(value))
            _write_payload(data, tensor)
    written = described.SerializeToString(deterministic=True)
    if len(written) > SINGLE_FILE_BYTES:
        raise CompressorError(
            f"the graph alone takes {len(written)} bytes, expected at most {SINGLE_FILE_BYTES}: "
            "constants inside of nodes must become initializers."
        )
    (directory / MODEL).write_bytes(written)


def _checked(planned: Sequence[Tensor], tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors, each compared with its plan: lengths were written before any of them was there."""
    found = iter(tensors)
    for plan in planned:
        tensor = next(found, None)
        if tensor is None or _described(tensor) != _described(plan):
            got = "nothing" if tensor is None else _described(tensor)
            raise CompressorError(f"tensor {plan.name!r}: expected {_described(plan)}, got {got}.")
        yield tensor


def _described(tensor: Tensor) -> str:
    return f"{tensor.name} type {tensor.data_type} {list(tensor.dims)} {tensor.nbytes} bytes"


def _write_payload(file: IO[bytes], tensor: Tensor) -> None:
    payload = tensor.payload()
    if not 0 <= tensor.nbytes - payload.size < 8:
        raise CompressorError(f"tensor {tensor.name!r}: expected {tensor.nbytes} bytes of data, got {payload.size}.")
    file.write(payload.data)
    file.write(bytes(tensor.nbytes - payload.size))


def _header(tensor: Tensor) -> bytes:
    """A TensorProto without its data."""
    import onnx

    made = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bytes(made.SerializeToString(deterministic=True))


def _without_graph(model: onnx.ModelProto) -> bytes:
    """Everything of a model but its graph."""
    import onnx

    rest = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name == "graph":
            continue
        if isinstance(value, int | str | bytes):
            setattr(rest, descriptor.name, value)
        else:
            getattr(rest, descriptor.name).MergeFrom(value)
    return bytes(rest.SerializeToString(deterministic=True))


def _field_size(number: int, size: int) -> int:
    return len(_key(number)) + len(_varint(size)) + size


def _key(number: int) -> bytes:
    """The key of a length-delimited field."""
    return _varint(number << 3 | 2)


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first, the high bit set in all but the last."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))
