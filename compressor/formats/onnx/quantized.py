"""`Quantized` as calls: arithmetic that is folded, or `DequantizeLinear` for kernels that compute with codes."""

from __future__ import annotations

import math
from typing import Any, Literal

from compressor.arrays import INT8, UINT8, Array, DType, Shape, bits, is_float
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, codes_of, dtype, plain, shape
from compressor.formats.onnx.codes import group_of_places, spread, store_codes
from compressor.formats.onnx.lowered import Lowered, NonZeros
from compressor.formats.onnx.palettes import palettized
from compressor.formats.onnx.unsigned import unsigned, zeros

Form = Literal["folded", "linear", "stored", "n_bits"]
"""`folded`: nothing of the decoding is left when the model runs; `linear`: `DequantizeLinear`, for integer kernels;
`stored`: `DequantizeLinear` over the very codes of the source; `n_bits`: the inputs of `MatMulNBits`."""

BY_NODE = {"linear", "stored"}
"""The forms that end in `DequantizeLinear`."""

BLOCKED_SINCE = 21
"""The opset whose `DequantizeLinear` has blocks."""

Granularity = Literal["tensor", "axis", "blocks"]


def folded(made: Lowered, encoding: Quantized, name: str, at: NonZeros | None = None) -> str:
    """The values, computed by arithmetic; only those of the non-zeros `at` their places, if given."""
    scale, zero_point = encoding.scale, encoding.zero_point
    counts, whole = tuple(scale.shape), at.shape if at else shape(encoding)
    single = math.prod(counts) == 1
    kind, attributes = "", dict[str, Any]()
    blocks: Shape | None = None
    repeat = at is None and encoding.block is not None  # no axis runs through a short block
    if at is None and not repeat and any(count not in {1, dim} for count, dim in zip(counts, whole, strict=True)):
        by_block = spread("", counts, whole)
        kind, attributes, blocks = "_blocks", {"grid": by_block["_grid"], "shape": whole}, by_block["_spread"]
    dims = (1,) if at and single else None
    inputs = [_store_data(made, encoding.data, ".codes", at, blocks), _store_scale(made, scale, dims)]
    if zero_point is not None:
        stored = store_codes(made, f"{made.prefix}.zero_point", zero_point, dims)
        inputs.append(_as_bytes(made, stored, zero_point.dtype) if repeat else stored)
    if repeat:
        inputs[1:] = [_repeated(made, parameter, encoding) for parameter in inputs[1:]]
    if at and not single:
        kind = "_at"
        inputs.append(group_of_places(made, f"{made.prefix}.scale.group", at, counts, encoding.block))
    suffix = "" if zero_point is None else "_zero_point"
    return made.call(f"dequantize_{dtype(encoding).name}{kind}{suffix}", inputs, name, **attributes)


def _repeated(made: Lowered, parameter: str, encoding: Quantized) -> str:
    """A parameter by block with an element for each of the axes that it has several blocks along."""
    assert encoding.block is not None
    for axis, (count, size, dim) in enumerate(zip(encoding.scale.shape, encoding.block, shape(encoding), strict=True)):
        if 1 < count < dim:
            attributes = {"axis": axis, "block": [size], "length": dim}
            parameter = made.call("by_block", [parameter], f"{parameter}.{axis}", **attributes)
    return parameter


def dequantize_linear(made: Lowered, encoding: Quantized, name: str, form: Form, at: NonZeros | None = None) -> str:
    """The value by `DequantizeLinear`; codes of non-zeros are scattered into zero points first.

    Over stored codes and parameters that is the node itself, which takes fewer bytes than a call of a function.
    """
    whole = at.shape if at else shape(encoding)
    by, origin = granularity(encoding, whole), ""
    assert by is not None, "see is_linear"
    for_kernels = form == "linear" and by != "blocks"
    if for_kernels and dtype(encoding.data) == INT8:
        encoding, origin = unsigned(encoding), "_from_int8"
    codes = _store_data(made, encoding.data, ".int8" if origin and at is None else ".codes", at)
    # Nothing scatters codes of 2 and 4 bits, and no kernel of ONNX Runtime pairs them with those of activations.
    if at or for_kernels:
        codes = _as_bytes(made, codes, dtype(encoding.data))
    direct = at is None and made.stores(codes)
    parameters = _parameters(made, encoding, by, direct=direct)
    if at:
        codes = _scattered(made, encoding, codes, parameters, at)
    attributes = _attributes(encoding, whole, by)
    if direct and made.stores(*parameters):
        return made.standard("DequantizeLinear", [codes, *parameters], name, **attributes)
    suffix = f"{origin}_zero_point"
    if encoding.zero_point is None:
        suffix = "" if by == "blocks" else f"_{_wide(dtype(encoding.data)).name}"
    which = {"tensor": "", "axis": "_axis", "blocks": "_blocks"}[by]
    return made.call(f"dequantize_linear{which}{suffix}", [codes, *parameters], name, **attributes)


