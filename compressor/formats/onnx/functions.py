"""Model-local functions that decode a weight: standard ONNX, inlined and folded away when ONNX Runtime loads a model.

A function's name says all about its body; shapes are attributes of the node that calls it. What a body costs at load is
the memory that it touches, since ONNX Runtime keeps every intermediate value until the last weight is decoded. So codes
stay bytes as long as they can, and one operator looks up what several would compute.

Source: ONNX IR specification, "Functions"; ONNX Runtime, core/optimizer/constant_folding.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.arrays import FLOAT_DTYPES, INT8, UINT8, DType, NDArray

if TYPE_CHECKING:
    import onnx

DOMAIN = "compressor"
VERSION = 1

BOOL, INT32, INT64 = np.dtype(np.bool_), np.dtype(np.int32), np.dtype(np.int64)

DATA_TYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
    "uint4": 21,
    "int4": 22,
    "uint2": 25,
    "int2": 26,
}
"""`TensorProto.DataType` by the name of the numpy type."""


def function(name: str, opset: int) -> onnx.FunctionProto:
    """The function of that name, over the operators of `opset`."""
    import onnx

    body = Body()
    _BODIES[name](body)
    return onnx.FunctionProto(
        domain=DOMAIN,
        name=name,
        input=body.inputs,
        output=[body.output],
        attribute=body.attributes,
        node=body.nodes,
        opset_import=[onnx.OperatorSetIdProto(domain="", version=opset)],
    )


@dataclass
class Body:
    """A function while it is written: every method appends a node and gives the name of its output."""

    inputs: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])

    def input(self, name: str) -> str:
        self.inputs.append(name)
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """An operator; an attribute given as `Caller(name)` is the attribute of that name of the calling node."""
        import onnx

        made = onnx.helper.make_node(
            op_type,
            inputs,
            [f"{op_type}_{len(self.nodes)}"],
            **{key: value for key, value in attributes.items() if not isinstance(value, Caller)},
        )
        for key, value in attributes.items():
            if isinstance(value, Caller):
                made.attribute.add(name=key, ref_attr_name=value.name, type=value.type)
                self.attributes.extend([] if value.name in self.attributes else [value.name])
        self.nodes.append(made)
        return str(made.output[0])

    def constant(self, values: Any, dtype: DType = INT64) -> str:
        import onnx

        return self.node("Constant", value=onnx.numpy_helper.from_array(np.asarray(values, dtype)))

    def ints(self, name: str) -> str:
        """The attribute `name` of the calling node: int64 `[n]`."""
        return self.node("Constant", value_ints=Caller(name, 7))

    def cast(self, value: str, dtype: DType) -> str:
        return self.node("Cast", value, to=DATA_TYPES[dtype.name])

    def reshape(self, value: str, name: str) -> str:
        return self.node("Reshape", value, self.ints(name))

    def flat(self, value: str) -> str:
        return self.node("Reshape", value, self.constant([-1]))

    def spread(self, value: str, what: str) -> str:
        """A parameter by block, repeated: `grid` has a 1 after every axis, `spread` the block there, `shape` both in one."""
        grid = self.reshape(value, f"{what}_grid")
        return self.reshape(self.node("Expand", grid, self.ints(f"{what}_spread")), f"{what}_shape")

    def first(self, value: str, size: str) -> str:
        """The elements of a flat value up to `size`, the product of an attribute."""
        count = self.node("ReduceProd", self.ints(size), keepdims=1)
        return self.node("Slice", value, self.constant([0]), count)


@dataclass(frozen=True)
class Caller:
    """An attribute of the calling node. type: its `AttributeProto.Type`."""

    name: str
    type: int


def _unpack(body: Body, width: int, dtype: DType, *, part: bool) -> None:
    """Codes of `width` bits that fill whole bytes: a row of a table for each byte.

    packed: uint8 `[bytes]`, low bits first. Gives uint8 or int8 `shape`; `part`: the last byte is not full.
    """
    rows = body.node("Gather", body.constant(byte_table(width, dtype), dtype), body.cast(body.input("packed"), INT32))
    body.reshape(body.first(body.flat(rows), "shape") if part else rows, "shape")


def _unpack_straddling(body: Body, width: int, *, part: bool) -> None:
    """Codes of 3, 5, 6 or 7 bits, each of which lies in two neighbouring bytes of its run.

    packed: uint8 `[runs, bytes]`, low bits first. Gives uint8 `shape`; `part`: the last run is not full.
    """
    starts = np.arange(8 // math.gcd(width, 8)) * width
    low, shift = starts // 8, starts % 8
    high = np.minimum(low + 1, (starts[-1] + width - 1) // 8)
    packed = body.input("packed")
    right = body.node(
        "BitShift",
        body.node("Gather", packed, body.constant(low), axis=1),
        body.constant(shift, UINT8),
        direction="RIGHT",
    )
    # A code that does not straddle has no bits in the high byte: what a shift by 7 leaves of it is masked off.
    left = body.node(
        "BitShift",
        body.node("Gather", packed, body.constant(high), axis=1),
        body.constant(np.minimum(8 - shift, 7), UINT8),
        direction="LEFT",
    )
    mask = body.constant([(1 << width) - 1], UINT8)
    codes = body.node("BitwiseAnd", body.node("BitwiseOr", right, left), mask)
    body.reshape(body.first(body.flat(codes), "shape") if part else codes, "shape")


def byte_table(width: int, dtype: DType) -> NDArray:
    """The codes in each byte: `[256, 8 / width]`, signed ones with their sign."""
    codes = np.arange(256)[:, None] >> np.arange(0, 8, width) & ((1 << width) - 1)
    if dtype == INT8:
        codes = (codes ^ (1 << (width - 1))) - (1 << (width - 1))
    return codes.astype(dtype)


def _counter(body: Body) -> None:
    """0, 1, 2, ...: int32 `[size]`, the places of a weight's elements."""
    size = body.cast(body.node("Squeeze", body.ints("size")), INT32)
    body.node("Range", body.constant(0, INT32), size, body.constant(1, INT32))


