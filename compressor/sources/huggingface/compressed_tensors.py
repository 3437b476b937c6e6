"""compressed-tensors: codes and scales, bit masks, or both, layer by layer.

    pack-quantized     weight_packed int32 [out, in * bits / 32], weight_shape, weight_scale, weight_zero_point, ...
    int-quantized      weight int8 [out, in], weight_scale, weight_zero_point      (naive-quantized is the same)
    float-quantized    weight float8 [out, in], weight_scale
    mxfp8-quantized    the same, weight_scale uint8 [out, in / 32]: exponents of two
    mxfp4-pack-quantized, mxfp6-pack-quantized      weight_packed uint8 [out, in * bits / 8], weight_scale as there
    nvfp4-pack-quantized    weight_packed uint8 [out, in / 2], weight_scale float8 [out, in / 16], weight_global_scale
    sparse-bitmask     bitmask uint8 [out, in / 8], compressed [D], shape, row_offsets
    sparse-24-bitmask  bitmask uint8 [out, in / 8], compressed [out, in / 2], shape

Integer codes are signed; packed ones have 2 ** (bits - 1) added. What a layer is follows from its tensors, and must be
what a scheme of the settings says for it.

Source: the compressors of the compressed-tensors library, which are the reference of the layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.arrays import BFLOAT16, INT8, UINT8, Array, MappedArray, NDArray, bits, is_float
from compressor.encodings import Dense, Palettized
from compressor.errors import CompressorError
from compressor.formats import narrow_floats
from compressor.formats.narrow_floats import E4M3, E8M0, WIDTHS
from compressor.sources.huggingface import bitmask, floats
from compressor.sources.huggingface.checkpoint import Checkpoint
from compressor.sources.huggingface.layers import Layer, layers, report_unknown, unsupported
from compressor.sources.huggingface.layouts import (
    FLOAT8,
    aligned_words,
    code_dtype,
    computed,
    expect,
    unpack_aligned_rows,
    unpack_rows,
    words,
)
from compressor.sources.huggingface.parts import QuantizedParts, zero_points
from compressor.sources.huggingface.schemes import LayerScheme, schemes
from compressor.weight import Weight

INT32 = np.dtype(np.int32)
POWERS = (UINT8, E8M0)
"""Types of the exponents of scales."""
Layout = Callable[[int, int], int]
"""The words that so many codes of so many bits take."""
LAYOUTS: Sequence[Layout] = (words, aligned_words)
"""How codes lie in words: one behind the other, or, as the first versions had it, none in two words."""
CODES = ("weight", "weight_packed", "bitmask")
OTHERS = (
    "weight_scale weight_zero_point weight_shape weight_g_idx weight_global_scale compressed shape row_offsets "
    "scale_packed meta input_scale input_zero_point input_global_scale output_scale output_zero_point "
    "k_scale v_scale q_scale k_zero_point v_zero_point"
).split()
MADE_OF = frozenset({*CODES, "compressed", "scale_packed", "meta", "weight_scale", "weight_zero_point"})
KNOWN = frozenset(
    "quant_method version format config_groups ignore kv_cache_scheme global_compression_ratio quantization_status "
    "sparsity_config".split()
)


def read(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that are stored in this format.

    Raises:
        CompressorError: tensors contradict each other or the settings.
    """
    report_unknown(str(checkpoint.path), checkpoint.quantization, KNOWN)
    declared = schemes(checkpoint)
    for prefix, tensors in layers(checkpoint.tensors, (*CODES, *OTHERS)):
        packed = {"bitmask", "weight_packed"} & tensors.keys()
        described = tuple(prefix + name for name in tensors if not (packed and name == "weight"))
        if "bitmask" in tensors:
            made = _sparse(prefix, tensors, declared)
            yield Layer(described, (made,)) if made else _unsupported(prefix, tensors, "bit masks over this type")
        elif "weight_packed" in tensors:
            floats = tensors["weight_packed"].dtype == UINT8
            made = (_packed_floats if floats else _packed)(prefix, tensors, declared)
            yield Layer(described, (made,)) if made else _unsupported(prefix, tensors, "packed weights of this layout")
        elif "weight" in tensors and "weight_scale" in tensors:
            made = _scaled(prefix, tensors, declared)
            yield Layer(described, (made,)) if made else _unsupported(prefix, tensors, "scaled weights of this type")
        else:
            yield Layer(tuple(name for name in described if name != f"{prefix}weight"))


def _unsupported(prefix: str, tensors: Mapping[str, MappedArray], what: str) -> Layer:
    left = {name: tensor for name, tensor in tensors.items() if name in MADE_OF}
    layer = unsupported(prefix, left, f"{what} ({', '.join(f'{n} {t.dtype}' for n, t in left.items())})")
    return Layer(tuple(prefix + name for name in tensors), layer.weights)


