"""The formats that encodings express: what each is, and the bits that a weight takes on each target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from compressor import targets
from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, UINT4, UINT8, ArraySpec, DType, Shape
from compressor.encodings import PLACES, Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, nbytes
from compressor.errors import plural
from compressor.formats.narrow_floats import E4M3, E5M2, E8M0
from compressor.gaps import greatest
from compressor.targets import Illegal

from .markdown import WRITTEN, table

WHOLE = (4096, 4096)
"""The shape of the weight whose bits are told."""

TARGETS = ("onnx-opset18", "onnx-opset21", "onnx-opset25", "iOS17", "iOS18", "iOS26", "compressed-tensors")

_F32, _F16, _BF16 = (FLOAT_DTYPES[name] for name in ("float32", "float16", "bfloat16"))

INTRODUCTION = f"""\
# Formats

{WRITTEN}

Every compressed weight is an expression of five nodes ([design.md](design.md#the-one-idea)), so the formats of the
field are forms of it, and a target holds what it has operators for. The table has the bits of a float32 weight
`{list(WHOLE)}` with its scales and tables; files take a little more for what decodes it. Core ML rounds weights to
float16 unless `coreml.precision` says `float32`, and then dense ones take 16. `-`: the target cannot hold the form, or
it would take no less than the dense weight; the plan says why, and takes the next best one.

A format is kept where the source declares it ([sources.md](sources.md)), and found in plain floats where values say so
beyond doubt ([design.md](design.md#how-weights-are-recognised)).
"""


def page() -> str:
    """The whole text."""
    rows = [(name, f"`{told}`", f"{_bits(form):.3g}", *map(_on(form), TARGETS)) for name, told, form in forms()]
    header = ("format", "expression", "bits", *(f"`{name}`" for name in TARGETS))
    return "\n".join([INTRODUCTION, *table(header, rows), ""])


def forms() -> Iterator[tuple[str, str, Encoding]]:
    """Each format's name, its expression for a reader, and its spec."""
    count = WHOLE[0] * WHOLE[1]
    half = (count // 2,)
    yield "float32", "Dense", Dense(_array(WHOLE))
    yield "float16 for float32", "Dense, stored narrower", Dense(ArraySpec(WHOLE, _F32, _F16))
    yield "pruned, 50 % zeros", "Sparse(mask, Dense)", Sparse(_mask(WHOLE), Dense(_array(half)), WHOLE)
    blocks = _mask((WHOLE[0] // 4, WHOLE[1]))
    yield "pruned in blocks of 4, 50 %", "Sparse(mask of blocks, Dense)", Sparse(blocks, Dense(_array(half)), WHOLE)
    for zeros, dtype in ((0.75, UINT4), (0.9, UINT4), (0.99, UINT8)):
        yield f"pruned, {zeros:.0%} zeros".replace("%", " %"), "Sparse(distances, Dense)", _by_gaps(count, zeros, dtype)
    few = (count // 10_000,)
    places = Sparse(ArraySpec(few, PLACES), Dense(_array(few)), WHOLE)
    yield "pruned, 99.99 % zeros", "Sparse(places, Dense)", places
    for bits in (1, 2, 3, 4, 6, 8):
        yield f"palette, {plural(bits, 'bit')}", "Palettized", _palette(1 << bits)
    yield "palette of each 16 channels, 4 bits", "Palettized, tables by group", _palette(16, (WHOLE[0] // 16, 1))
    yield "palette with a scale a channel", "Quantized(Palettized, scale)", _scaled((WHOLE[0], 1))
    yield "pruned palette, 50 %, 4 bits", "Sparse(mask, Palettized)", Sparse(_mask(WHOLE), _palette(16, of=half), WHOLE)
    for name in ("int8", "int4", "int2"):
        yield f"{name} by channel", "Quantized(Dense, scale)", _codes(name, (WHOLE[0], 1))
    yield (
        "uint4 by channel, asymmetric",
        "Quantized(Dense, scale, zero point)",
        _codes("uint4", (WHOLE[0], 1), zero=True),
    )
    in_128, in_32, in_16 = ((WHOLE[0], WHOLE[1] // size) for size in (128, 32, 16))
    yield "int4 in groups of 128 (GPTQ, AWQ with a zero point)", "Quantized(Dense, scale)", _codes("int4", in_128)
    yield "int4 in groups of 32, float16 scales (GGUF Q4_0)", "Quantized(Dense, scale)", _codes("int4", in_32, _F16)
    yield "int8 in groups of 32, float16 scales (GGUF Q8_0)", "Quantized(Dense, scale)", _codes("int8", in_32, _F16)
    short = Quantized(Dense(ArraySpec(WHOLE, CODE_DTYPES["int4"])), _array((WHOLE[0], 41)), None, (1, 100))
    yield "int4 in groups of 100, the last one short", "Quantized(Dense, scale, block)", short
    sparse = Sparse(_mask(WHOLE), Quantized(Dense(ArraySpec(half, CODE_DTYPES["int8"])), _array((WHOLE[0], 1))), WHOLE)
    yield "pruned int8, 50 %", "Sparse(mask, Quantized)", sparse
    yield "a grid of 16 steps in codes of 8 bits", "Quantized(Palettized of codes, scale)", _table_of_codes()
    yield "FP8 E4M3 by channel", "Quantized(Dense of 8 bits, scale)", _floats(E4M3, (WHOLE[0], 1))
    yield "FP8 E5M2 by tensor", "Quantized(Dense of 8 bits, scale)", _floats(E5M2, (1, 1))
    yield "MXFP8 (blocks of 32)", "Quantized(Dense of 8 bits, scale of 8 bits)", _floats(E4M3, in_32, E8M0)
    yield "MXFP4 (blocks of 32)", "Quantized(Palettized, scale of 8 bits)", _scaled(in_32, E8M0)
    nvfp4 = Quantized(_palette(16), Palettized(ArraySpec(in_16, UINT8), _array((1, 1, 256, 1))))
    yield "NVFP4 (blocks of 16, two scales)", "Quantized(Palettized, Palettized scale)", nvfp4
    yield "NF4 (blocks of 64)", "Quantized(Palettized, scale)", _scaled((WHOLE[0], WHOLE[1] // 64))
    last = replace(_scaled((WHOLE[0], WHOLE[1] // 64), _BF16), rounded=_BF16)
    yield "NF4 in bfloat16 (blocks of 64)", "Quantized(Palettized, scale), rounded last", last
    thirds = Concatenated((_palette(16), _codes("int8", (1, 1)), Sparse(_mask(WHOLE), Dense(_array(half)), WHOLE)), 0)
    yield "three kinds in one tensor", "Concatenated(Palettized, Quantized, Sparse)", thirds


def _on(form: Encoding) -> Callable[[str], str]:
    """The cell of a target: the bits of the form as it holds it."""
    dense = nbytes(Dense(_array(WHOLE)))

    def cell(name: str) -> str:
        try:
            legal = targets.get(name).legalize(form)
        except Illegal as refusal:
            if refusal.instead is None:
                return "-"
            legal = refusal.instead
        return f"{_bits(legal):.3g}" if isinstance(form, Dense) or nbytes(legal) < dense else "-"

    return cell


def _bits(form: Encoding) -> float:
    parts = len(form.parts) if isinstance(form, Concatenated) else 1
    return nbytes(form) * 8 / (math.prod(WHOLE) * parts)


def _array(shape: Shape, stored: DType | None = None) -> ArraySpec:
    return ArraySpec(shape, _F32, stored)


def _by_gaps(count: int, zeros: float, dtype: DType) -> Sparse:
    """As many codes as distances take where chance has set values to zero."""
    kept, most = round(count * (1 - zeros)), greatest(dtype)
    codes = kept * (1 + zeros ** (most - 1) / (1 - zeros**most))
    return Sparse(ArraySpec((round(codes),), dtype), Dense(_array((kept,))), WHOLE)


def _mask(shape: Shape) -> ArraySpec:
    return ArraySpec(shape, np.dtype(np.bool_))


def _palette(entries: int, groups: Shape = (1, 1), of: Shape = WHOLE) -> Palettized:
    return Palettized(ArraySpec(of, UINT8), _array((*groups, entries, 1)))


def _scaled(scales: Shape, stored: DType | None = None) -> Quantized:
    return Quantized(_palette(16), _array(scales, stored))


def _floats(kind: DType, scales: Shape, stored: DType | None = None) -> Quantized:
    return Quantized(Dense(_array(WHOLE, kind)), _array(scales, stored))


def _codes(name: str, scales: Shape, stored: DType | None = None, *, zero: bool = False) -> Quantized:
    codes = CODE_DTYPES[name]
    return Quantized(Dense(ArraySpec(WHOLE, codes)), _array(scales, stored), ArraySpec(scales, codes) if zero else None)


def _table_of_codes() -> Quantized:
    codes = Palettized(ArraySpec(WHOLE, UINT8), ArraySpec((1, 1, 16, 1), CODE_DTYPES["int8"]))
    return Quantized(codes, _array((WHOLE[0], 1)))
