"""What the functions compute, node by node.

What a body costs at load is the memory that it touches, since ONNX Runtime keeps every intermediate value until the
last weight is decoded. So codes stay bytes as long as they can, and one operator looks up what several would compute. A
body is part of every artefact: tables are computed, not stored.

Source: ONNX Runtime, core/optimizer/constant_folding.cc.
"""

from __future__ import annotations

import math

import numpy as np

from compressor.arrays import FLOAT_DTYPES, INT8, UINT8, DType
from compressor.formats.onnx.body import BOOL, INT32, Body, Caller


def unpack(body: Body, width: int, *, part: bool) -> None:
    """Codes of `width` bits that fill whole bytes: each moved up to the end of a byte, all down to its beginning.

    packed: uint8 `[bytes]`, low bits first. Gives uint8 `shape`; `part`: the last byte is not full.
    """
    shifts = np.arange(8 - width, -1, -width)[:, None]
    upper = body.node("BitShift", body.input("packed"), body.constant(shifts, UINT8), direction="LEFT")
    codes = body.node("BitShift", upper, body.constant(8 - width, UINT8), direction="RIGHT")
    flat = body.node("Transpose", codes)
    body.reshape(body.first(body.flat(flat), "shape") if part else flat, "shape")


def unpack_signed(body: Body, width: int, *, part: bool) -> None:
    """The same of codes with a sign, which no operator on bytes moves down: a row of a table for each byte.

    Gives int8 `shape`.
    """
    table = _nibble_table(body) if width == 4 else _byte_table(body, width, INT8)
    rows = body.node("Gather", table, body.cast(body.input("packed"), INT32))
    body.reshape(body.first(body.flat(rows), "shape") if part else rows, "shape")


def unpack_straddling(body: Body, width: int, *, part: bool) -> None:
    """Codes of 3, 5, 6 or 7 bits: the end of the byte in which one begins, and the beginning of the next.

    packed: uint8 `[runs, bytes]`, low bits first. Gives uint8 `shape`; `part`: the last run is not full.
    """
    columns = body.node("Transpose", body.input("packed"), perm=[1, 0])
    bytes_, shifts = straddling(width)
    ends, beginnings = (body.node("Gather", columns, body.integers(places)) for places in bytes_)
    right, left = (body.constant(np.array(shift)[:, None], UINT8) for shift in shifts)
    low = body.node("BitShift", ends, right, direction="RIGHT")
    high = body.node("BitShift", beginnings, left, direction="LEFT")
    mask = body.constant((1 << width) - 1, UINT8)
    codes = body.node("BitwiseAnd", body.node("BitwiseOr", low, high), mask)
    runs = body.node("Transpose", codes, perm=[1, 0])
    body.reshape(body.first(body.flat(runs), "shape") if part else runs, "shape")


def straddling(width: int) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Of each code in a run: the bytes in which it begins and ends, and the shifts of the former and of the latter.

    A code that ends where it begins gets that byte twice, the second time shifted out of the code's bits.
    """
    starts = [place * width for place in range(8 // math.gcd(width, 8))]
    first, right = [start // 8 for start in starts], [start % 8 for start in starts]
    last = [(start + width - 1) // 8 for start in starts]
    left = [8 - shift if shift else 7 for shift in right]
    return (first, last), (right, left)


def _byte_table(body: Body, width: int, dtype: DType) -> str:
    """The codes in each byte, signed ones with their sign: `[256, 8 / width]`."""
    every = body.node("Range", body.integer(0), body.integer(256), body.integer(1))
    column = body.node("Reshape", every, body.integers([-1, 1]))
    codes = body.node("Div", column, body.integers([1 << shift for shift in range(0, 8, width)]))
    half = body.integer(1 << (width - 1)) if dtype == INT8 else ""
    codes = body.node("Mod", body.node("Add", codes, half) if half else codes, body.integer(1 << width))
    return body.cast(body.node("Sub", codes, half) if half else codes, dtype)


def _nibble_table(body: Body) -> str:
    """The two signed codes of 4 bits in each byte, `[256, 2]`, in fewer nodes than others take."""
    every = body.constant((np.arange(16)[:, None] ^ 8) - 8, INT8)
    low = body.node("Expand", every, body.integers([16, 16, 1]))
    both = body.node("Concat", low, body.node("Transpose", low, perm=[1, 0, 2]), axis=2)
    return body.node("Reshape", both, body.integers([-1, 2]))


def counter(body: Body) -> None:
    """0, 1, 2, ...: int32 `[size]`, the places of a weight's elements."""
    size = body.cast(body.node("Squeeze", body.ints("size")), INT32)
    body.node("Range", body.constant(0, INT32), size, body.constant(1, INT32))


def zeros(body: Body, dtype: DType) -> None:
    """Zeros `[size]`."""
    zeros = body.node("ConstantOfShape", body.ints("size"))
    if dtype.name != "float32":
        body.cast(zeros, dtype)


