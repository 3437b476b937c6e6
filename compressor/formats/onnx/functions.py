"""Model-local functions that decode a weight: standard ONNX, inlined and folded away when ONNX Runtime loads a model.

A function's name says all about its body; shapes are attributes of the node that calls it.

Source: ONNX IR specification, "Functions".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from compressor.arrays import FLOAT_DTYPES, INT8, UINT8, bits
from compressor.formats.onnx import bodies
from compressor.formats.onnx.body import Body
from compressor.gaps import GAPS

if TYPE_CHECKING:
    import onnx

DOMAIN = "compressor"
VERSION = 1


MOST_FOLDED = 1 << 30
"""The bytes of the largest value that ONNX Runtime folds.

Source: ONNX Runtime, onnxruntime_session_options_config_keys.h, "constant_folding_max_output_size_in_bytes".
"""


def function(name: str, opset: int) -> onnx.FunctionProto:
    """The function of that name, over the operators of `opset`."""
    import onnx

    body = Body()
    BODIES[name](body)
    return onnx.FunctionProto(
        domain=DOMAIN,
        name=name,
        input=body.inputs,
        output=[body.output],
        attribute=body.attributes,
        node=body.nodes,
        opset_import=[onnx.OperatorSetIdProto(version=opset)],
    )


def is_own(made: onnx.FunctionProto) -> bool:
    """Whether a function is called as one of this package is, with operands and attributes of the same names.

    Its body may be that of another version of this package.
    """
    if made.name not in BODIES:
        return False
    ours = function(made.name, 0)
    # Not sorted: a name that is no UTF-8 comes as bytes, which do not compare with text.
    return (list(made.input), Counter(made.attribute)) == (list(ours.input), Counter(ours.attribute))


MOST_GROUPED_AXES = 8

Named = tuple[str, Callable[[Body], None]]


def _unpacking() -> Iterator[Named]:
    for part, suffix in ((False, ""), (True, "_part")):
        for width in (1, 2, 4):
            yield f"unpack_uint{width}{suffix}", partial(bodies.unpack, width=width, part=part)
        for width in (2, 4):
            yield f"unpack_int{width}{suffix}", partial(bodies.unpack_signed, width=width, part=part)
        for width in (3, 5, 6, 7):
            yield f"unpack_uint{width}{suffix}", partial(bodies.unpack_straddling, width=width, part=part)


def _looking_up() -> Iterator[Named]:
    yield "lut_at", bodies.lut_at
    yield "lut_to_dense", bodies.lut_to_dense
    yield "lut_to_dense_along", bodies.lut_to_dense_along
    yield "lut_to_dense_by_row", bodies.lut_to_dense_by_row
    for groups, middle in ((False, ""), (True, "_groups")):
        for vectors, suffix in ((False, ""), (True, "_vectors")):
            yield f"gather_lut{middle}{suffix}", partial(bodies.gather_lut, groups=groups, vectors=vectors)
    for axes in range(1, MOST_GROUPED_AXES + 1):
        yield f"group{axes}", partial(bodies.group, axes=axes, short=False)
        yield f"group{axes}_short", partial(bodies.group, axes=axes, short=True)


def _scattering() -> Iterator[Named]:
    yield "counter", bodies.counter
    yield "bits", bodies.bits
    for shared, suffix in ((False, ""), (True, "_by_bits")):
        yield f"places{suffix}", partial(bodies.places, blocks=False, shared=shared)
        yield f"places_of_blocks{suffix}", partial(bodies.places, blocks=True, shared=shared)
    for dtype in GAPS:
        yield f"places_by_gaps{bits(dtype)}", partial(bodies.places_by_gaps, width=bits(dtype))
        yield f"places_by_gaps{bits(dtype)}_of_weights", partial(bodies.places_by_gaps_of_weights, width=bits(dtype))
    yield "sparse_to_dense", bodies.sparse_to_dense
    for dtype in (*FLOAT_DTYPES.values(), INT8, UINT8):
        yield f"zeros_{dtype.name}", partial(bodies.zeros, dtype=dtype)
    for dtype in (INT8, UINT8):
        yield f"spread_{dtype.name}", partial(bodies.spread, dtype=dtype)


def _dequantizing() -> Iterator[Named]:
    yield "reshaped", bodies.reshaped
    yield "by_block", bodies.by_block
    for dtype in (INT8, UINT8):
        yield f"widen_{dtype.name}", partial(bodies.widen, dtype=dtype)
    for axis, name in ((False, ""), (True, "_axis")):
        linear = partial(bodies.dequantize_linear, axis=axis)
        for origin in ("", "_from_int8"):  # what the reader makes of the codes is all that differs
            yield f"dequantize_linear{name}{origin}_zero_point", partial(linear, zero=None)
        for zero in (INT8, UINT8):
            yield f"dequantize_linear{name}_{zero.name}", partial(linear, zero=zero)
    for zero_point, suffix in ((False, ""), (True, "_zero_point")):
        yield f"dequantize_linear_blocks{suffix}", partial(bodies.dequantize_blocks, zero_point=zero_point)
        for dtype in FLOAT_DTYPES.values():
            made = partial(bodies.dequantize, dtype=dtype, zero_point=zero_point)
            yield f"dequantize_{dtype.name}{suffix}", partial(made, blocks=False, at=False)
            yield f"dequantize_{dtype.name}_blocks{suffix}", partial(made, blocks=True, at=False)
            yield f"dequantize_{dtype.name}_at{suffix}", partial(made, blocks=False, at=True)


MOST_PARTS = 256
"""So many parts a weight may be a concatenation of: the experts of a layer."""


def _concatenating() -> Iterator[Named]:
    for parts in range(2, MOST_PARTS + 1):
        yield f"concatenated_{parts}", partial(bodies.concatenated, parts=parts)


BODIES = dict((*_unpacking(), *_looking_up(), *_scattering(), *_dequantizing(), *_concatenating()))
