"""ONNX models as layouts: one file while protobuf can hold it, else one with the data beside it.

The lengths of all messages follow from the tensors' types and dimensions.

Source: onnx.proto; protobuf's encoding, "Message Structure"; ONNX's ExternalData.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.encodings import Encoding
from compressor.errors import CompressorError
from compressor.formats.layout import FileLayout, Followed, Piece, around, put
from compressor.formats.onnx.decoding import Lowering
from compressor.formats.onnx.graphs import walk
from compressor.formats.onnx.lowered import Lowered, Part
from compressor.formats.wire import key, runs, varint

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


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the data of a tensor lie. part: the tensor by spec. file, offset: where they begin."""

    part: Part
    file: str
    offset: int


@dataclass(frozen=True, eq=False)
class Slots:
    """Where a weight lies. lowering: what tensors it becomes. slots: of these."""

    lowering: Lowering
    slots: Sequence[Slot]

    def write(self, directory: Path, encoding: Encoding) -> None:
        put(directory, _filled(self.slots, self.lowering(encoding).parts))


@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored of some weights. whole: what they become. each: how each of them is lowered, and by spec to what.

    A weight by itself is lowered to the parts of the whole; of several, the parts of each lie in those of the whole one
    after the other.
    """

    whole: Lowered
    each: Sequence[tuple[Lowering, Sequence[Part]]]

    def placed(self, slots: Sequence[Slot]) -> Iterator[tuple[str, Slots]]:
        """Where each weight lies. slots: of the parts of the whole."""
        ends = [slot.offset for slot in slots]
        for how, parts in self.each:
            own = [Slot(part, slot.file, end) for part, slot, end in zip(parts, slots, ends, strict=True)]
            ends = [slot.offset + slot.part.nbytes for slot in own]
            yield how.name, Slots(how, own)
        filled = [slot.offset + slot.part.nbytes for slot in slots]
        assert ends == filled, f"{slots[0].part.name}: the weights end at {ends}, their parts at {filled}"


def layout(
    model: onnx.ModelProto,
    constants: Sequence[Part],
    weights: Sequence[Stored] = (),
    *,
    apart: bool = False,
) -> FileLayout:
    """Where everything of `model` lies, its large constants and weights too, which it does not hold.

    apart: put large tensors into a file of their own, also where one file would do.

    Raises:
        CompressorError: the model is too large for its format.
    """
    parts = [*constants, *(part for one in weights for part in one.whole.parts)]
    made = _single_file(model, parts)
    two = _two_files(model, parts) if apart or made.nbytes > SINGLE_FILE_BYTES else made
    made = two if DATA in two.files else made
    slots = iter(made.slots)
    fixed = _filled([next(slots) for _ in constants], constants)
    places = dict(pair for one in weights for pair in one.placed([next(slots) for _ in one.whole.parts]))
    return FileLayout(made.files, [*made.pieces, *fixed], places, followed=_followed(made.files, places))


def _followed(files: Mapping[str, int], places: Mapping[str, Slots]) -> Followed:
    """The file that holds the data, which lie in it as weights are written."""
    file = DATA if DATA in files else MODEL
    offsets = {name: [slot.offset for slot in place.slots if slot.file == file] for name, place in places.items()}
    return Followed(file, files[file], {name: min(some) for name, some in offsets.items() if some})


@dataclass(frozen=True, eq=False)
class _Files:
    """The files of a model: the length of each, all but the data of tensors, and where these lie."""

    files: dict[str, int]
    pieces: list[Piece]
    slots: list[Slot]

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())


def _single_file(model: onnx.ModelProto, parts: Sequence[Part]) -> _Files:
    """The tensors are the model's last bytes: its graph comes last, and they do in it."""
    graph, headers = model.graph.SerializeToString(deterministic=True), [_with_data(part) for part in parts]
    length = sum(len(header) + part.nbytes for header, part in zip(headers, parts, strict=True))
    start = _without_graph(model) + key(_GRAPH) + varint(len(graph) + length) + graph
    pieces, slots, end = [Piece(MODEL, 0, start)], [], len(start)
    for header, part in zip(headers, parts, strict=True):
        pieces.append(Piece(MODEL, end, header))
        slots.append(Slot(part, MODEL, end + len(header)))
        end += len(header) + part.nbytes
    return _Files({MODEL: end}, pieces, slots)


