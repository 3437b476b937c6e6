"""Codes recovered: a weight whose values lie on a grid, as the codes that it was trained with.

For a runtime that rounds weights, and would show no grid afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compressor import encodings
from compressor.arrays import ComputedArray, DType, NDArray, is_float
from compressor.encodings import Dense, Quantized
from compressor.patterns import eps
from compressor.recognition.find import described_by, skipped
from compressor.recognition.findings import Settings
from compressor.recognition.scan import scan
from compressor.recognition.schemes import Candidate, linear_quantize, palettize
from compressor.weight import Weight

_LITTLE = 1.01
"""A table that takes so much more than a scale is not worth rounding the scale."""


def recovered(weight: Weight, settings: Settings, precision: DType) -> Weight:
    """A dense weight that lies on a grid as its codes, exactly; any other as it is.

    precision: in which codes would be multiplied. A weight of a coarser type keeps its values: the products would lie
        beside them.
    """
    encoding = weight.encoding
    if not isinstance(encoding, Dense) or not is_float(encodings.dtype(encoding)) or skipped(weight, settings):
        return weight
    if eps(encodings.dtype(encoding)) > eps(precision):
        return weight
    values, failed = np.asarray(encoding.values), ""
    for sampled in (True, False):  # a sample tells most; where it has missed a value, all of them do
        grid = _grid(values, sampled=sampled)
        if grid is None:
            return weight
        try:
            return _as_codes(weight, encoding, values, grid)
        except ValueError as error:
            failed = f"kept as values: cannot be stored as {encodings.name(grid.spec)}: {error}"
    return replace(weight, note="; ".join(filter(None, (weight.note, failed))))


@dataclass(frozen=True, eq=False)
class _Codes:
    """The codes of values that lie on a grid, found anew: all of them together would fill the memory."""

    source: Dense
    spec: Quantized

    def __call__(self) -> NDArray:
        found = linear_quantize.encode(np.asarray(self.source.values), self.spec, None)
        return encodings.decode(found.data)


def _grid(values: NDArray, *, sampled: bool) -> Candidate | None:
    """The grid that a weight lies on, unless a palette, which rounds to itself, takes no more."""
    exact = described_by(values, scan(values, 0.0, sampled=sampled))
    grids = [one for one in exact if one.schemes == (linear_quantize.NAME,)]
    if not grids:
        return None
    grid = min(grids, key=lambda one: encodings.nbytes(one.spec))
    most = encodings.nbytes(grid.spec) * _LITTLE
    tables = (encodings.nbytes(one.spec) for one in exact if one.schemes == (palettize.NAME,))
    return None if any(table <= most for table in tables) else grid


def _as_codes(weight: Weight, source: Dense, values: NDArray, grid: Candidate) -> Weight:
    """A weight as its codes, which are computed whenever they are read.

    values: those of the source, which have been read once already.

    Raises:
        ValueError: it does not lie on the grid.
    """
    spec = grid.spec
    assert isinstance(spec, Quantized)
    found = linear_quantize.encode(values, spec, None)
    later = ComputedArray(encodings.shape(found), encodings.dtype(found.data), _Codes(source, spec))
    return replace(
        weight,
        encoding=replace(found, data=Dense(later)),
        evidence=grid.evidence,
        values=source.values,
    )
