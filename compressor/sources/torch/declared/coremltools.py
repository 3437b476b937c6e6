"""What `coremltools.optimize.torch` declares: buffers `MODULE._COREML_/PARAMETER/KEY` beside the float weight.

    compression_type        int `[n]`: 1 pruned, 2 palettized, 3 quantized, in the order in which they were done
    lut                     float `[*groups, K, V]`, padded with zeros
    vector_axis             int: where the V values of an entry lie
    palettization_scale     float by block: what the table was multiplied by, channel by channel
    quantization_n_bits     int; of the table's entries where the weight is palettized too
    quantization_scale      float by block
    zero_point              whole numbers by block, of any dtype

Source: coremltools 9.0, optimize/torch/_utils/metadata_utils.py, and what its optimizers write.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from compressor.arrays import NDArray, is_float
from compressor.encodings import Dense, Encoding, Palettized, Quantized
from compressor.kernels import expand
from compressor.sources.torch.declared.claims import Claim, integer, numbers
from compressor.sources.torch.declared.recover import ContradictionError, by_block, grid, palette, scaled

PREFIX = "_COREML_/"
VERSION = 1
KEYS = (
    "compression_type lut vector_axis palettization_scale quantization_n_bits quantization_scale zero_point"
).split()
PRUNED, PALETTIZED, QUANTIZED = KINDS = (1, 2, 3)
_SPELLED = {PRUNED: "pruned", PALETTIZED: "palettized", QUANTIZED: "quantized"}


def claims(state: Mapping[str, Tensor]) -> Iterator[Claim]:
    """What the buffers in a state dict say about its weights, checked."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    versions = {str(VERSION)}
    for name, value in state.items():
        module, prefix, path = name.rpartition(PREFIX)
        if not prefix or (module and not module.endswith(".")):
            continue
        if path == "metadata_version":
            versions.add(_version(value))
        else:
            parameter, _, key = path.rpartition("/")
            found[f"{module}{parameter}"][key] = value
    for weight, buffers in found.items():
        yield _claim(weight, state.get(weight), buffers, versions - {str(VERSION)})


def _version(buffer: Tensor) -> str:
    try:
        return str(numbers(buffer).tolist())
    except ContradictionError as error:
        return str(error)


def _claim(weight: str, value: Tensor | None, buffers: Mapping[str, Tensor], versions: set[str]) -> Claim:
    if versions:
        known = f"only version {VERSION} is known"
        return Claim(weight, note=f"Core ML Tools' metadata has version {min(versions)}, {known}: ignored")
    if value is None:
        return Claim(weight, note="Core ML Tools declares it compressed, but there is no such weight: ignored")
    strange = ", ".join(key for key in buffers if key not in KEYS)
    unknown = f"Core ML Tools declares {strange}, which is not known: ignored" if strange else ""
    kinds: list[int] = []
    try:
        kinds = _kinds(buffers)
        encoding, note = _encoding(
            _floats(value), {key: numbers(buffers[key]) for key in KEYS if key in buffers}, kinds
        )
    except ContradictionError as error:
        spelled = " and ".join(_SPELLED[kind] for kind in kinds) or "compressed"
        encoding, note = None, f"Core ML Tools declares it {spelled}, which does not hold: {error}"
    return Claim(weight, encoding, "; ".join(filter(None, (note, unknown))))


def _kinds(buffers: Mapping[str, Tensor]) -> list[int]:
    if "compression_type" not in buffers:
        raise ContradictionError("there is no compression_type")
    kinds = numbers(buffers["compression_type"]).reshape(-1).tolist()
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise ContradictionError(f"compression_type is {kinds}, expected some of {list(KINDS)}")
    return kinds


def _encoding(values: NDArray, given: Mapping[str, NDArray], kinds: list[int]) -> tuple[Encoding | None, str]:
    """What the weight is stored as; None where that is plain enough to be seen in the values alone."""
    dense = "Core ML Tools declares it pruned, but it has no zeros" if PRUNED in kinds and values.all() else ""
    if PALETTIZED in kinds:
        found, note = _palettized(values, given, quantized=QUANTIZED in kinds)
        return found, "; ".join(filter(None, (dense, note)))
    if QUANTIZED in kinds:
        return grid(values, _needed(given, "quantization_scale"), given.get("zero_point"), _bits(given)), dense
    return None, dense


def _palettized(values: NDArray, given: Mapping[str, NDArray], *, quantized: bool) -> tuple[Encoding | None, str]:
    lut, factor = _needed(given, "lut"), given.get("palettization_scale")
    if lut.ndim != values.ndim + 2:
        raise ContradictionError(f"a lut {list(lut.shape)} for a weight {list(values.shape)}")
    if factor is not None and lut.shape[-1] > 1:
        raise ContradictionError("a table of vectors that a scale multiplies")
    tables = lut.astype(values.dtype)
    axis = integer("vector_axis", given["vector_axis"]) if "vector_axis" in given else None
    if factor is not None:  # a table of codes is one of values, too
        own = by_block("scale", factor, values.shape).astype(values.dtype)
        places = palette(values, scaled(tables, own, values.shape), axis)
        return Quantized(replace(places, lut=tables), own), ""
    found = palette(values, tables, axis)
    if quantized:
        codes = _quantized_table(lut, tables, given)
        if codes is None:
            return found, f"the scale of its table of codes does not fit {tables.dtype}: kept as values"
        return _over(found, codes), ""
    plain = found.lut.size == found.lut.shape[-2]
    return (None if plain else found), ""


def _quantized_table(lut: NDArray, tables: NDArray, given: Mapping[str, NDArray]) -> Quantized | None:
    """The table as codes; None where only a wider scale than the weight's own type gives back its values."""
    scale, width = _needed(given, "quantization_scale"), _bits(given)
    try:
        return grid(tables, scale, given.get("zero_point"), width)
    except ContradictionError:
        wide = expand(by_block("scale", scale, lut.shape), lut.shape)
        nearest = (np.rint(lut / wide) * wide).astype(lut.dtype)
        if wide.dtype.itemsize <= tables.dtype.itemsize or (nearest != lut).any():
            raise
        return None


def _over(found: Palettized, table: Quantized) -> Quantized:
    """Indices into a table of codes, whose scales by block of tables are those of the weight."""
    assert isinstance(table.data, Dense)
    counts, entry = table.scale.shape[:-2], table.scale.shape[-2:]
    if entry != (1, 1):
        raise ContradictionError(f"scales {list(table.scale.shape)} for the entries of a table")
    zero_point = None if table.zero_point is None else np.asarray(table.zero_point).reshape(counts)
    codes = replace(found, lut=table.data.values)
    return Quantized(codes, np.asarray(table.scale).reshape(counts), zero_point)


def _needed(given: Mapping[str, NDArray], key: str) -> NDArray:
    if key not in given:
        raise ContradictionError(f"there is no {key}")
    return given[key]


def _bits(given: Mapping[str, NDArray]) -> int:
    return integer("quantization_n_bits", _needed(given, "quantization_n_bits"))


def _floats(weight: Tensor) -> NDArray:
    values = numbers(weight)
    if not is_float(values.dtype):
        raise ContradictionError(f"it is {values.dtype}")
    return values
