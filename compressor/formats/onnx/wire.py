"""The protobuf wire format of an ONNX file: its tensors' data cut out, everything else as it was.

Only length-delimited fields of 1 KiB or more are looked into, so a scan visits a few fields a node and reads no data.

Source: onnx.proto (field numbers).
"""

from __future__ import annotations

from collections.abc import Mapping

from compressor.formats.wire import VARINT, FileBytes, field, key, run, varint

KEPT_BELOW = 1024
"""The bytes of data from which a tensor's data are cut out."""

EXTERNAL = 1
"""`TensorProto.DataLocation.EXTERNAL`."""

# The message that each field holds, on the ways from a model to its tensors.
_MODEL, _GRAPH, _FUNCTION, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR = range(7)
_INSIDE: Mapping[int, Mapping[int, int]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_DATA_TYPE, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 2, 9, 13, 14
_DATA = {4, 5, 6, 7, 10, 11, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION}
# Packed `float_data` of a FLOAT tensor and `double_data` of a DOUBLE one lie in the file as their raw data would.
_AS_RAW = {4: 1, 10: 11}
_MAX_DEPTH = 100  # protobuf's own limit: it refuses what lies deeper


def without_data(data: FileBytes, location: str) -> bytes:
    """The serialized ModelProto `data`, where large tensors have external data at their place in the file `location`.

    Raises:
        WireError: a field is cut off or of an unknown kind.
    """
    return bytes(_message(data, 0, len(data), _MODEL, location=location, depth=0))


def _message(data: FileBytes, start: int, end: int, kind: int, *, location: str, depth: int) -> bytearray:
    inside = _INSIDE[kind] if depth < _MAX_DEPTH else {}
    kept, copied, at = bytearray(), start, start
    while at < end:
        begin = at
        number, value, content, at = field(data, begin, end)
        message = inside.get(number)
        if message is None or at - content < KEPT_BELOW or value is not None:
            continue
        body: bytes | bytearray
        if message == _TENSOR:
            body = _tensor(data, content, at, location)
        else:
            body = _message(data, content, at, message, location=location, depth=depth + 1)
        kept += data[copied:begin] + run(number, body)
        copied = at
    return kept + data[copied:end]


def _tensor(data: FileBytes, start: int, end: int, location: str) -> bytes:
    """A TensorProto whose data, if they are one large run of bytes, are external."""
    at, data_type = start, 0
    found: list[tuple[int, bool, int, int, int]] = []
    while at < end and len(found) < 2:  # strings are a field each: one of many is not looked for further
        begin = at
        number, value, content, at = field(data, begin, end)
        if number == _DATA_TYPE:
            data_type = value or 0
        elif number in _DATA:
            found.append((number, value is None, begin, content, at))
    if len(found) == 1:
        number, delimited, begin, content, stop = found[0]
        as_raw = number == _RAW_DATA or _AS_RAW.get(number) == data_type
        if as_raw and delimited and stop - content >= KEPT_BELOW:
            entries = {"location": location, "offset": str(content), "length": str(stop - content)}
            return b"".join(
                (
                    data[start:begin],
                    data[stop:end],
                    *(run(_EXTERNAL_DATA, _entry(name, value)) for name, value in entries.items()),
                    key(_DATA_LOCATION, VARINT) + varint(EXTERNAL),
                )
            )
    return data[start:end]


def _entry(name: str, value: str) -> bytes:
    """A StringStringEntryProto."""
    return run(1, name.encode()) + run(2, value.encode())
