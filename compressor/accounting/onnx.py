"""ONNX files, and those in which their external data lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from compressor.accounting import onnx_graph
from compressor.accounting.account import Claim, Found, What
from compressor.accounting.files import opened
from compressor.accounting.known import known
from compressor.accounting.onnx_graph import DOCUMENTATION, Graph, Node, Part, Tensor
from compressor.accounting.onnx_roles import QUANTIZERS, Role, Roles, described, is_own, roles
from compressor.arrays import bits
from compressor.errors import CompressorError
from compressor.formats import places
from compressor.formats.onnx.dtypes import DTYPES
from compressor.formats.wire import WireError

SUFFIXES = (".onnx",)

_OTHER_BITS = {14: 64, 15: 128, 17: 8, 18: 8, 19: 8, 20: 8, 23: 4, 24: 8}  # complex numbers and floats of 8 and 4 bits


def claim(path: Path, found: Found) -> None:
    """Claim every byte of the file at `path`, and those of external data that its tensors refer to.

    Raises:
        CompressorError: it is not an ONNX model.
        OSError: it cannot be read.
    """
    from compressor.sources import onnx

    name = found.add(path)
    try:
        with opened(path) as data:
            file = onnx_graph.read(data)
    except (WireError, RecursionError) as error:
        raise CompressorError(f"{path}: not an ONNX model, or truncated: {error}.") from error
    if not file.graphs:
        raise CompressorError(f"{path}: not an ONNX model: it has no graph.")
    made = roles(file, path, known(lambda: onnx.read(path, as_written=True), found.notes))
    found.claims.extend(_names(name, file.names))
    for graph in file.graphs:
        found.claims.extend(_graph(name, graph, made))
    for function in file.functions:
        found.claims.extend(_function(name, function, made))
    tensors = [tensor for graph in (*file.graphs, *file.functions) for tensor in _tensors(graph)]
    for tensor in tensors:
        if tensor.external:
            _external(path, tensor, made, found)
        for start, end in tensor.data:
            found.claims.extend(_others(name, path, start, end, made))


def _names(file: str, parts: list[Part]) -> Iterator[Claim]:
    return (Claim(file, part.begin, part.end, What.NAMES, part.name) for part in parts)


def _graph(file: str, graph: Graph, made: Roles) -> Iterator[Claim]:
    yield Claim(file, graph.begin, graph.end, What.NODES, "graph")
    yield from _names(file, graph.names)
    for tensor in (*graph.tensors, *(part for one in graph.sparse for part in one.tensors)):
        yield from _tensor(file, tensor, made)
    for node in graph.nodes:
        yield from _node(file, node, made)


def _function(file: str, function: Graph, made: Roles) -> Iterator[Claim]:
    if is_own(function):
        yield Claim(file, function.begin, function.end, What.DECODING, f"function {function.name}")
        return
    yield Claim(file, function.begin, function.end, What.NODES, f"function {function.name}")
    yield from _names(file, function.names)
    for node in function.nodes:
        yield from _node(file, node, made)


def _node(file: str, node: Node, made: Roles) -> Iterator[Claim]:
    own = What.NODES
    if node.op_type in QUANTIZERS:
        own = What.QUANTIZATION
    elif made.decodes(node):
        own = What.DECODING
    yield Claim(file, node.begin, node.end, own, node.op_type)
    yield from _names(file, node.names)
    for part in node.attributes:
        what = What.ATTRIBUTES if own is What.NODES else own
        yield Claim(
            file, part.begin, part.end, what, f"{node.op_type}.{part.name}" if what is not own else node.op_type
        )
    for tensor in node.tensors:
        yield from _tensor(file, tensor, made)
    for graph in node.graphs:
        yield from _graph(file, graph, made)


def _tensor(file: str, tensor: Tensor, made: Roles) -> Iterator[Claim]:
    yield Claim(file, tensor.begin, tensor.end, What.NAMES, "names and shapes of constants")
    yield from (Claim(file, part.begin, part.end, What.NAMES, DOCUMENTATION) for part in tensor.documentation)
    role = made.tensors.get(tensor) or _unread(tensor)
    for start, end in tensor.data:
        yield Claim(file, start, end, role.what, role.name, role.detail)


def _unread(tensor: Tensor) -> Role:
    """The role of a constant that nothing reads, or that is an attribute of an operator other than `Constant`."""
    return Role(What.CONSTANTS, tensor.name, described(tensor))


def _tensors(graph: Graph) -> Iterator[Tensor]:
    yield from graph.tensors
    for node in (*graph.sparse, *graph.nodes):
        yield from node.tensors
        for inner in node.graphs:
            yield from _tensors(inner)


def _others(file: str, path: Path, start: int, end: int, made: Roles) -> Iterator[Claim]:
    """The claims of the weights behind the first one whose data a tensor holds."""
    for at, role in made.within(path, start, end):
        yield Claim(file, at, end, role.what, role.name, role.detail)


def _external(path: Path, tensor: Tensor, made: Roles, found: Found) -> None:
    """Claim the data of a tensor in the file that it names."""
    location = tensor.external.get("location", "")
    if reason := places.why_not(location, path.parent, path.parent, "the model's folder"):
        found.notes.append(f"tensor {tensor.name!r}: the location {location!r} of its data {reason}: not counted")
        return
    file = path.parent / location
    if not file.is_file():
        found.notes.append(f"tensor {tensor.name!r}: its data file {location} is missing: not counted")
        return
    name = found.add(file)
    try:
        start = int(tensor.external.get("offset", "0"))
        length = int(tensor.external["length"]) if "length" in tensor.external else _nbytes(tensor)
    except ValueError as error:
        found.notes.append(f"tensor {tensor.name!r}: external data at no place: {error}")
        return
    end = found.files[name] if length is None else start + length
    if start < 0 or end < start or end > found.files[name]:
        found.notes.append(
            f"tensor {tensor.name!r}: expected bytes {start} to {end} of {location}, which has {found.files[name]}"
        )
    role = made.tensors.get(tensor) or _unread(tensor)
    found.claims.append(Claim(name, start, end, role.what, role.name, role.detail))
    found.claims.extend(_others(name, file, start, end, made))


def _nbytes(tensor: Tensor) -> int | None:
    dtype = DTYPES.get(tensor.data_type)
    width = bits(dtype) if dtype is not None else _OTHER_BITS.get(tensor.data_type)
    return None if width is None else -(-math.prod(tensor.dims) * width // 8)
