"""What every target must do with every encoding: the forms, and a model that holds them.

A form is an encoding with data. `forms()` runs through every node, nesting, granularity and awkward size there is; a
target either refuses one with a reason or computes exactly what `decode` does.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, STORED_DTYPES, DType, NarrowArray, NDArray, Shape
from compressor.encodings import (
    PLACES,
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    arrays,
    decode,
    dtype,
    shape,
    spec,
)
from compressor.formats.narrow_floats import E2M1, E2M3, E4M3, quotients, table
from compressor.formats.onnx.dtypes import DATA_TYPES
from compressor.gaps import GAPS, is_gaps, of_mask, to_mask
from compressor.model import Model
from compressor.targets import Illegal, Target
from compressor.weight import Weight

F64, F32, F16, BF16 = (FLOAT_DTYPES[name] for name in ("float64", "float32", "float16", "bfloat16"))
FLOATS = (F32, F16, BF16)

SHAPES: tuple[Shape, ...] = ((1,), (7,), (300,), (5, 3), (12, 40), (3, 8, 5), (4, 6, 3, 5))

Case = tuple[str, Encoding]

AT_ONCE = 300
"""How many forms an artefact has."""


def floats(rng: np.random.Generator, to: Shape, of: DType) -> NDArray:
    return rng.standard_normal(to).astype(np.float32).astype(of)


def codes(rng: np.random.Generator, to: Shape, of: DType) -> NDArray:
    bits = int(of.name.removeprefix("u").removeprefix("int"))
    low = 0 if of.name.startswith("u") else -(1 << (bits - 1))
    return rng.integers(low, low + (1 << bits), to).astype(of)


def palette(
    rng: np.random.Generator, to: Shape, of: DType, entries: int, groups: Shape | None = None, axis: int | None = None
) -> Palettized:
    """`to`: the shape of the indices; vectors of two along `axis`."""
    groups = groups or (1,) * len(to)
    table_shape = (*groups, entries, 1 if axis is None else 2)
    table = floats(rng, table_shape, of) if of in FLOAT_DTYPES.values() else codes(rng, table_shape, of)
    return Palettized(rng.integers(0, entries, to).astype(np.uint8), table, axis)


def quantized(
    rng: np.random.Generator, data: Dense | Palettized, of: DType, counts: Shape, *, zero_point: bool
) -> Quantized:
    scale = (np.abs(floats(rng, counts, F32)) + np.float32(0.01)).astype(of)
    return Quantized(data, scale, codes(rng, counts, dtype(data)) if zero_point else None)


def parameters(to: Shape) -> tuple[Shape, ...]:
    """Shapes of a parameter by tensor, by channel and by block along any axis, and by blocks along all of them."""
    found = [(1,) * len(to)]
    for axis, dim in enumerate(to):
        counts = sorted({dim, *(count for count in (2, 3) if dim % count == 0)})
        found += [tuple(count if place == axis else 1 for place in range(len(to))) for count in counts]
    found.append(tuple(next((count for count in (2, 3, 5) if dim % count == 0), 1) for dim in to))
    found.append((to[0] // 2 if to[0] % 2 == 0 else 1, *to[1:]))
    return tuple(dict.fromkeys(found))


def forms(seed: int = 0) -> Iterator[Case]:
    """Every form, named; of other values for another seed."""
    rng = np.random.default_rng(seed)
    for of, to in itertools.product(FLOATS, SHAPES):
        yield f"dense {of} {to}", Dense(floats(rng, to, of))
    for (of, stored), to in itertools.product(((F32, F16), (F32, BF16), (F64, F32), (F64, F16)), SHAPES):
        yield f"{stored} for {of} {to}", Dense(NarrowArray(floats(rng, to, stored), of))
    yield from palettes(rng)
    yield from quantizations(rng)
    yield from scaled_floats(rng)
    yield from concatenations(rng)
    for name, values in masks(rng):
        yield from under(rng, name, values)


def palettes(rng: np.random.Generator) -> Iterator[Case]:
    for of, to, entries in itertools.product(FLOATS, SHAPES, (1, 2, 3, 5, 9, 16, 17, 33, 65, 256)):
        yield f"palettized {of} {to} {entries}", palette(rng, to, of, entries)
    for of, to, entries in itertools.product((F32, BF16), SHAPES[3:], (2, 7, 16)):
        for groups in parameters(to):
            yield f"palettized {of} {to} {entries} groups {groups}", palette(rng, to, of, entries, groups)
            for axis in range(len(to)):
                form = palette(rng, to, of, entries, groups, axis)
                yield f"palettized {of} {to} {entries} groups {groups} vectors {axis}", form
            narrow = palette(rng, to, F16, entries, groups)
            if of == F32:
                form = replace(narrow, lut=NarrowArray(narrow.lut, of))
                yield f"palettized {of} {to} {entries} groups {groups} in {F16}", form


def quantizations(rng: np.random.Generator) -> Iterator[Case]:
    for (name, of), to in itertools.product(CODE_DTYPES.items(), SHAPES):
        for counts, zero_point in itertools.product(parameters(to), (False, True)):
            for scale in FLOATS if name == "int8" else (F32,):
                data = Dense(codes(rng, to, of))
                label = f"{name} {scale} {to} scale {counts} zero point {zero_point}"
                yield label, quantized(rng, data, scale, counts, zero_point=zero_point)
    for (name, of), to, entries in itertools.product(CODE_DTYPES.items(), SHAPES[3:5], (3, 4)):
        for counts in parameters(to):
            inner = palette(rng, to, of, entries)
            form = quantized(rng, inner, F32, counts, zero_point=True)
            yield f"{name} {to} of palette {entries} scale {counts}", form


def scaled_floats(rng: np.random.Generator) -> Iterator[Case]:
    """Tables of floats, and floats of 8 bits, times a scale; and integers: in blocks whose last one is short, too."""
    for of, to in itertools.product(FLOATS, SHAPES[3:]):
        for counts, block in (*((counts, None) for counts in parameters(to)), *short_blocks(to)):
            scale = (np.abs(floats(rng, counts, F32)) + np.float32(0.01)).astype(of)
            label = f"{of} {to} scale {counts} block {block}"
            for entries in (5, 16):
                table = palette(rng, to, of, entries)
                yield f"scaled table of {entries} {label}", Quantized(table, scale, None, block)
            few = palette(rng, counts, of, 3)
            scales = replace(few, lut=np.abs(few.lut) + of.type(0.5))
            if math.prod(counts) > 1:
                yield f"scaled table, scales in a table {label}", Quantized(table, scales, None, block)
            stored = STORED_DTYPES["float8_e4m3fn"]
            narrow = NarrowArray(floats(rng, to, F32).astype(stored), of)
            exponents = NarrowArray(np.exp2(rng.integers(-3, 3, counts)).astype(STORED_DTYPES["float8_e8m0fnu"]), F32)
            yield f"scaled {stored} {label}", Quantized(Dense(narrow), exponents if of == F32 else scale, None, block)
    yield from rounded(rng)
    yield from floats_of_formats(rng)
    for (name, of), to in itertools.product(CODE_DTYPES.items(), SHAPES[3:]):
        for (counts, block), zero_point in itertools.product(short_blocks(to), (False, True)):
            data = Dense(codes(rng, to, of))
            scale = np.abs(floats(rng, counts, F32)) + np.float32(0.01)
            zero = codes(rng, counts, of) if zero_point else None
            form = Quantized(data, scale, zero, block)
            yield f"{name} {to} scale {counts} block {block} zero point {zero_point}", form


def rounded(rng: np.random.Generator) -> Iterator[Case]:
    """Float32 products that are rounded to 16 bits last."""
    for of, to in itertools.product((F16, BF16), SHAPES[3:]):
        for counts, block in (*((counts, None) for counts in parameters(to)), *short_blocks(to)):
            scale = np.abs(floats(rng, counts, F32)) + np.float32(0.01)
            label = f"{to} scale {counts} block {block} rounded to {of}"
            table = palette(rng, to, F32, 16)
            yield f"scaled table {label}", Quantized(table, scale, None, block, of)
            narrow = NarrowArray(scale.astype(of), F32)
            yield f"scaled table, scales in {of} {label}", Quantized(table, narrow, None, block, of)
            int4 = codes(rng, to, CODE_DTYPES["int4"])
            zero = codes(rng, counts, CODE_DTYPES["int4"])
            yield f"int4 {label}", Quantized(Dense(int4), scale, zero, block, of)


def floats_of_formats(rng: np.random.Generator) -> Iterator[Case]:
    """Floats of 4, 6 and 8 bits in the blocks of MXFP4, MXFP6, MXFP8 and NVFP4, and tables of their values."""
    to, powers = (4, 64), STORED_DTYPES["float8_e8m0fnu"]
    for of, kind in itertools.product((F32, BF16), (E2M1, E2M3, E4M3)):
        entries = table(kind)[np.isfinite(table(kind))]
        codes_ = rng.integers(0, len(entries), to).astype(np.uint8)
        data = Palettized(codes_, entries.astype(of).reshape(1, 1, -1, 1))
        exponents = np.exp2(rng.integers(-3, 3, (4, 2))).astype(powers)
        yield f"{kind} of {of} by 32, powers", Quantized(data, NarrowArray(exponents, of))
        yield f"{kind} of {of} by 32, powers of its own type", Quantized(data, exponents.astype(of))
        yield f"{kind} of {of} by 32", Quantized(data, np.abs(floats(rng, (4, 2), of)) + of.type(0.25))
        wide = replace(data, lut=data.lut.astype(F32))
        for divisor in (2.0**7, 2688.5):
            every = quotients(np.float32(divisor)).reshape(1, 1, -1, 1)
            scale = Palettized(rng.integers(1, 127, (4, 4)).astype(np.uint8), every)
            last = None if of == F32 else of
            yield f"{kind} of {of} by 16, two scales {divisor}", Quantized(wide, scale, None, None, last)
            yield f"{kind} of {of} by 16 {divisor}", Quantized(wide, np.asarray(scale), None, None, last)
            yield f"{kind} of {of} by 16, scales of {of} {divisor}", Quantized(data, np.asarray(scale).astype(of))
        if len(entries) > 64:
            table_ = (entries.astype(of) * of.type(0.75)).reshape(1, 1, -1, 1)
            yield f"palettized {of}, all {kind} times one scale", Palettized(codes_, table_)


def short_blocks(to: Shape) -> tuple[tuple[Shape, Shape], ...]:
    """How many blocks there are, and their lengths, where the last one of an axis is shorter."""
    found = []
    for axis, dim in enumerate(to):
        for size in (size for size in (2, 4, 16) if size < dim and dim % size):
            counts = tuple(-(-dim // size) if place == axis else other for place, other in enumerate(to))
            found.append((counts, tuple(size if place == axis else 1 for place in range(len(to)))))
            ones = tuple(-(-dim // size) if place == axis else 1 for place in range(len(to)))
            found.append((ones, tuple(size if place == axis else other for place, other in enumerate(to))))
    return tuple(dict.fromkeys(found))


def concatenations(rng: np.random.Generator) -> Iterator[Case]:
    """Parts of every kind beside one another, along every axis."""
    for to in SHAPES[3:]:
        bits = rng.random(to) < 0.3
        count = (int(np.count_nonzero(bits)),)
        parts = (
            Sparse(bits, Dense(floats(rng, count, F32)), to),
            palette(rng, to, F32, 5),
            quantized(rng, Dense(codes(rng, to, CODE_DTYPES["int4"])), F32, (1,) * len(to), zero_point=True),
            Dense(floats(rng, to, F32)),
            Dense(NarrowArray(floats(rng, to, F16), F32)),
            Quantized(palette(rng, to, F32, 16), np.abs(floats(rng, (to[0], *(1,) * (len(to) - 1)), F32))),
        )
        for axis, number in itertools.product(range(len(to)), (2, 3, 6)):
            yield f"{number} parts {to} along {axis}", Concatenated(parts[:number], axis)


def masks(rng: np.random.Generator) -> Iterator[tuple[str, tuple[NDArray, Shape]]]:
    """Element and block masks: random, full and empty ones; and places."""
    for to in SHAPES:
        yield f"{to} places", (np.flatnonzero(rng.random(to) < 0.2).astype(PLACES), to)
        for of, density in itertools.product(GAPS, (0.0, 0.04, 0.3, 1.0)):
            yield f"{to} gaps {of} {density}", (of_mask(rng.random(to) < density, of), to)
        for counts in dict.fromkeys((to, *parameters(to))):
            for density in (0.0, 0.3, 1.0) if counts == to else (0.4,):
                yield f"{to} mask {counts} {density}", (rng.random(counts) < density, to)


def under(rng: np.random.Generator, name: str, mask: tuple[NDArray, Shape]) -> Iterator[Case]:
    """Everything that can stand under a mask."""
    bits, to = mask
    if bits.dtype == np.bool_:
        count: Shape = (int(np.count_nonzero(bits)) * math.prod(to) // bits.size,)
    else:
        count = (np.count_nonzero(to_mask(bits, to)) if is_gaps(bits) else bits.size,)
    for of in FLOATS:
        yield f"sparse {of} {name}", Sparse(bits, Dense(floats(rng, count, of)), to)
    for stored in (F16, BF16):
        yield f"sparse {stored} for {F32} {name}", Sparse(bits, Dense(NarrowArray(floats(rng, count, stored), F32)), to)
    for entries, groups in ((5, None), (16, None), (3, list(parameters(to))[-1])):
        full = groups or (1,) * len(to)
        table = floats(rng, (*full, entries, 1), F32)
        indices = rng.integers(0, entries, count).astype(np.uint8)
        yield f"sparse {name} palettized {entries} groups {full}", Sparse(bits, Palettized(indices, table), to)
    for code in ("int8", "uint8", "int4"):
        for counts in (*parameters(to),) if code == "uint8" else ((1,) * len(to),):
            data = Dense(codes(rng, count, CODE_DTYPES[code]))
            form = quantized(rng, data, F32, counts, zero_point=code == "uint8")
            yield f"sparse {name} {code} scale {counts}", Sparse(bits, form, to)
    for counts, block in short_blocks(to):
        data = Dense(codes(rng, count, CODE_DTYPES["int8"]))
        form = replace(quantized(rng, data, F32, counts, zero_point=False), block=block)
        yield f"sparse {name} int8 scale {counts} block {block}", Sparse(bits, form, to)
    few = Palettized(rng.integers(0, 6, count).astype(np.uint8), floats(rng, (*(1,) * len(to), 6, 1), F32))
    by_row = (to[0], *(1,) * (len(to) - 1))
    scale = np.abs(floats(rng, by_row, F32))
    yield f"sparse {name} scaled table", Sparse(bits, Quantized(few, scale), to)
    yield f"sparse {name} scaled table rounded to {BF16}", Sparse(bits, Quantized(few, scale, rounded=BF16), to)
    if to[0] > 1:
        yield (
            f"sparse {name} scaled table, scales in a table",
            Sparse(bits, Quantized(few, palette(rng, by_row, F32, 3)), to),
        )
    lut = codes(rng, (*(1,) * len(to), 6, 1), CODE_DTYPES["int8"])
    inner = Palettized(rng.integers(0, 6, count).astype(np.uint8), lut)
    form = quantized(rng, inner, F32, (to[0], *(1,) * (len(to) - 1)), zero_point=True)
    yield f"sparse {name} int8 of palette", Sparse(bits, form, to)


def model(cases: Sequence[Case], opset: int) -> Model:
    """A model whose outputs are the weights, each read through a `Gather` that nothing can fold."""
    nodes, inputs, outputs, stubs, weights = [], [], [], [], []
    for name, encoding in cases:
        to, of = shape(encoding), dtype(encoding)
        stubs.append(TensorProto(name=name, data_type=DATA_TYPES[of.name], dims=to))
        inputs.append(helper.make_tensor_value_info(f"{name} rows", TensorProto.INT64, ["n"]))
        nodes.append(helper.make_node("Gather", [name, f"{name} rows"], [f"{name} out"], name=name))
        outputs.append(helper.make_tensor_value_info(f"{name} out", DATA_TYPES[of.name], ["n", *to[1:]]))
        weights.append(Weight(name, encoding, ("Gather",)))
    graph = helper.make_graph(nodes, "forms", inputs, outputs, stubs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(_without_stubs(proto))
    return Model(Path("forms.onnx"), weights, proto)


def _without_stubs(proto: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for stub in bare.graph.initializer:
        bare.graph.input.append(helper.make_tensor_value_info(stub.name, stub.data_type, stub.dims))
    del bare.graph.initializer[:]
    return bare


def outputs(path: Path, cases: Sequence[Case], optimized: Path) -> dict[str, NDArray]:
    """The weights as ONNX Runtime computes them; the graph that it runs is left in `optimized`."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = {f"{name} rows": np.arange(shape(encoding)[0]) for name, encoding in cases}
    feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in rows.items()}
    found = session.run_with_ort_values([f"{name} out" for name, _ in cases], feeds)
    return {name: elements(value, dtype(encoding)) for (name, encoding), value in zip(cases, found, strict=True)}


