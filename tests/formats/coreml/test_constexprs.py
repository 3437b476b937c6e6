"""Constants stored as other writers store them, as no encoding describes them, and as nothing can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.arrays import NarrowArray
from compressor.encodings import Dense, Palettized, Quantized, Sparse, decode
from compressor.errors import CompressorError
from compressor.formats.coreml import blob, lowering, values
from compressor.formats.coreml.constants import Constants, lift
from compressor.formats.coreml.types import TYPES
from tests.formats.coreml.models import in_package, model

F16 = np.float16
SPARSE = Sparse(np.arange(60).reshape(6, 10) % 3 == 0, Dense(np.arange(20, dtype=F16)), (6, 10))


def zero_point(*numbers: float) -> Callable[[Any], None]:
    """The affine operation's zero points as floats."""

    def change(operation: Any) -> None:
        stored = blob.whole("float32", np.array(numbers, np.float32))
        operation.attributes["zero_point"].CopyFrom(values.value(stored, blob.Blobs()))

    return change


AFFINE = Quantized(
    Dense(np.arange(-6, 6, dtype=np.int8).reshape(3, 4)), np.ones((3, 1), F16), np.zeros((3, 1), np.int8)
)


def changed(path: Path, version: int, encoding: Any, change: Callable[[Any], None]) -> Constants:
    def build(store: blob.Store) -> Any:
        operations = lowering.lower("w", encoding, version, store)
        change(operations[-1])
        return model(version, operations, ["w"])

    found = in_package(path, build)
    return lift(found.model.mlProgram, found)


def test_float_zero_points_that_are_codes(tmp_path: Path) -> None:
    (weight,) = changed(tmp_path, 7, AFFINE, zero_point(0, -3, 7)).weights
    assert isinstance(weight.encoding, Quantized)
    assert np.asarray(weight.encoding.zero_point).reshape(-1).tolist() == [0, -3, 7]
    assert weight.encoding.zero_point is not None
    assert weight.encoding.zero_point.dtype == np.int8


def set_axis(axis: int) -> Callable[[Any], None]:
    return lambda operation: operation.attributes["axis"].CopyFrom(values.integer(axis))


def test_a_negative_axis(tmp_path: Path) -> None:
    (weight,) = changed(tmp_path, 7, AFFINE, set_axis(-2)).weights
    assert np.array_equal(decode(weight.encoding), decode(AFFINE))


def set_type(kind: str) -> Callable[[Any], None]:
    return lambda operation: setattr(operation, "type", kind)


def computed(key: str) -> Callable[[Any], None]:
    def change(operation: Any) -> None:
        del operation.inputs[key].arguments[:]
        operation.inputs[key].arguments.add(name="elsewhere")

    return change


def set_output(kind: str) -> Callable[[Any], None]:
    return lambda operation: setattr(operation.outputs[0].type.tensorType, "dataType", TYPES[kind].number)


NARROW = Dense(NarrowArray(np.arange(12, dtype=F16).reshape(3, 4), np.dtype(np.float32)))


FLOATS = Quantized(Dense(np.ones((4, 4), F16)), np.full((4, 1), 2, F16))


def shifted(operation: Any) -> None:
    """A zero point of ones."""
    held = operation.inputs["offset"].arguments.add().value
    held.CopyFrom(operation.inputs["scale"].arguments[0].value)


@pytest.mark.parametrize(
    ("version", "encoding", "change", "reason"),
    [
        (7, AFFINE, zero_point(0.5, 0, 0), "its zero points are float32 beyond int8"),
        (7, AFFINE, zero_point(200, 0, 0), "its zero points are float32 beyond int8"),
        (9, SPARSE, set_type("constexpr_new"), "it is computed by constexpr_new"),
        (9, SPARSE, computed("mask"), "its mask is no constant"),
        (9, NARROW, set_output("float16"), "it is cast from float16 to float16"),
        (10, FLOATS, shifted, "its floats are shifted"),
    ],
)
def test_what_no_encoding_describes(
    version: int, encoding: Any, change: Callable[[Any], None], reason: str, tmp_path: Path
) -> None:
    lifted = changed(tmp_path, version, encoding, change)
    assert lifted.opaque == {"w": reason}
    assert lifted.weights == ()


def without(key: str) -> Callable[[Any], None]:
    return lambda operation: (operation.attributes if key in operation.attributes else operation.inputs).pop(key)


def itself(operation: Any) -> None:
    del operation.inputs["nonzero_data"].arguments[:]
    operation.inputs["nonzero_data"].arguments.add(name="w")


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(operation: Any) -> None:
        operation.outputs[0].type.CopyFrom(values.tensor_type(TYPES["float16"], sizes))

    return change


def offset(to: int) -> Callable[[Any], None]:
    return lambda operation: setattr(next(values.in_files(operation)).blobFileValue, "offset", to)


TABLE = Palettized(np.zeros((6, 10), np.uint8), np.ones((1, 1, 4, 1), F16))


def as_type(key: str, type_: str) -> Callable[[Any], None]:
    def change(operation: Any) -> None:
        held = operation.inputs[key].arguments[0].value if key in operation.inputs else operation.attributes[key]
        held.type.tensorType.dataType = TYPES[type_].number

    return change


@pytest.mark.parametrize(
    ("version", "encoding", "change", "message"),
    [
        (
            9,
            SPARSE,
            without("nonzero_data"),
            "'w': its stored parts .* constexpr_sparse_to_dense has 0 values for 'nonzero_data'",
        ),
        (7, SPARSE, without("shape"), "'w': its stored parts do not fit together"),
        (7, AFFINE, set_axis(2), "scales along axis 2"),
        (7, AFFINE, zero_point(0, 0), "2 zero points for 3 scales"),
        (9, SPARSE, itself, "recursion"),
        (9, SPARSE, dims(6, 11), r"declares float16\[6, 11\], gives float16\[6, 10\]"),
        (9, SPARSE, dims(60), r"declares float16\[60\], gives float16\[6, 10\]"),
        (9, SPARSE, offset(1 << 40), "the blob at 1099511627776"),
        (9, TABLE, as_type("lut", "float32"), r"a value float32\[1, 1, 4, 1\] in the model has 0 elements, expected 4"),
        (9, TABLE, as_type("indices", "uint4"), "declares uint4, the blob has uint2"),
    ],
)
def test_corrupt_programs(
    version: int, encoding: Any, change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressorError, match=message):
        changed(tmp_path, version, encoding, change)


def test_a_table_of_another_length(tmp_path: Path) -> None:
    def change(operation: Any) -> None:
        stored = blob.whole("float16", np.ones((1, 1, 3, 1), F16))
        operation.inputs["lut"].arguments[0].value.CopyFrom(values.value(stored, blob.Blobs()))

    with pytest.raises(CompressorError, match=r"uint2 indices into a table \[1, 1, 3, 1\]"):
        changed(tmp_path, 9, TABLE, change)
