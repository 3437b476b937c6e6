"""`LinearQuantized` as calls, in the two forms."""

from __future__ import annotations

import math
from typing import Any, Literal

from compressor.arrays import INT8, UINT8, DType, Shape, bits
from compressor.encodings import Dense, Encoding, LinearQuantized, Palettized, Sparse, dtype, shape
from compressor.formats.onnx.codes import group_of_places, spread, store_codes
from compressor.formats.onnx.lowered import Lowered
from compressor.formats.onnx.palettes import palettized
from compressor.formats.onnx.signs import unsigned, zeros

Form = Literal["folded", "linear", "stored", "n_bits"]
"""`folded`: nothing of the decoding is left when the model runs; `linear`: `DequantizeLinear`, for integer kernels;
`stored`: `DequantizeLinear` over the very codes of the source; `n_bits`: the inputs of `MatMulNBits`."""

BY_NODE = {"linear", "stored"}
"""The forms that end in `DequantizeLinear`."""

BLOCKED_SINCE = 21
"""The opset whose `DequantizeLinear` has blocks."""


def linear(
    made: Lowered,
    encoding: LinearQuantized,
    name: str,
    prefix: str,
    opset: int,
    form: Form,
    places: str = "",
    whole: Shape = (),
) -> str:
    """The values; those of the non-zeros at `places` of a weight of shape `whole`, if given."""
    scale, zero_point = encoding.scale, encoding.zero_point
    counts, to = tuple(scale.shape), whole or shape(encoding)
    if form in BY_NODE and not places:
        return _dequantize_linear(made, encoding, name, prefix, opset, form)
    grouped = any(count not in {1, dim} for count, dim in zip(counts, to, strict=True))
    attributes: dict[str, Any] = {}
    blocks: Shape | None = None
    kind = ""
    if places:
        kind = "_at" if math.prod(counts) > 1 else ""
    elif grouped:
        kind = "_blocks"
        by_block = spread("", counts, to)
        attributes, blocks = {"grid": by_block["_grid"], "shape": to}, by_block["_spread"]
    codes = store_data(made, encoding.data, prefix, opset, places, whole, blocks)
    inputs = [codes, made.store(f"{prefix}.scale", scale, (1,) if places and not kind else None)]
    if zero_point is not None:
        dims = (1,) if places and not kind else None
        inputs.append(store_codes(made, f"{prefix}.zero_point", zero_point, opset, dims))
    if kind == "_at":
        inputs.append(group_of_places(made, f"{prefix}.scale.group", places, counts, whole))
    suffix = "" if zero_point is None else "_zero_point"
    return made.call(f"dequantize_{scale.dtype.name}{kind}{suffix}", inputs, name, **attributes)


def store_data(
    made: Lowered,
    data: Dense | Palettized,
    prefix: str,
    opset: int,
    places: str = "",
    whole: Shape = (),
    dims: Shape | None = None,
    suffix: str = ".codes",
) -> str:
    """The codes of a quantized weight, in the shape `dims` if given."""
    name = prefix + suffix
    if not isinstance(data, Palettized):
        return store_codes(made, name, data.values, opset, dims)
    codes = palettized(made, data, name, prefix, opset, places, whole)
    return codes if dims is None else made.call("reshaped", [codes], f"{name}.blocks", shape=dims)


def linear_axis(encoding: LinearQuantized, whole: Shape = ()) -> Literal["tensor", "axis", "blocks"] | None:
    """How `DequantizeLinear` spells the scale; None if it cannot."""
    counts, whole = tuple(encoding.scale.shape), whole or shape(encoding)
    if encoding.scale.dtype.name not in {"float32", "float16"}:
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
    quantized = encoding.values if isinstance(encoding, Sparse) else encoding
    if not isinstance(quantized, LinearQuantized):
        return False
    kind = linear_axis(quantized, shape(encoding))
    if isinstance(encoding, Sparse) and (kind == "blocks" or not _is_one_table(quantized.data)):
        return False
    return kind in {"tensor", "axis"} or (kind == "blocks" and opset >= BLOCKED_SINCE)