def _packed(prefix: str, tensors: Mapping[str, MappedArray], declared: tuple[LayerScheme, ...]) -> Weight | None:
    packed, scale = tensors["weight_packed"], tensors.get("weight_scale")
    stated = tensors.get("weight_shape")
    if packed.dtype != INT32 or len(packed.shape) != 2 or stated is None or scale is None or not is_float(scale.dtype):
        return None
    shape = bitmask.stored_shape(f"{prefix}weight_shape", stated)
    if len(shape) != 2 or shape[0] != packed.shape[0]:
        raise CompressorError(
            f"{packed.path}: {prefix}weight_shape is {list(shape)}, weight_packed has {packed.shape[0]} rows."
        )
    scheme = _scheme(prefix, declared, shape, scale, packed.shape[1])
    fitting = _fitting(packed.shape[1], shape[1], scheme.bits)
    if not fitting:
        raise CompressorError(
            f"{packed.path}: {prefix}weight_packed has rows of {packed.shape[1]} words for {shape[1]} codes of "
            f"{scheme.bits or '?'} bits. Is config.json of another model?"
        )
    if len(fitting) > 1:
        return None
    (width, layout) = fitting[0]
    signed = partial(_codes, width, shape[1], layout)
    codes = computed(shape, code_dtype(width, signed=True), signed, packed, by_row=True)
    parts = QuantizedParts(
        f"{prefix}weight", packed.path, codes, scale, replace(scheme, bits=width), tensors.get("weight_g_idx")
    )
    made = parts.weight(_zero_points(prefix, tensors.get("weight_zero_point"), parts, layout))
    return replace(made, width=0 if width == bits(codes.dtype) else width)


def _packed_floats(prefix: str, tensors: Mapping[str, MappedArray], declared: tuple[LayerScheme, ...]) -> Weight | None:
    """Floats of 4 or 6 bits, in blocks of 32 with a power of two each, or of 16 with two scales."""
    packed, scale, whole = tensors["weight_packed"], tensors.get("weight_scale"), tensors.get("weight_global_scale")
    if scale is None or len(packed.shape) != 2 or len(scale.shape) != 2 or "weight_zero_point" in tensors:
        return None
    of_two = whole is None and scale.dtype in POWERS
    if not of_two and (whole is None or whole.size != 1 or not is_float(whole.dtype) or scale.dtype != E4M3):
        return None
    (rows, row), columns = packed.shape, scale.shape[1] * (32 if of_two else 16)
    fitting = [kind for kind, width in WIDTHS.items() if scale.shape[0] == rows and columns * width == row * 8]
    if not fitting:
        raise CompressorError(
            f"{packed.path}: {prefix}weight_packed is uint8{list(packed.shape)} with scales {scale.dtype}"
            f"{list(scale.shape)}: expected codes of 4 or 6 bits, and a scale for {32 if of_two else 16} of them. "
            "Save or download the folder again."
        )
    (kind,), shape = fitting, (rows, columns)
    scheme = _scheme(prefix, declared, shape, scale, None)
    if scheme.bits not in {0, WIDTHS[kind]}:
        raise CompressorError(
            f"{packed.path}: {prefix}weight_packed holds codes of {WIDTHS[kind]} bits: config_groups says {scheme}."
        )
    codes, values = floats.packed(packed, shape, kind), narrow_floats.table(kind)
    if of_two:
        return Weight(f"{prefix}weight", floats.scaled(codes, values, floats.powers(scale, scale.shape, BFLOAT16)))
    assert whole is not None, "without one, scales are powers of two"
    quotients = narrow_floats.quotients(np.asarray(whole)).reshape(1, 1, -1, 1)
    scales = Palettized(replace(scale, dtype=UINT8), quotients)
    # Its library multiplies in float32, and gives bfloat16 whatever the model computes in.
    return Weight(f"{prefix}weight", floats.scaled(codes, values, scales, rounded=BFLOAT16))


def _fitting(row: int, columns: int, bits: int) -> list[tuple[int, Layout]]:
    """The bits of a code and the layouts with which `columns` codes fill a `row` of so many words; several: unknown.

    bits: what the settings say; 0 where they say nothing.

    >>> [(width, layout.__name__) for width, layout in _fitting(4, 25, 5)]
    [(5, 'words')]
    >>> [(width, layout.__name__) for width, layout in _fitting(5, 25, 5)]
    [(5, 'aligned_words')]
    >>> len(_fitting(4, 24, 5))  # whether codes lie across words cannot be seen
    2
    >>> len(_fitting(1, 4, 0))  # nor how many bits they have
    8
    """
    widths = [bits] if bits else range(1, 9)
    found = [(width, layout) for width in widths for layout in LAYOUTS if layout(columns, width) == row and width <= 8]
    # In one word, or where whole codes fill a word, both layouts are the same.
    return [(width, layout) for width, layout in found if layout is words or not (row == 1 or 32 % width == 0)]