def _zeros(body: Body, dtype: DType) -> None:
    """Zeros `[size]`."""
    zeros = body.node("ConstantOfShape", body.ints("size"))
    if dtype.name != "float32":
        body.cast(zeros, dtype)


def _places(body: Body, *, blocks: bool) -> None:
    """Where a mask is set: int32 `[D]`, in row-major order.

    mask: uint8 `[bytes]`, one bit an element or a block, low bits first. counter: int32, as long as any weight.
    """
    mask, counter = body.input("mask"), body.input("counter")
    bits = body.node("Gather", body.constant(byte_table(1, BOOL), BOOL), body.cast(mask, INT32))
    flat = body.flat(bits)
    if blocks:
        flat = body.flat(body.spread(body.first(flat, "mask_grid"), "mask"))
    body.node("Compress", counter, flat)


def _sparse_to_dense(body: Body) -> None:
    """values `[D]` at the places of a weight, int32 `[D]`, and `zeros` `[size]` elsewhere."""
    places, values, zeros = body.input("places"), body.input("values"), body.input("zeros")
    body.reshape(body.node("ScatterElements", zeros, places, values), "shape")


def _lut_to_dense(body: Body) -> None:
    """`lut[group, codes]`: one lookup along `axis`, on which a table has its entries and lies along the other axes.

    codes: integer. lut: `[*groups, K, 1]` with one group along `axis`.
    """
    codes = body.cast(body.input("codes"), INT32)
    tables = body.reshape(body.input("lut"), "tables")
    rows = body.spread(body.node("Transpose", tables, perm=Caller("perm", 7)), "rows")
    body.node("GatherElements", rows, codes, axis=Caller("axis", 2))


def _gather_lut(body: Body, *, groups: bool, vectors: bool) -> None:
    """`lut[group, codes]` with any groups; entries of V values go to `vector_axis`, which `perm` and `shape` say.

    codes: integer. lut: `[*groups, K, V]`.
    """
    rows, lut = body.cast(body.input("codes"), INT32), body.input("lut")
    if groups:
        count = body.node("ReduceProd", body.ints("groups_grid"), keepdims=0)
        number = body.node("Range", body.constant(0), count, body.constant(1))
        first = body.cast(body.node("Mul", number, body.ints("entries")), INT32)
        rows = body.node("Add", rows, body.spread(first, "groups"))
    entries = body.reshape(lut, "vectors") if vectors else body.flat(lut)
    values = body.node("Gather", entries, rows)
    if vectors:
        body.reshape(body.node("Transpose", values, perm=Caller("perm", 7)), "shape")


def _group(body: Body, axes: int) -> None:
    """The group or block of each place: int32 `[D]`, from `place // step % count` along each grouped axis."""
    places, total = body.input("places"), ""
    for axis in range(axes):
        step, count = (body.cast(body.ints(f"{what}{axis}"), INT32) for what in ("step", "count"))
        number = body.node("Mod", body.node("Div", places, step), count)
        weighted = body.node("Mul", number, body.cast(body.ints(f"stride{axis}"), INT32)) if axes > 1 else number
        total = body.node("Add", total, weighted) if total else weighted


def _lut_at(body: Body) -> None:
    """`lut[group, codes]` of the non-zeros. codes: integer `[D]`; lut: `[*groups, K, 1]`; group: int32 `[D]`."""
    codes, lut, group = body.input("codes"), body.input("lut"), body.input("group")
    first = body.node("Mul", group, body.cast(body.ints("entries"), INT32))
    rows = body.node("Add", body.cast(codes, INT32), first)
    body.node("Gather", body.flat(lut), rows)


