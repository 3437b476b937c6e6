"""Encodings as nodes that compute them: each node of an encoding becomes a call of a function in `functions`.

    Dense                              an initializer
    Palettized                         lut_to_dense(indices, lut)
    LinearQuantized                    dequantize(codes, scale, zero_point), or dequantize_linear: see `Form`
    Sparse                             sparse_to_dense(places(mask), values, zeros)

`lifting.lift` is the inverse. Packed codes are stored as ONNX's 2- and 4-bit types where the opset has them, as bytes
otherwise, low bits first, so that either is a slice of the file that `arrays` can read.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from compressor.arrays import BFLOAT16, INT8, UINT8, Array, DType, Shape, bits, packed_nbytes
from compressor.encodings import Dense, Encoding, LinearQuantized, Palettized, Sparse, dtype, index_bits, shape
from compressor.formats.onnx.body import INT32
from compressor.formats.onnx.dtypes import DATA_TYPES, SINCE
from compressor.formats.onnx.functions import MOST_GROUPED_AXES
from compressor.formats.onnx.lowered import COUNTER, Lowered, Part

Form = Literal["folded", "linear"]
"""`folded`: nothing of the decoding is left when the model runs; `linear`: `DequantizeLinear`, for integer kernels."""

_BITWISE_SINCE = 18
_BLOCKED_SINCE = 21
# One lookup in a table that is repeated along the other axes is three times as fast as a row for every index, and the
# repeated table is small where the axis is this many times longer than the table.
_LONG_AXIS = 4
# Source: ONNX Runtime, onnxruntime_session_options_config_keys.h, "constant_folding_max_output_size_in_bytes".
_FOLDED_BYTES = 1 << 30


def why_not(encoding: Encoding) -> str:
    """Why the encoding cannot be lowered at any opset; empty if it can."""
    size = math.prod(shape(encoding))
    if isinstance(encoding, Dense):
        return ""
    if size == 0:
        return "it has no elements"
    if size * max(4, dtype(encoding).itemsize) > _FOLDED_BYTES:
        return f"ONNX Runtime folds values of at most {_FOLDED_BYTES >> 30} GiB, decoding takes more"
    palette = _palette(encoding)
    if isinstance(encoding, Sparse) and palette is not None:
        groups, vector = palette.lut.shape[:-2], palette.lut.shape[-1]
        if vector > 1 and math.prod(groups) > 1:
            return "vectors of non-zeros have no group"
    if len(shape(encoding)) > MOST_GROUPED_AXES:
        return f"decoding takes at most {MOST_GROUPED_AXES} axes"
    return ""


def lower(name: str, encoding: Encoding, opset: int, form: Form = "folded", prefix: str = "") -> Lowered:
    """What computes the value `name` of `encoding`, stored under names that begin with `prefix`, or with `name`."""
    made = Lowered()
    prefix = prefix or name
    match encoding:
        case Dense(values):
            made.store(name, values)
        case LinearQuantized():
            _linear(made, encoding, name, prefix, opset, form)
        case Palettized():
            _palettized(made, encoding, name, prefix, opset)
        case Sparse():
            _sparse(made, encoding, name, prefix, opset, form)
    return made


def needs_opset(encoding: Encoding, form: Form = "folded") -> int:
    """The oldest opset that `lower` works with, 13 for most."""
    oldest = 13
    palette = _palette(encoding)
    if palette is not None and index_bits(palette.lut) in {3, 5, 6, 7}:
        oldest = _BITWISE_SINCE
    if form == "linear" and isinstance(encoding, LinearQuantized) and _linear_axis(encoding) == "blocks":
        oldest = _BLOCKED_SINCE
    return oldest


def _palette(encoding: Encoding) -> Palettized | None:
    match encoding:
        case Palettized():
            return encoding
        case LinearQuantized(data):
            return data if isinstance(data, Palettized) else None
        case Sparse(_, values):
            return _palette(values)
        case _:
            return None


def _codes(made: Lowered, name: str, array: Array, opset: int, dims: Shape | None = None, width: int = 0) -> str:
    """Stored codes, whose value is uint8, int8 or a 2- or 4-bit type, of shape `dims`."""
    dims = tuple(array.shape) if dims is None else dims
    native = width in {0, 8} or opset >= SINCE.get(f"uint{width}", 1 << 30)
    own = bits(array.dtype)
    if own < 8:  # an array of a 2- or 4-bit type
        if opset >= SINCE[array.dtype.name]:
            return made.store(name, array, dims)
        return _unpacked(made, name, array, dims, own, array.dtype.name)
    if native and width in {2, 4}:
        made.parts.append(Part(name, DATA_TYPES[f"uint{width}"], dims, array, width))
        return name
    return made.store(name, array, dims) if native else _unpacked(made, name, array, dims, width, f"uint{width}")


def _unpacked(made: Lowered, name: str, array: Array, dims: Shape, width: int, kind: str) -> str:
    step = 8 // math.gcd(width, 8)
    runs, run = -(-array.size // step), step * width // 8
    packed = made.store(name, array, (runs,) if run == 1 else (runs, run), width)
    part = "_part" if array.size % step else ""
    return made.call(f"unpack_{kind}{part}", [packed], f"{name}.unpacked", shape=dims)


def _palettized(
    made: Lowered, encoding: Palettized, name: str, prefix: str, opset: int, places: str = "", whole: Shape = ()
) -> str:
    """The values; those of the non-zeros at `places` of a weight of shape `whole`, if given."""
    lut, width = encoding.lut, index_bits(encoding.lut)
    codes = _codes(made, f"{prefix}.indices", encoding.indices, opset, width=width)
    groups, (entries, vector) = tuple(lut.shape[:-2]), lut.shape[-2:]
    table = _codes(made, f"{prefix}.lut", lut, 13) if bits(lut.dtype) < 8 else made.store(f"{prefix}.lut", lut)
    indices = tuple(encoding.indices.shape)
    if places and math.prod(groups) > 1:
        group = _group(made, f"{prefix}.lut.group", places, groups, whole)
        return made.call("lut_at", [codes, table, group], name, entries=[entries], groups=groups)
    if places:
        groups = (1,)
    axis = _long_axis(indices, groups, lut)
    if axis is not None:
        return made.call("lut_to_dense", [codes, table], name, **_table_by_axis(indices, groups, entries, axis))
    attributes: dict[str, Any] = {}
    suffix = ""
    if math.prod(groups) > 1:
        suffix += "_groups"
        attributes |= {"entries": [entries], **_spread("groups", groups, _repeated(groups, indices))}
    if vector > 1:
        suffix += "_vectors"
        assert encoding.vector_axis is not None
        rank, place = len(indices), encoding.vector_axis
        perm = [*range(place + 1), rank, *range(place + 1, rank)]
        attributes |= {"vectors": (-1, vector), "perm": perm, "shape": shape(encoding)}
    return made.call(f"gather_lut{suffix}", [codes, table], name, **attributes)


def _long_axis(indices: Shape, groups: Shape, lut: Array) -> int | None:
    """The axis that a table goes along: ungrouped and long, the last one if it will do."""
    entries, vector = lut.shape[-2:]
    if vector > 1 or lut.dtype == BFLOAT16:  # ONNX Runtime's `Expand` has no bfloat16
        return None
    long = [axis for axis, dim in enumerate(indices) if groups[axis] == 1 and dim >= _LONG_AXIS * entries]
    return max(long, key=lambda axis: (axis == len(indices) - 1, indices[axis])) if long else None


def _table_by_axis(indices: Shape, groups: Shape, entries: int, axis: int) -> dict[str, Any]:
    rank = len(indices)
    counts = tuple(entries if place == axis else count for place, count in enumerate(groups))
    rows = tuple(entries if place == axis else dim for place, dim in enumerate(indices))
    perm = [rank if place == axis else place for place in range(rank)] + [axis]
    return {"tables": (*groups, entries), "perm": perm, "axis": axis, **_spread("rows", counts, rows)}


def _spread(what: str, counts: Shape, to: Shape) -> dict[str, Any]:
    """The attributes of `Body.spread`: a parameter `counts`, repeated to the shape `to`."""
    blocks = [dim // count if count else 1 for count, dim in zip(counts, to, strict=True)]
    grid = tuple(size for count in counts for size in (count, 1))
    both = tuple(size for pair in zip(counts, blocks, strict=True) for size in pair)
    return {f"{what}_grid": grid, f"{what}_spread": both, f"{what}_shape": to}


def _repeated(counts: Shape, whole: Shape) -> Shape:
    """A parameter's shape after its blocks are repeated, where it still broadcasts along the axes it has one for."""
    return tuple(1 if count == 1 else dim for count, dim in zip(counts, whole, strict=True))