def _codes(width: int, count: int, layout: Layout, packed: NDArray) -> NDArray:
    """Rows of words as signed codes `[rows, count]`."""
    rows = unpack_rows if layout is words else unpack_aligned_rows
    code = code_dtype(width, signed=True)
    # Bytes wrap around, and an element of less than one has its upper bits clear.
    signed = rows(packed, width, count) - np.uint8(1 << width - 1)
    if bits(code) < 8:
        signed &= np.uint8((1 << bits(code)) - 1)
    return signed.view(code)


def _zero_points(prefix: str, stored: MappedArray | None, parts: QuantizedParts, layout: Layout) -> Array | None:
    """The zero points of packed codes: a matrix as the scales are, or packed along the outputs."""
    scale, scheme = parts.scale, parts.scheme
    code = code_dtype(scheme.bits, signed=True)
    if stored is None or stored.dtype != INT32 or tuple(stored.shape) == tuple(scale.shape):
        return zero_points(f"{prefix}weight_zero_point", stored, scale, code, scheme)
    rows, count = parts.shape[0], 1 if len(scale.shape) < 2 else scale.shape[1]
    expect(f"{prefix}weight_zero_point", stored, (layout(rows, scheme.bits), count), INT32)
    return computed((rows, count), code, partial(_by_output, scheme.bits, rows, layout), stored)


def _by_output(width: int, rows: int, layout: Layout, packed: NDArray) -> NDArray:
    return np.ascontiguousarray(_codes(width, rows, layout, packed.T).T)


def _scaled(prefix: str, tensors: Mapping[str, MappedArray], declared: tuple[LayerScheme, ...]) -> Weight | None:
    weight, scale = tensors["weight"], tensors["weight_scale"]
    if is_float(weight.dtype):  # still fake-quantized: the scale only says how
        return Weight(f"{prefix}weight", Dense(weight))
    if weight.dtype != INT8 and weight.dtype.name not in FLOAT8:
        return None
    of_two = scale.dtype in POWERS and weight.dtype != INT8
    if not (of_two or is_float(scale.dtype)) or "weight_global_scale" in tensors or not weight.shape:
        return None
    scheme = _scheme(prefix, declared, tuple(weight.shape), scale, None)
    stored = floats.powers(scale, scale.shape, BFLOAT16) if of_two else scale
    parts = QuantizedParts(f"{prefix}weight", weight.path, weight, stored, scheme, tensors.get("weight_g_idx"))
    zero_point = tensors.get("weight_zero_point")
    return parts.weight(zero_points(f"{prefix}weight_zero_point", zero_point, stored, weight.dtype, scheme))


def _sparse(prefix: str, tensors: Mapping[str, MappedArray], declared: tuple[LayerScheme, ...]) -> Weight | None:
    missing = {"compressed", "shape"} - tensors.keys()
    if missing:
        raise CompressorError(
            f"{tensors['bitmask'].path}: {prefix}bitmask without {', '.join(sorted(missing))}. "
            "Download the whole folder again."
        )
    found = bitmask.read(prefix, tensors["bitmask"], tensors["compressed"], tensors["shape"])
    scale = tensors.get("weight_scale")
    if scale is None:
        return Weight(f"{prefix}weight", found.sparse()) if is_float(found.values.dtype) else None
    if not is_float(scale.dtype) or not (found.values.dtype == INT8 or found.values.dtype.name in FLOAT8):
        return None
    scheme = _scheme(prefix, declared, found.shape, scale, None)
    parts = QuantizedParts(
        f"{prefix}weight", scale.path, found.dense(), scale, scheme, tensors.get("weight_g_idx"), found
    )
    stored = tensors.get("weight_zero_point")
    return parts.weight(zero_points(f"{prefix}weight_zero_point", stored, scale, found.values.dtype, scheme))


def _scheme(
    prefix: str, declared: tuple[LayerScheme, ...], shape: tuple[int, ...], scale: MappedArray, packed: int | None
) -> LayerScheme:
    """What the settings say of a layer, as far as its tensors agree.

    Raises:
        CompressorError: no scheme that is meant for the layer fits the tensors.
    """
    meant = [scheme for scheme in declared if scheme.names(prefix.removesuffix("."))]
    meant = meant or [scheme for scheme in declared if scheme.names_types()]
    fitting = [scheme for scheme in meant if scheme.fits(shape, tuple(scale.shape), packed)]
    if meant and not fitting:
        raise CompressorError(
            f"{scale.path}: {prefix}weight {list(shape)} with scales {scale.dtype}{list(scale.shape)}"
            f"{'' if packed is None else f' and rows of {packed} words'}: quantization_config.config_groups says "
            f"{' or '.join(map(str, meant))}. Is config.json of another model?"
        )
    return fitting[0] if fitting else LayerScheme()
