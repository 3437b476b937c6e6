"""What Core ML Tools decodes the weights to of packages whose source `onnx_runs.save` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.formats.coreml import package
from compressor.patterns import eps
from tests.formats.coreml import models as coreml_models

_EPS = 2.0**-10
"""A code's value is off by as much, relatively, where its scale was rounded to float16 and the product is."""

_LEAST = 2.0**-24
"""The least magnitude of float16."""


def values(path: Path, weights: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Every weight as Core ML Tools computes it from its constant operations."""
    from coremltools.converters.mil.frontend.milproto.load import load

    found = package.read(path)
    program = load(found.model, found.model.specificationVersion, str((path / package.WEIGHTS).parent))
    outputs = program.functions["main"].outputs
    return {name: _read(output) for name, output in zip(weights, outputs, strict=True)}


def _read(output: Any) -> NDArray:
    """The constant of which an output shows rows."""
    while output.op.op_type != "gather":
        output = output.op.inputs["x"]
    return np.asarray(coreml_models.value(output.op.inputs["x"]))


def differ(source: NDArray, got: NDArray, *, codes: bool, tool: bool, signed: bool) -> str:
    """How a weight of a package is not the source's at its precision; empty if it is.

    codes: whether it is stored as codes, whose scale was rounded to float16.
    tool: whether Core ML Tools rounded it, which keeps every value from becoming zero.
    signed: whether -0.0 is told from 0.0.
    """
    if got.shape != source.shape:
        return f"{got.shape}"
    with np.errstate(over="ignore", invalid="ignore"):
        exact = source.astype(np.float64)
        expected = source.astype(np.float32).astype(got.dtype).astype(np.float64)
        have = got.astype(np.float64)
        same = (have == expected) | (np.isnan(have) & np.isnan(expected))
        if codes:  # what the source's type lost of a product is not lost here
            lost = min(eps(source.dtype), eps(np.dtype(np.float16))) / 2
            same |= np.abs(have - exact) <= (_EPS + lost) * np.abs(exact) + _LEAST
        if tool:
            same |= (np.abs(exact) < _LEAST) & (np.abs(have) == _LEAST)
        if signed:
            same &= (np.signbit(have) == np.signbit(expected)) | np.isnan(expected)
    if not same.all():
        place = tuple(np.argwhere(~same)[0].tolist())
        return f"{np.count_nonzero(~same)} values, {got[place]!r} for {source[place]!r} at {place}"
    return ""