def bits(body: Body) -> None:
    """The bits of each byte, low bits first: bool `[256, 8]`, which all masks share."""
    _byte_table(body, 1, BOOL)


def places(body: Body, *, blocks: bool, shared: bool) -> None:
    """Where a mask is set: int32 `[D]`, in row-major order.

    mask: uint8 `[bytes]`, one bit an element or a block, low bits first. counter: int32, as long as any weight.
    `shared`: the bits of each byte are one value; artefacts of before compute them for every mask. ONNX Runtime takes
    a time that grows with the square of the constants that a model has.
    """
    mask, counter = body.input("mask"), body.input("counter")
    table = body.input("bits") if shared else _byte_table(body, 1, BOOL)
    bits = body.node("Gather", table, body.cast(mask, INT32))
    flat = body.flat(bits)
    if blocks:
        flat = body.flat(body.spread(body.first(flat, "mask_grid"), "mask"))
    body.node("Compress", counter, flat)


def places_by_gaps(body: Body, width: int) -> None:
    """Where codes of `width` bits say that values are: int32 `[D]`. codes: `[G]`, see `gaps`.

    `Compress` costs a mispredicted branch where what it keeps changes: here nearly all of it is kept.
    """
    codes, most = body.cast(body.input("codes"), INT32), body.constant((1 << width) - 1, INT32)
    found = body.node("Less", codes, most)
    body.node("Compress", body.node("CumSum", codes, body.integer(0)), found)


def places_by_gaps_of_weights(body: Body, width: int) -> None:
    """The same of weights of `size` elements each that lie side by side, whose codes count from where each begins.

    ends: how many codes there are up to the end of every weight but the last. What a weight has behind its codes is
    added to the first code of the next one.
    """
    codes, most = body.cast(body.input("codes"), INT32), body.constant((1 << width) - 1, INT32)
    found = body.node("Less", codes, most)
    firsts, axis = body.ints("ends"), body.integer(0)
    lasts = body.node("Sub", firsts, body.integer(1))
    reached = body.node("Gather", body.node("CumSum", codes, axis), lasts)
    before = body.node("Slice", reached, body.integers([0]), body.integers([-1]))
    lengths = body.node("Sub", reached, body.node("Concat", body.constant([0], INT32), before, axis=0))
    behind = body.node("Sub", body.cast(body.ints("size"), INT32), lengths)
    moved = body.node("Add", body.node("Gather", codes, firsts), behind)
    body.node("Compress", body.node("CumSum", body.node("ScatterElements", codes, firsts, moved), axis), found)


def sparse_to_dense(body: Body) -> None:
    """The values `[D]` at the places of a weight, int32 `[D]`, and `zeros` `[size]` elsewhere."""
    places, values, zeros = body.input("places"), body.input("values"), body.input("zeros")
    body.reshape(body.node("ScatterElements", zeros, places, values), "shape")


def lut_to_dense(body: Body) -> None:
    """`lut[group, codes]`: one lookup along `axis`, on which a table has its entries and lies along the other axes.

    codes: integer. lut: `[*groups, K, 1]` with one group along `axis`.
    """
    codes = body.cast(body.input("codes"), INT32)
    tables = body.reshape(body.input("lut"), "tables")
    rows = body.spread(body.node("Transpose", tables, perm=Caller("perm", 7)), "rows")
    body.node("GatherElements", rows, codes, axis=Caller("axis", 2))


def lut_to_dense_along(body: Body) -> None:
    """`lut[codes]`: one table for all, which goes along `axis`. codes: integer. lut: `[1, ..., K, 1]`."""
    codes, table = body.cast(body.input("codes"), INT32), body.reshape(body.input("lut"), "table")
    body.node("GatherElements", body.node("Expand", table, body.ints("rows")), codes, axis=Caller("axis", 2))


def lut_to_dense_by_row(body: Body) -> None:
    """`lut[row, codes]`, in another shape: groups of channels along the first axis, or one table for all.

    codes: integer `[rows, n]`. lut: `[rows, ..., K, 1]`, whose other dimensions are 1.
    """
    codes = body.cast(body.input("codes"), INT32)
    body.reshape(body.node("GatherElements", body.reshape(body.input("lut"), "tables"), codes, axis=1), "shape")


def gather_lut(body: Body, *, groups: bool, vectors: bool) -> None:
    """`lut[group, codes]` with any groups; entries of V values go to `vector_axis`, which `perm` and `shape` say.

    codes: integer. lut: `[*groups, K, V]`.
    """
    rows, lut = body.cast(body.input("codes"), INT32), body.input("lut")
    if groups:
        count = body.node("ReduceProd", body.ints("groups_grid"), keepdims=0)
        number = body.node("Range", body.integer(0), count, body.integer(1))
        first = body.cast(body.node("Mul", number, body.ints("entries")), INT32)
        rows = body.node("Add", rows, body.spread(first, "groups"))
    entries = body.reshape(lut, "vectors") if vectors else body.flat(lut)
    values = body.node("Gather", entries, rows)
    if vectors:
        body.reshape(body.node("Transpose", values, perm=Caller("perm", 7)), "shape")