def _is_one_table(data: Dense | Palettized) -> bool:
    """Whether codes are found without the places of the weight: plain ones, or those of a table that all share."""
    return isinstance(data, Dense) or math.prod(data.lut.shape[:-2]) * data.lut.shape[-1] == 1


def _dequantize_linear(made: Lowered, encoding: LinearQuantized, name: str, prefix: str, opset: int, form: Form) -> str:
    encoding, origin = for_kernels(encoding) if form == "linear" else (encoding, "")
    codes = store_data(made, encoding.data, prefix, opset, suffix=".int8" if origin else ".codes")
    # ONNX Runtime has no kernels that pair codes of 4 bits with those of activations.
    narrow = dtype(encoding.data) if form == "linear" and linear_axis(encoding) != "blocks" else INT8
    if bits(narrow) < 8 and codes in {part.name for part in made.parts}:
        codes = widened(made, codes, narrow)
    return linear_node(made, encoding, codes, shape(encoding), name, prefix, opset, origin)


def for_kernels(encoding: LinearQuantized, whole: Shape = ()) -> tuple[LinearQuantized, str]:
    """The encoding as integer kernels get it, and what the names of its parts and functions say of that."""
    if dtype(encoding.data) != INT8 or linear_axis(encoding, whole) == "blocks":
        return encoding, ""
    return unsigned(encoding), "_from_int8"


def widened(made: Lowered, codes: str, narrow: DType) -> str:
    """Codes of a 2- or 4-bit type as bytes, which is what integer kernels take."""
    return made.call(f"widen_{wide(narrow).name}", [codes], f"{codes}.bytes")


def wide(codes: DType) -> DType:
    """The 8-bit type with the sign of a type of codes."""
    return UINT8 if codes.name.startswith("u") else INT8


def linear_node(
    made: Lowered, encoding: LinearQuantized, codes: str, whole: Shape, name: str, prefix: str, opset: int, origin: str
) -> str:
    """The value `name`: `codes`, of the shape `whole`, through `DequantizeLinear`. origin: see `for_kernels`.

    Over stored codes that is the node itself, which takes fewer bytes than a call of a function; a zero point that is
    zero is stored for it, since `QGemm` is not chosen without one.
    """
    kind = linear_axis(encoding, whole)
    counts = tuple(encoding.scale.shape)
    dims: Shape = {"tensor": (), "axis": (max(counts, default=1),), "blocks": counts}[kind or "blocks"]
    direct = codes in {part.name for part in made.parts}
    scale, zero_point = (f"{prefix}.s", f"{prefix}.z") if direct else (f"{prefix}.scale", f"{prefix}.zero_point")
    inputs = [codes, made.store(scale, encoding.scale, dims)]
    if encoding.zero_point is not None:
        zero = store_codes(made, zero_point, encoding.zero_point, opset, dims)
        narrow = encoding.zero_point.dtype
        alike = direct or kind == "blocks" or zero not in {part.name for part in made.parts}
        inputs.append(zero if alike or bits(narrow) == 8 else widened(made, zero, narrow))
    elif direct and kind != "blocks":
        inputs.append(made.store(zero_point, zeros(encoding.scale, dtype(encoding.data)), dims))
    suffix = f"{origin}_zero_point"
    if encoding.zero_point is None:
        suffix = "" if kind == "blocks" else f"_{wide(dtype(encoding.data)).name}"
    attributes: dict[str, Any] = {}
    if kind == "axis":
        attributes["axis"] = next(axis for axis, count in enumerate(counts) if count > 1)
    if kind == "blocks":
        axis = next(axis for axis, (count, dim) in enumerate(zip(counts, whole, strict=True)) if count != dim)
        attributes |= {"axis": axis, "block_size": whole[axis] // counts[axis]}
    if set(inputs) <= {part.name for part in made.parts}:
        return made.standard("DequantizeLinear", inputs, name, **attributes)
    which = {"tensor": "", "axis": "_axis", "blocks": "_blocks"}[kind or "blocks"]
    return made.call(f"dequantize_linear{which}{suffix}", inputs, name, **attributes)