def _group(made: Lowered, name: str, places: str, counts: Shape, whole: Shape) -> str:
    """The group or block of each place."""
    attributes: dict[str, Any] = {}
    axes = [axis for axis, count in enumerate(counts) if count > 1]
    for number, axis in enumerate(axes):
        inner = math.prod(whole[axis + 1 :])
        attributes[f"step{number}"] = [inner * (whole[axis] // counts[axis])]
        attributes[f"count{number}"] = [counts[axis]]
        if len(axes) > 1:
            attributes[f"stride{number}"] = [math.prod(counts[axis + 1 :])]
    return made.call(f"group{len(axes)}", [places], name, **attributes)


def _linear(
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
    if form == "linear" and not places:
        return _dequantize_linear(made, encoding, name, prefix, opset)
    grouped = any(count not in {1, dim} for count, dim in zip(counts, to, strict=True))
    attributes: dict[str, Any] = {}
    kind = ""
    if places:
        kind = "_at" if math.prod(counts) > 1 else ""
    elif grouped:
        kind = "_blocks"
        spread = _spread("", counts, to)
        attributes = {"grid": spread["_grid"], "shape": to}
    codes = _data(made, encoding.data, prefix, opset, places, whole, spread["_spread"] if kind == "_blocks" else None)
    inputs = [codes, made.store(f"{prefix}.scale", scale, (1,) if places and not kind else None)]
    if zero_point is not None:
        dims = (1,) if places and not kind else None
        inputs.append(_codes(made, f"{prefix}.zero_point", zero_point, opset, dims))
    if kind == "_at":
        inputs.append(_group(made, f"{prefix}.scale.group", places, counts, whole))
    suffix = "" if zero_point is None else "_zero_point"
    return made.call(f"dequantize_{scale.dtype.name}{kind}{suffix}", inputs, name, **attributes)


def _data(
    made: Lowered,
    data: Dense | Palettized,
    prefix: str,
    opset: int,
    places: str = "",
    whole: Shape = (),
    dims: Shape | None = None,
) -> str:
    """The codes of a quantized weight, in the shape `dims` if given."""
    name = f"{prefix}.codes"
    if not isinstance(data, Palettized):
        return _codes(made, name, data.values, opset, dims)
    codes = _palettized(made, data, name, prefix, opset, places, whole)
    return codes if dims is None else made.call("reshaped", [codes], f"{name}.blocks", shape=dims)


def _linear_axis(encoding: LinearQuantized, whole: Shape = ()) -> Literal["tensor", "axis", "blocks"] | None:
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
    kind = _linear_axis(quantized, shape(encoding))
    if isinstance(encoding, Sparse) and (not isinstance(quantized.data, Dense) or kind == "blocks"):
        return False
    return kind in {"tensor", "axis"} or (kind == "blocks" and opset >= _BLOCKED_SINCE)


def _dequantize_linear(made: Lowered, encoding: LinearQuantized, name: str, prefix: str, opset: int) -> str:
    codes = _data(made, encoding.data, prefix, opset)
    # ONNX Runtime pairs codes of 4 bits with integer kernels only in `MatMul` by blocks.
    narrow = dtype(encoding.data) if _linear_axis(encoding) != "blocks" else INT8
    if bits(narrow) < 8 and codes in {part.name for part in made.parts}:
        codes = _widened(made, codes, narrow)
    return _linear_node(made, encoding, codes, shape(encoding), name, prefix, opset)


def _widened(made: Lowered, codes: str, narrow: DType) -> str:
    return made.call(f"widen_{_wide(narrow).name}", [codes], f"{codes}.bytes")


def _wide(codes: DType) -> DType:
    """The 8-bit type with the sign of a type of codes."""
    return UINT8 if codes.name.startswith("u") else INT8


def _linear_node(
    made: Lowered, encoding: LinearQuantized, codes: str, whole: Shape, name: str, prefix: str, opset: int
) -> str:
    kind = _linear_axis(encoding, whole)
    counts = tuple(encoding.scale.shape)
    dims: Shape = {"tensor": (), "axis": (max(counts, default=1),), "blocks": counts}[kind or "blocks"]
    inputs = [codes, made.store(f"{prefix}.scale", encoding.scale, dims)]
    if encoding.zero_point is not None:
        zero = _codes(made, f"{prefix}.zero_point", encoding.zero_point, opset, dims)
        narrow = encoding.zero_point.dtype
        stored = zero in {part.name for part in made.parts}
        inputs.append(_widened(made, zero, narrow) if bits(narrow) < 8 and stored and kind != "blocks" else zero)
    suffix = "_zero_point"
    if encoding.zero_point is None:
        suffix = "" if kind == "blocks" else f"_{_wide(dtype(encoding.data)).name}"
    attributes: dict[str, Any] = {}
    if kind == "axis":
        attributes["axis"] = next(axis for axis, count in enumerate(counts) if count > 1)
    if kind == "blocks":
        axis = next(axis for axis, (count, dim) in enumerate(zip(counts, whole, strict=True)) if count != dim)
        attributes |= {"axis": axis, "block_size": whole[axis] // counts[axis]}
    which = {"tensor": "", "axis": "_axis", "blocks": "_blocks"}[kind or "blocks"]
    return made.call(f"dequantize_linear{which}{suffix}", inputs, name, **attributes)


def _sparse(made: Lowered, encoding: Sparse, name: str, prefix: str, opset: int, form: Form) -> str:
    whole, mask, values = encoding.shape, encoding.mask, encoding.values
    size, count = math.prod(whole), math.prod(shape(values))
    places = _places(made, prefix, mask, whole)
    made.declare(places, INT32, count)
    if form == "linear" and isinstance(values, LinearQuantized):
        codes = _data(made, values.data, prefix, opset)
        narrow = dtype(values.data)
        if bits(narrow) < 8 and codes in {part.name for part in made.parts}:
            codes = _widened(made, codes, narrow)
        return _sparse_linear(made, values, codes, places, whole, name, prefix, opset)
    inner = f"{prefix}.values"
    match values:
        case Dense(array):
            made.store(inner, array)
        case LinearQuantized():
            _linear(made, values, inner, prefix, opset, form, places, whole)
        case Palettized():
            _palettized(made, values, inner, prefix, opset, places, whole)
    return made.call("sparse_to_dense", [places, inner, _zeros(made, dtype(encoding), size)], name, shape=whole)


def _sparse_linear(
    made: Lowered, values: LinearQuantized, codes: str, places: str, whole: Shape, name: str, prefix: str, opset: int
) -> str:
    """Codes scattered into zero points, then dequantized: the integer kernels want codes."""
    wide = _wide(dtype(values.data))
    _linear_node(made, values, f"{prefix}.scattered", whole, name, prefix, opset)
    last = made.nodes.pop()
    if values.zero_point is None:
        fill = _zeros(made, wide, math.prod(whole))
    else:
        zero = last.input[2]
        fill = made.call(
            f"spread_{wide.name}", [zero], f"{prefix}.fill", **_spread("fill", tuple(values.scale.shape), whole)
        )
    made.call("sparse_to_dense", [places, codes, fill], f"{prefix}.scattered", shape=whole)
    made.nodes.append(last)
    return name


def _places(made: Lowered, prefix: str, mask: Array, whole: Shape) -> str:
    packed = made.store(f"{prefix}.mask", mask, (packed_nbytes(mask.size, 1),), 1)
    made.counter = max(made.counter, -(-math.prod(whole) // 8) * 8)
    name = f"{prefix}.places"
    if tuple(mask.shape) == whole:
        return made.call("places", [packed, COUNTER], name)
    return made.call("places_of_blocks", [packed, COUNTER], name, **_spread("mask", tuple(mask.shape), whole))


def _zeros(made: Lowered, dtype: DType, size: int) -> str:
    made.zeros.add((dtype.name, size))
    return f"compressor.zeros.{dtype.name}.{size}"