def group(body: Body, axes: int, *, short: bool) -> None:
    """The group or block of each place: int32 `[D]`, from `place // step % count` along each grouped axis.

    short: the last block of an axis may be shorter than the others, `block` long: `place // step % count // block`.
    """
    places, total = body.input("places"), ""
    for axis in range(axes):
        step, count = (body.cast(body.ints(f"{what}{axis}"), INT32) for what in ("step", "count"))
        number = body.node("Mod", body.node("Div", places, step), count)
        if short:
            number = body.node("Div", number, body.cast(body.ints(f"block{axis}"), INT32))
        weighted = body.node("Mul", number, body.cast(body.ints(f"stride{axis}"), INT32)) if axes > 1 else number
        total = body.node("Add", total, weighted) if total else weighted


def lut_at(body: Body) -> None:
    """`lut[group, codes]` of the non-zeros. codes: integer `[D]`; lut: `[*groups, K, 1]`; group: int32 `[D]`."""
    codes, lut, group = body.input("codes"), body.input("lut"), body.input("group")
    first = body.node("Mul", group, body.cast(body.ints("entries"), INT32))
    rows = body.node("Add", body.cast(codes, INT32), first)
    body.node("GatherElements", body.flat(lut), rows)


def dequantize(body: Body, dtype: DType, *, zero_point: bool, blocks: bool, at: bool) -> None:
    """`(codes - zero_point) * scale`, rounded once to the scale's type.

    `blocks`: codes have an axis more for each axis, which runs through a block, and parameters have a 1 there (`grid`).
    `at`: codes `[D]` of non-zeros, whose blocks are `group`.
    """
    exact = FLOAT_DTYPES["float64" if dtype.name == "float64" else "float32"]
    codes, names = body.input("codes"), ["scale", *(["zero_point"] if zero_point else [])]
    parameters = [body.input(name) for name in names]
    group = body.input("group") if at else ""
    values = body.cast(codes, exact)
    grid = body.ints("grid") if blocks else ""
    scale, *offset = (
        _parameter(body, one if of == exact.name else body.cast(one, exact), group, grid)
        for one, of in zip(parameters, (dtype.name, ""), strict=False)  # numpy takes None for float64
    )
    if offset:
        values = body.node("Sub", values, offset[0])
    values = body.node("Mul", values, scale)
    if blocks:
        values = body.reshape(values, "shape")
    if dtype != exact:
        body.cast(values, dtype)


def _parameter(body: Body, value: str, group: str, grid: str) -> str:
    if group:
        return body.node("GatherElements", body.flat(value), group)
    return body.node("Reshape", value, grid) if grid else value


def dequantize_linear(body: Body, *, axis: bool, zero: DType | None) -> None:
    """`(codes - zero_point) * scale` as ONNX Runtime keeps it, for the kernels that compute with codes.

    zero: the type of a zero point that is not stored since it is zero: `QGemm` is not chosen without one.
    """
    codes, scale = body.input("codes"), body.input("scale")
    if zero is None:
        offset = body.input("zero_point")
    else:
        offset = body.cast(body.node("ConstantOfShape", body.node("Shape", scale)), zero)
    body.node("DequantizeLinear", codes, scale, offset, **({"axis": Caller("axis", 2)} if axis else {}))


def dequantize_blocks(body: Body, *, zero_point: bool) -> None:
    """The same with blocks of `block_size` along `axis`, which `MatMulNBits` takes with and without zero points."""
    inputs = [body.input("codes"), body.input("scale"), *([body.input("zero_point")] if zero_point else [])]
    body.node("DequantizeLinear", *inputs, axis=Caller("axis", 2), block_size=Caller("block_size", 2))


def spread(body: Body, dtype: DType) -> None:
    """Zero points by block as codes for every element: what a sparse weight has where it has no code."""
    codes = body.cast(body.input("zero_point"), dtype)
    body.flat(body.spread(codes, "fill"))


def widen(body: Body, dtype: DType) -> None:
    """Codes of 2 or 4 bits as bytes, with which more operators work."""
    body.cast(body.input("codes"), dtype)


def reshaped(body: Body) -> None:
    body.reshape(body.input("codes"), "shape")


def by_block(body: Body) -> None:
    """A parameter by block, for each of `length` elements along `axis`: that of the block which it lies in."""
    parameter, length = body.input("parameter"), body.int("length")
    places = body.node("Range", body.integer(0), length, body.integer(1))
    body.node("Gather", parameter, body.node("Div", places, body.ints("block")), axis=Caller("axis", 2))


def concatenated(body: Body, parts: int) -> None:
    """Parts of a weight side by side along `axis`."""
    body.node("Concat", *[body.input(f"part{number}") for number in range(parts)], axis=Caller("axis", 2))
