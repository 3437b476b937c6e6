"""ONNX models written tensor by tensor: one file while protobuf can hold it, else one with the data beside it.

The lengths of all messages follow from the tensors' types and dimensions, so nothing is held but the tensor in hand.

Source: onnx.proto; protobuf's encoding, "Message Structure"; ONNX's ExternalData.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from compressor.arrays import NDArray, Shape
from compressor.errors import CompressorError
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.wire import key, varint

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


def write(
    model: onnx.ModelProto,
    planned: Sequence[Tensor],
    tensors: Iterable[Tensor],
    directory: Path,
    *,
    apart: bool = False,
) -> None:
    """Write `model` with the initializers `tensors` into `directory`.

    planned: the tensors without data; tensors: the same ones in the same order, each read when its turn comes.
    apart: put large tensors into a file of their own, also where one file would do.

    Raises:
        CompressorError: the model is too large for its format, or `tensors` are not those planned.
        OSError: the files cannot be written.
    """
    single = _single_file(model, planned)
    two = _two_files(model, planned) if apart or single.nbytes > SINGLE_FILE_BYTES else None
    if two is not None and two.data_nbytes:
        _write_external(two, planned, tensors, directory)
        return
    with (directory / MODEL).open("wb") as file:
        file.write(single.start)
        for header, tensor in zip(single.headers, _checked(planned, tensors), strict=True):
            file.write(header)
            _write_payload(file, tensor)


def size(model: onnx.ModelProto, planned: Sequence[Tensor]) -> int:
    """The bytes of all files that `write` makes of these tensors.

    Raises:
        CompressorError: the model is too large for its format.
    """
    single = _single_file(model, planned)
    if single.nbytes <= SINGLE_FILE_BYTES:
        return single.nbytes
    two = _two_files(model, planned)
    return int(two.model.ByteSize()) + two.data_nbytes


@dataclass(frozen=True)
class _SingleFile:
    """A model's file up to its tensors, what comes before the data of each, and how long it all is."""

    start: bytes
    headers: Sequence[bytes]
    nbytes: int


@dataclass(frozen=True)
class _TwoFiles:
    """A model whose large tensors lie in a file of their own.

    model: whole, but for the data of small tensors, which are zeros; its last initializers are the tensors.
    offsets: where each tensor begins in the data's file; None for a small one.
    held: where initializers of subgraphs begin there, which `model` had inside, behind the tensors, and their bytes.
    """

    model: onnx.ModelProto
    offsets: Sequence[int | None]
    held: Sequence[tuple[int, bytes]]
    data_nbytes: int


def _single_file(model: onnx.ModelProto, planned: Sequence[Tensor]) -> _SingleFile:
    graph, headers, length = model.graph.SerializeToString(deterministic=True), [], 0
    for tensor in planned:
        header = _header(tensor)
        inside = len(header) + _field_size(_RAW_DATA, tensor.nbytes)
        before = key(_INITIALIZER) + varint(inside) + header + key(_RAW_DATA) + varint(tensor.nbytes)
        headers.append(before)
        length += len(before) + tensor.nbytes
    start = _without_graph(model) + key(_GRAPH) + varint(len(graph) + length) + graph
    return _SingleFile(start, headers, len(start) + length)


def _two_files(model: onnx.ModelProto, planned: Sequence[Tensor]) -> _TwoFiles:
    """Each large tensor at a multiple of `ALIGNMENT`."""
    import onnx

    described = onnx.ModelProto()
    described.CopyFrom(model)
    offsets: list[int | None] = []
    held = []
    end = 0
    for tensor in planned:
        made = described.graph.initializer.add()
        made.MergeFromString(_header(tensor))
        if tensor.nbytes < INLINE_BYTES:
            made.raw_data = bytes(tensor.nbytes)
            offsets.append(None)
            continue
        offset = end + -end % ALIGNMENT
        _refer(made, offset, tensor.nbytes)
        offsets.append(offset)
        end = offset + tensor.nbytes
    for made in [found for inner in [*walk(described.graph)][1:] for found in inner.initializer]:
        if (nbytes := len(made.raw_data)) >= INLINE_BYTES:
            offset = end + -end % ALIGNMENT
            held.append((offset, made.raw_data))
            _refer(made, offset, nbytes)
            end = offset + nbytes
    if described.ByteSize() > SINGLE_FILE_BYTES:
        raise CompressorError(
            f"the graph alone takes {described.ByteSize()} bytes, expected at most {SINGLE_FILE_BYTES}: "
            "constants inside of nodes must become initializers."
        )
    return _TwoFiles(described, offsets, held, end)


def _refer(made: onnx.TensorProto, offset: int, nbytes: int) -> None:
    """Let the data of a tensor lie in the data's file."""
    import onnx

    made.ClearField("raw_data")
    made.data_location = onnx.TensorProto.EXTERNAL
    for name, value in (("location", DATA), ("offset", offset), ("length", nbytes)):
        made.external_data.add(key=name, value=str(value))


def _write_external(two: _TwoFiles, planned: Sequence[Tensor], tensors: Iterable[Tensor], directory: Path) -> None:
    made = two.model.graph.initializer[len(two.model.graph.initializer) - len(planned) :]
    with (directory / DATA).open("wb") as data:
        for stored, offset, tensor in zip(made, two.offsets, _checked(planned, tensors), strict=True):
            if offset is None:
                stored.raw_data = bytes(tensor.payload()).ljust(tensor.nbytes, b"\0")
            else:
                data.write(bytes(offset - data.tell()))
                _write_payload(data, tensor)
        for offset, raw in two.held:
            data.write(bytes(offset - data.tell()))
            data.write(raw)
    (directory / MODEL).write_bytes(two.model.SerializeToString(deterministic=True))


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


def _field_size(number: int, length: int) -> int:
    return len(key(number)) + len(varint(length)) + length
