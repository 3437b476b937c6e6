"""Quantization grids: weights that are whole multiples of a scale, as fake-quantized training leaves them.

The scale is recovered from the values: it is the largest one of which every value of a block is an exact multiple after
one rounding, `fl(k * scale) == w`. A block whose multiples do not fit the code type rules the grid out, so values that
merely look regular are never taken for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from compressor import encodings
from compressor.arrays import CODE_DTYPES, ArraySpec, DType, NDArray, bits, is_float
from compressor.encodings import Dense, Palettized, Quantized, Sparse
from compressor.kernels import expand, select
from compressor.recognition import granularity, grids, noisy_grids
from compressor.recognition.granularity import Granularity
from compressor.recognition.grids import Grid
from compressor.recognition.rows import codes as multiples_of
from compressor.recognition.scan import Scan
from compressor.recognition.schemes import Candidate, scales

NAME = "linear_quantize"

_SAMPLED = 8
"""Parts of a large weight that stand for it until all of it is compared."""


def detect(values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:  # noqa: ARG001 - a probe costs less
    """The coarsest granularity at which the weight lies on a grid of at most 256 steps: tensor, channel, block.

    Where the scan was of a sample, some blocks all over a large weight stand for all of them.
    """
    if not is_float(values.dtype):
        return
    if scan.table is not None and (grid := grids.find(scan.table.entries[None, :])) is not None:
        yield _candidate(values, granularity.per_tensor(values.shape), [grid])
        return
    for finer in granularity.chains(values.shape):
        if not finer or grids.find(finer[-1].probe(values)) is None:
            continue
        for each in finer:
            if grids.find(each.probe(values)) is None:
                continue
            if (found := _on_grid(values, each, sampled=scan.sampled)) is not None:
                longer = granularity.longer(each, values, lambda rows: grids.find(rows) is not None)
                yield (longer and _on_grid(values, longer, sampled=scan.sampled)) or found
                return


def nearest(values: NDArray, tolerance: float, rounding: float = 0.0) -> NDArray | None:
    """The weight on a grid, the coarsest granularity first, from which no value is farther than `tolerance`.

    rounding: added to the tolerance, relative to the largest magnitude of a channel; blocks, of which short ones are
        near some grid, are not looked for then.
    """
    if not is_float(values.dtype):
        return None
    for finer in ([granularity.per_tensor(values.shape)], *granularity.chains(values.shape)):
        looked_for = finer[: 1 if rounding else None]
        if not looked_for or not _probably_near(looked_for[-1].probe(values), tolerance, rounding):
            continue
        for each in looked_for:
            if (found := _nearest(values, each, tolerance, rounding)) is not None:
                return found
    return None


def encode(values: NDArray, spec: Quantized, where: NDArray | None) -> Quantized:
    """The multiples of each block's scale, as codes of the spec's dtype; a zero point makes the least one 0.

    Raises:
        ValueError: the values lie on no such grid, or have more codes than the dtype.
    """
    counts, dtype = spec.scale.shape, encodings.dtype(spec.data)
    lengths = spec.block or tuple(dim // count for dim, count in zip(values.shape, counts, strict=True))
    cut = Granularity(values.shape, lengths)
    # 2- and 4-bit codes take a byte each in memory, and numpy converts bytes faster than ml_dtypes does.
    signed = dtype.name.startswith("int")
    fewest, most = (-(1 << bits(dtype) - 1), (1 << bits(dtype) - 1) - 1) if signed else (0, (1 << bits(dtype)) - 1)
    codes = np.empty(values.shape, np.int8 if signed else np.uint8)
    scale, least = np.empty(counts, values.dtype), np.zeros(counts, np.int16)
    for part in cut.parts():
        rows = part.rows(values)
        grid = grids.find(rows)
        if grid is None:
            raise ValueError(f"values on a grid of {list(counts)} scales for {list(values.shape)}")
        scale[part.blocks] = grid.scale.reshape(part.counts)
        low = grid.low if spec.zero_point is not None else np.zeros_like(grid.low)
        if (grid.low - low).min() < fewest or (grid.high - low).max() > most:
            raise ValueError(f"codes of {dtype.name}")
        least[part.blocks] = low.reshape(part.counts)
        part.put(codes.view(np.uint8), multiples_of(rows, grid.scale, low))
    chosen = codes if where is None else select(codes, where)
    if isinstance(spec.data, Palettized):
        data: Dense | Palettized = _counted(chosen, spec.data)
    else:
        data = Dense(chosen.astype(dtype, copy=False))
    zero_point = None if spec.zero_point is None else (-least).astype(dtype)
    return Quantized(data, scales.encode(scale, spec.scale), zero_point, spec.block)


def in_fewer_bits(candidate: Candidate) -> Candidate | None:
    """The same codes as places in the table of all that so few bits have; None where their type has no more.

    `Palettized` is how an encoding says how many bits; a target that has such codes needs no table of them.
    """
    whole = candidate.spec
    inner = whole.values if isinstance(whole, Sparse) else whole
    if not candidate.width or not isinstance(inner, Quantized):
        return None
    data = encodings.counted(inner.data, candidate.width, len(inner.scale.shape))
    spec = replace(whole, values=replace(inner, data=data)) if isinstance(whole, Sparse) else replace(inner, data=data)
    return replace(candidate, spec=spec, evidence=f"{candidate.evidence}, {candidate.width} bits")


def _counted(codes: NDArray, spec: Palettized) -> Palettized:
    """Codes as places in the table of all that take so many bits, the least one first."""
    count = spec.lut.shape[-2]
    least = 0 if spec.lut.dtype.name.startswith("uint") else -(count // 2)
    places = (codes - np.array(least, codes.dtype)).view(np.uint8)
    if places.size and int(places.max()) >= count:
        raise ValueError(f"codes of {encodings.index_bits(spec.lut)} bits")
    table = np.arange(least, least + count).astype(spec.lut.dtype).reshape(spec.lut.shape)
    return Palettized(places, table)


def centred(encoding: Quantized) -> NDArray:
    """The codes less their zero points, int16: a code is zero where its value is, whatever the scale makes of it."""
    codes = encodings.decode(encoding.data).astype(np.int16)
    if encoding.zero_point is not None:
        codes -= expand(np.asarray(encoding.zero_point), codes.shape, encoding.block).astype(np.int16)
    return codes


def _candidate(values: NDArray, cut: Granularity, found: Sequence[Grid]) -> Candidate:
    code, symmetric, width = _code_dtype(found)
    zero_point = None if symmetric else ArraySpec(cut.counts, code)
    scale = scales.spec(np.concatenate([grid.scale for grid in found]), cut.counts)
    spec = Quantized(Dense(ArraySpec(values.shape, code)), scale, zero_point, cut.block)
    return Candidate((NAME,), spec, f"{code} grid {cut.name}", width=width if width < bits(code) else 0)


def _code_dtype(found: Sequence[Grid]) -> tuple[DType, bool, int]:
    """The narrowest code type that holds the multiples, whether its zero point is 0, and the bits that are needed."""
    low = min(int(grid.low.min(initial=0)) for grid in found)
    high = max(int(grid.high.max(initial=0)) for grid in found)
    span = max(int((grid.high - grid.low).max(initial=0)) for grid in found)
    symmetric = max(1, high.bit_length() + 1, (-low - 1).bit_length() + 1 if low < 0 else 1)
    for width in (2, 4, 8):
        if symmetric <= width:
            return CODE_DTYPES[f"int{width}"], True, symmetric
        if span < 1 << width:
            return CODE_DTYPES[f"uint{width}"], bool(low >= 0), max(1, span.bit_length())
    raise AssertionError(f"a span of {span} passed the limit of {grids.SPAN}")


def _on_grid(values: NDArray, cut: Granularity, *, sampled: bool) -> Candidate | None:
    """The form of a weight each of whose blocks has a grid; None where one has none.

    How many distinct scales there are, where they are few, is told by all blocks alone.
    """
    if (found := _grids(values, cut, sampled=sampled)) is None:
        return None
    made = _candidate(values, cut, found)
    if sampled and isinstance(made.spec, Quantized) and isinstance(made.spec.scale, Palettized):
        return _on_grid(values, cut, sampled=False)
    return made


def _grids(values: NDArray, cut: Granularity, *, sampled: bool) -> list[Grid] | None:
    """The grids of all blocks, or None where one has none. sampled: of some, the first and the last ones among them."""
    found, parts = [], [*cut.parts()]
    for part in parts[:: max(1, len(parts) // _SAMPLED)] + parts[-1:] if sampled else parts:
        if (grid := grids.find(part.rows(values))) is None:
            return None
        found.append(grid)
    return found


def _nearest(values: NDArray, cut: Granularity, tolerance: float, rounding: float) -> NDArray | None:
    """The weight on a grid of such blocks, if there is one that is near enough."""
    if not _probably_near(cut.probe(values), tolerance, rounding):
        return None
    moved = np.empty_like(values)
    for part in cut.parts():
        rows = part.rows(values)
        scale = noisy_grids.near(rows, tolerance, rounding)
        if scale is None:
            return None
        part.put(moved, grids.moved(rows, scale))
    return moved


def _probably_near(rows: NDArray, tolerance: float, rounding: float) -> bool:
    """Whether each of some rows has a scale, looked for one by one: the first has none in most weights.

    A scale that is fitted to a part of a row lies up to three times as far from it as that of the whole row does.
    """
    return all(noisy_grids.near(row[None, :], tolerance, rounding, 3.0) is not None for row in rows)
