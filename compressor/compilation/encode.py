"""The encode pass: a weight becomes the encoding that the plan chose, computed by the schemes that take part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from compressor.arrays import NDArray
from compressor.compilation.stream import InexactError, Pass
from compressor.encodings import Dense, Encoding, LinearQuantized, Palettized, Sparse, decode, name, nbytes
from compressor.encodings import spec as spec_of
from compressor.errors import DamageError
from compressor.kernels import select
from compressor.recognition.schemes import Scheme, Values, linear_quantize, palettize, sparsify
from compressor.weight import Weight


def encode(
    specs: Mapping[str, Encoding],
    thresholds: Mapping[str, float],
    max_errors: Mapping[str, float] = MappingProxyType({}),
) -> Pass:
    """The pass that gives each weight the encoding of its spec.

    thresholds: by name, the magnitude up to which values become zero.
    max_errors: by name, how far values may move to be what the spec says; 0.0 for a weight that has none.

    Raises (the pass):
        InexactError: a weight is not what its spec says.
    """
    # A proxy does not pickle, and a pool of processes may run the pass.
    return partial(_run, specs, thresholds, dict(max_errors))


def _run(
    specs: Mapping[str, Encoding], thresholds: Mapping[str, float], max_errors: Mapping[str, float], weight: Weight
) -> Weight:
    spec = specs[weight.name]
    try:
        source = weight.encoding
        if max_error := max_errors.get(weight.name, 0.0):
            source = Dense(_nearest(decode(source), spec, max_error))
        encoded = _encoded(source, spec, thresholds.get(weight.name, 0.0))
        if spec_of(encoded) != spec:
            raise ValueError(f"it takes {nbytes(encoded):,} bytes, {nbytes(spec):,} were planned")
    except DamageError:  # of the source
        raise
    except ValueError as error:
        raise InexactError(weight.name, spec, f"cannot be stored as {name(spec)}: {error}") from error
    return replace(weight, encoding=encoded)


def _encoded(source: Encoding, spec: Encoding, threshold: float) -> Encoding:
    """`source` in the form of `spec`; codes of a quantized source are kept, never computed again."""
    if spec_of(source) == spec:
        return source
    if isinstance(spec, Dense):
        return Dense(decode(source))
    if isinstance(source, LinearQuantized) and isinstance(spec, Sparse) and isinstance(spec.values, LinearQuantized):
        values = linear_quantize.centred(source)
    else:
        values = np.asarray(source.values) if isinstance(source, Dense) else decode(source)
    if isinstance(spec, Sparse):
        return sparsify.encode(values, spec, threshold, lambda all_, inner, where: _inner(source, all_, inner, where))
    return _inner(source, values, spec, None)


def _nearest(values: NDArray, spec: Encoding, max_error: float) -> NDArray:
    """The weight that the spec's scheme finds within `max_error`."""
    inner = spec.values if isinstance(spec, Sparse) else spec
    scheme: Scheme[Any] = palettize if isinstance(inner, Palettized) else linear_quantize
    near = scheme.nearest(values, max_error)
    if near is None:
        raise ValueError(f"no such values within {max_error:g}")
    return near


def _inner(source: Encoding, values: NDArray, spec: Values, where: NDArray | None) -> Values:
    if isinstance(source, LinearQuantized) and isinstance(spec, LinearQuantized):
        codes = decode(source.data)
        return LinearQuantized(_described(codes, spec.data, where), source.scale, source.zero_point)
    described: Values = _described(values, spec, where)
    return described


def _described(values: NDArray, spec: Values, where: NDArray | None) -> Any:
    match spec:
        case Dense():
            return Dense(values if where is None else select(values, where))
        case Palettized():
            return palettize.encode(values, spec, where)
        case LinearQuantized():
            return linear_quantize.encode(values, spec, where)