def elements(value: Any, of: DType) -> NDArray:
    """A copy of a value's elements; numpy has no bfloat16 that onnxruntime knows."""
    size = math.prod(value.shape()) * of.itemsize
    raw = bytes((ctypes.c_ubyte * size).from_address(value.data_ptr())) if size else b""
    return np.frombuffer(raw, of).reshape(value.shape())


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs in the graph of `path`."""
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def same(got: NDArray, expected: NDArray) -> bool:
    """Whether two arrays have the same bits, but for the sign of zero."""
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return False
    bits = np.dtype(f"u{expected.dtype.itemsize}")
    equal = np.ascontiguousarray(got).view(bits) == np.ascontiguousarray(expected).view(bits)
    with np.errstate(invalid="ignore"):
        return bool(np.all(equal | ((got == 0) & (expected == 0))))


Run = Callable[[Target, Sequence[Case], Path], Mapping[str, NDArray]]
"""Writes the cases as an artefact to a directory; their values as the target's runtime computes them."""


def wrong(target: Target, run: Run, cases: Sequence[Case], directory: Path) -> list[str]:
    """The cases that a target takes and that its runtime does not decode, or that are not read back as they were."""
    found = []
    for number, chunk in enumerate(_chunks(target, cases)):
        folder = directory / str(number)
        folder.mkdir()
        values = run(target, chunk, folder)
        found += [case for case, encoding in chunk if not same(values[case], decode(encoding))]
        found += [f"{case} read back" for case in _unlike(target.read(folder).weights, chunk)]
    return found


def _chunks(target: Target, cases: Sequence[Case]) -> Iterator[list[Case]]:
    legal, refused, others = [], [], []
    for name, encoding in cases:
        try:
            legal.append((name, target.legalize(encoding)))
        except Illegal as refusal:
            refused.append((name, refusal.reason))
            if refusal.instead is not None:
                legal.append((name, refusal.instead))
                others.append((encoding, refusal.instead))
    assert all(reason for _, reason in refused)
    assert all(same(decode(instead), decode(encoding)) for encoding, instead in others)
    return (legal[start : start + AT_ONCE] for start in range(0, len(legal), AT_ONCE))


def _unlike(weights: Sequence[Weight], chunk: Sequence[Case]) -> Iterator[str]:
    """The cases that are not read back as the encoding that was written."""
    found = {weight.name: weight.encoding for weight in weights}
    for case, encoding in chunk:
        one = found.get(case)
        if one is None or repr(spec(one)) != repr(spec(encoding)) or not _equal(one, encoding):
            yield case


def _equal(one: Encoding, other: Encoding) -> bool:
    pairs = zip(arrays(one), arrays(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in pairs)