def _two_files(model: onnx.ModelProto, parts: Sequence[Part]) -> _Files:
    """Each large tensor at a multiple of `ALIGNMENT`, those that subgraphs hold behind the others."""
    import onnx

    described = onnx.ModelProto()
    described.CopyFrom(model)
    offsets, held, end = [], [], 0
    for part in parts:
        made = described.graph.initializer.add()
        made.MergeFromString(_header(part))
        offsets.append(end + -end % ALIGNMENT)
        if part.nbytes < INLINE_BYTES:
            made.raw_data = bytes(part.nbytes)
            continue
        _refer(made, offsets[-1], part.nbytes)
        end = offsets[-1] + part.nbytes
    for made in [found for inner in [*walk(described.graph)][1:] for found in inner.initializer]:
        if (nbytes := len(made.raw_data)) >= INLINE_BYTES:
            held.append(Piece(DATA, end + -end % ALIGNMENT, made.raw_data))
            _refer(made, held[-1].offset, nbytes)
            end = held[-1].offset + nbytes
    content = described.SerializeToString(deterministic=True)
    if len(content) > SINGLE_FILE_BYTES:
        raise CompressorError(
            f"the graph alone takes {len(content)} bytes, expected at most {SINGLE_FILE_BYTES}: "
            "constants inside of nodes must become initializers."
        )
    inline = dict(_inline(content, len(parts)))
    slots = [
        Slot(part, MODEL, inline[place]) if place in inline else Slot(part, DATA, offset)
        for place, (part, offset) in enumerate(zip(parts, offsets, strict=True))
    ]
    inside = [(slot.offset, slot.offset + slot.part.nbytes) for slot in slots if slot.file == MODEL]
    files = {MODEL: len(content), DATA: end} if end else {MODEL: len(content)}
    return _Files(files, [*around(MODEL, content, inside), *held], slots)


def _refer(made: onnx.TensorProto, offset: int, nbytes: int) -> None:
    """Let the data of a tensor lie in the data's file."""
    import onnx

    made.ClearField("raw_data")
    made.data_location = onnx.TensorProto.EXTERNAL
    for name, value in (("location", DATA), ("offset", offset), ("length", nbytes)):
        made.external_data.add(key=name, value=str(value))


def _inline(content: bytes, count: int) -> Iterator[tuple[int, int]]:
    """The places, of the last `count` initializers of a model, of those that hold their data, and where these begin."""
    ((_, start, end),) = runs(content, 0, len(content), _GRAPH)
    initializers = [*runs(content, start, end, _INITIALIZER)]
    for place, (_, first, last) in enumerate(initializers[len(initializers) - count :]):
        yield from ((place, data) for _, data, _ in runs(content, first, last, _RAW_DATA))


def _filled(slots: Sequence[Slot], parts: Sequence[Part]) -> Iterator[Piece]:
    """The data of tensors at their places; lengths were written before any of them was there.

    Raises:
        CompressorError: they are not those planned.
    """
    for slot, part in zip(slots, parts, strict=True):
        planned, got = _described(slot.part), _described(part)
        if planned != got:
            raise CompressorError(f"tensor {slot.part.name!r}: expected {planned}, got {got}.")
        yield Piece(slot.file, slot.offset, part)


def _described(part: Part) -> str:
    return f"{part.name} type {part.data_type} {list(part.dims)} {part.nbytes} bytes"


def _with_data(part: Part) -> bytes:
    """A graph's field that holds a tensor, up to the tensor's data."""
    header, length = _header(part), key(_RAW_DATA) + varint(part.nbytes)
    return key(_INITIALIZER) + varint(len(header) + len(length) + part.nbytes) + header + length


def _header(part: Part) -> bytes:
    """A TensorProto without its data."""
    import onnx

    made = onnx.TensorProto(name=part.name, data_type=part.data_type, dims=part.dims)
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