def _parameters(made: Lowered, encoding: Quantized, by: Granularity, *, direct: bool) -> list[str]:
    """The scale and the zero point. direct: `DequantizeLinear` gets stored codes, whose type its zero point must have.

    One that is zero is stored too where no function computes it, since `QGemm` is not chosen without one.
    """
    counts = tuple(encoding.scale.shape)
    dims: Shape = {"tensor": (), "axis": (max(counts, default=1),), "blocks": counts}[by]
    scale, zero_point = (f"{made.prefix}.{name}" for name in (("s", "z") if direct else ("scale", "zero_point")))
    stored = [made.store(scale, plain(encoding.scale), dims)]
    if encoding.zero_point is not None:
        zero = store_codes(made, zero_point, encoding.zero_point, dims)
        stored.append(zero if direct or by == "blocks" else _as_bytes(made, zero, encoding.zero_point.dtype))
    elif direct and by != "blocks":
        stored.append(made.store(zero_point, zeros(plain(encoding.scale), dtype(encoding.data)), dims))
    return stored


def _attributes(encoding: Quantized, whole: Shape, by: Granularity) -> dict[str, int]:
    """Those of `DequantizeLinear`. whole: the weight's shape."""
    counts = tuple(encoding.scale.shape)
    if by == "axis":
        return {"axis": next(axis for axis, count in enumerate(counts) if count > 1)}
    if by == "blocks":
        axis = next(axis for axis, (count, dim) in enumerate(zip(counts, whole, strict=True)) if count != dim)
        return {"axis": axis, "block_size": encoding.block[axis] if encoding.block else whole[axis] // counts[axis]}
    return {}


def _scattered(made: Lowered, encoding: Quantized, codes: str, parameters: list[str], at: NonZeros) -> str:
    """The codes of the non-zeros at their places, and zero points elsewhere, which stand for zero."""
    wide = _wide(dtype(encoding.data))
    if encoding.zero_point is None:
        fill = made.zero(wide, math.prod(at.shape))
    else:
        to = spread("fill", tuple(encoding.scale.shape), at.shape)
        fill = made.call(f"spread_{wide.name}", parameters[1:], f"{made.prefix}.fill", **to)
    return made.call("sparse_to_dense", [at.places, codes, fill], f"{made.prefix}.scattered", shape=at.shape)


def _store_scale(made: Lowered, scale: Array | Palettized, dims: Shape | None = None) -> str:
    """The scale of a weight, in the shape `dims` if given."""
    name = f"{made.prefix}.scale"
    if not isinstance(scale, Palettized):
        return made.store(name, scale, dims)
    table = Lowered(name, made.opset)
    palettized(table, scale, name)
    made.include(table)
    return name


def _store_data(
    made: Lowered, data: Dense | Palettized, suffix: str, at: NonZeros | None, dims: Shape | None = None
) -> str:
    """The codes of a quantized weight, in the shape `dims` if given."""
    name = made.prefix + suffix
    if isinstance(data, Dense) and is_float(dtype(data)):
        return made.store(name, data.values, dims)
    if isinstance(data, Dense):
        return store_codes(made, name, data.values, dims)
    codes = palettized(made, data, name, at)
    return codes if dims is None else made.call("reshaped", [codes], f"{name}.blocks", shape=dims)


def _as_bytes(made: Lowered, codes: str, of: DType) -> str:
    """Codes of the type `of` in 8 bits each, as those that a function computes are."""
    if bits(of) == 8 or not made.stores(codes):
        return codes
    return made.call(f"widen_{_wide(of).name}", [codes], f"{codes}.bytes")


def _wide(codes: DType) -> DType:
    """The 8-bit type with the sign of a type of codes."""
    return UINT8 if codes.name.startswith("u") else INT8


def granularity(encoding: Quantized, whole: Shape = ()) -> Granularity | None:
    """How `DequantizeLinear` spells the scale; None if it cannot. whole: the weight's shape, for that of non-zeros."""
    counts, whole = tuple(encoding.scale.shape), whole or shape(encoding)
    rounded = encoding.rounded is not None
    if rounded or isinstance(encoding.scale, Palettized) or encoding.scale.dtype.name not in {"float32", "float16"}:
        return None
    if math.prod(counts) == 1:
        return "tensor"
    partial = [axis for axis, (count, dim) in enumerate(zip(counts, whole, strict=True)) if count != dim]
    many = [axis for axis, count in enumerate(counts) if count > 1]
    if len(many) == 1 and counts[many[0]] == whole[many[0]]:
        return "axis"
    return "blocks" if len(partial) == 1 else None


def is_linear(encoding: Encoding, opset: int) -> bool:
    """Whether the form `linear` can hold the encoding."""
    quantized = codes_of(encoding)
    if quantized is None:
        return False
    kind = granularity(quantized, shape(encoding))
    if isinstance(encoding, Sparse) and (kind == "blocks" or not _is_one_table(quantized.data)):
        return False
    return kind in {"tensor", "axis"} or (kind == "blocks" and opset >= BLOCKED_SINCE)


def _is_one_table(data: Dense | Palettized) -> bool:
    """Whether codes are found without the places of the weight: plain ones, or those of a table that all share."""
    return isinstance(data, Dense) or math.prod(data.lut.shape[:-2]) * data.lut.shape[-1] == 1