def _dequantize(body: Body, dtype: DType, *, zero_point: bool, blocks: bool, at: bool) -> None:
    """`(codes - zero_point) * scale`, rounded once to the scale's type.

    `blocks`: codes have an axis more for each axis, which runs through a block, and parameters have a 1 there (`grid`).
    `at`: codes `[D]` of non-zeros, whose blocks are `group`.
    """
    exact = FLOAT_DTYPES["float64" if dtype.name == "float64" else "float32"]
    codes, names = body.input("codes"), ["scale", *(["zero_point"] if zero_point else [])]
    parameters = [body.input(name) for name in names]
    group = body.input("group") if at else ""
    values = body.cast(codes, exact)
    scale, *offset = (_parameter(body, parameter, exact, group, blocks=blocks) for parameter in parameters)
    if offset:
        values = body.node("Sub", values, offset[0])
    values = body.node("Mul", values, scale)
    if blocks:
        values = body.reshape(values, "shape")
    if dtype != exact:
        body.cast(values, dtype)


def _parameter(body: Body, name: str, exact: DType, group: str, *, blocks: bool) -> str:
    value = body.cast(name, exact)
    if group:
        return body.node("Gather", body.flat(value), group)
    return body.reshape(value, "grid") if blocks else value


def _dequantize_linear(body: Body, *, zero_point: bool, axis: bool, blocks: bool) -> None:
    """`(codes - zero_point) * scale` as ONNX Runtime keeps it, for the kernels that compute with codes."""
    inputs = [body.input("codes"), body.input("scale"), *([body.input("zero_point")] if zero_point else [])]
    attributes = {"axis": Caller("axis", 2)} if axis else {}
    if blocks:
        attributes["block_size"] = Caller("block_size", 2)
    body.node("DequantizeLinear", *inputs, **attributes)


def _spread(body: Body, dtype: DType) -> None:
    """Zero points by block as codes for every element: what a sparse weight has where it has no code."""
    codes = body.cast(body.input("zero_point"), dtype)
    body.flat(body.spread(codes, "fill"))


def _widen(body: Body, dtype: DType) -> None:
    """Codes of 2 or 4 bits as bytes, with which more operators work."""
    body.cast(body.input("codes"), dtype)


def _reshaped(body: Body) -> None:
    body.reshape(body.input("codes"), "shape")


MOST_GROUPED_AXES = 8


def _bodies() -> dict[str, Callable[[Body], None]]:
    bodies: dict[str, Callable[[Body], None]] = {
        "counter": _counter,
        "lut_at": _lut_at,
        "lut_to_dense": _lut_to_dense,
        "reshaped": _reshaped,
        "places": partial(_places, blocks=False),
        "places_of_blocks": partial(_places, blocks=True),
        "sparse_to_dense": _sparse_to_dense,
    }
    for part, suffix in ((False, ""), (True, "_part")):
        for width in (1, 2, 4):
            bodies[f"unpack_uint{width}{suffix}"] = partial(_unpack, width=width, dtype=UINT8, part=part)
        for width in (2, 4):
            bodies[f"unpack_int{width}{suffix}"] = partial(_unpack, width=width, dtype=INT8, part=part)
        for width in (3, 5, 6, 7):
            bodies[f"unpack_uint{width}{suffix}"] = partial(_unpack_straddling, width=width, part=part)
    for groups, middle in ((False, ""), (True, "_groups")):
        for vectors, suffix in ((False, ""), (True, "_vectors")):
            bodies[f"gather_lut{middle}{suffix}"] = partial(_gather_lut, groups=groups, vectors=vectors)
    for axes in range(1, MOST_GROUPED_AXES + 1):
        bodies[f"group{axes}"] = partial(_group, axes=axes)
    for dtype in (*FLOAT_DTYPES.values(), INT8, UINT8):
        bodies[f"zeros_{dtype.name}"] = partial(_zeros, dtype=dtype)
    for dtype in (INT8, UINT8):
        bodies[f"widen_{dtype.name}"] = partial(_widen, dtype=dtype)
        bodies[f"spread_{dtype.name}"] = partial(_spread, dtype=dtype)
    for zero_point, middle in ((False, ""), (True, "_zero_point")):
        for name, axis, blocks in (("", False, False), ("_axis", True, False), ("_blocks", True, True)):
            bodies[f"dequantize_linear{name}{middle}"] = partial(
                _dequantize_linear, zero_point=zero_point, axis=axis, blocks=blocks
            )
        for dtype in FLOAT_DTYPES.values():
            for name, blocks, at in (("", False, False), ("_blocks", True, False), ("_at", False, True)):
                bodies[f"dequantize_{dtype.name}{name}{middle}"] = partial(
                    _dequantize, dtype=dtype, zero_point=zero_point, blocks=blocks, at=at
                )
    return bodies


_BODIES = _bodies()
