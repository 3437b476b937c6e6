"""Specs of encodings as JSON, and values of dataclasses that come from outside."""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, STORED_DTYPES, ArraySpec
from compressor.nodes import PLACES, Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, Whole

T = TypeVar("T")

_NODES: dict[str, type[Whole | Concatenated]] = {
    node.__name__: node for node in (Dense, Quantized, Palettized, Sparse, Concatenated)
}


def to_json(value: Any) -> Any:
    """A spec as JSON: a node is an object with its `node` name and fields, an array an object with dtype and shape.

    >>> to_json(Dense(ArraySpec((2, 3), np.dtype(np.float32))))
    {'node': 'Dense', 'values': {'dtype': 'float32', 'shape': [2, 3]}}
    """
    if isinstance(value, ArraySpec):
        narrow = {"stored": value.stored.name} if value.stored else {}
        return {"dtype": value.dtype.name, "shape": list(value.shape), **narrow}
    if isinstance(value, Encoding):
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"node": type(value).__name__, **fields}
    if isinstance(value, np.dtype):
        return value.name
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        KeyError, TypeError, ValueError: it is not what `to_json` gives.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "node" not in value:
        types = {key: _DTYPES[value[key]] for key in ("dtype", "stored") if key in value}
        return checked(ArraySpec, {"shape": tuple(value["shape"]), **types})
    fields = {key: from_json(field) for key, field in value.items() if key != "node"}
    if fields.get("rounded") is not None:
        fields["rounded"] = _DTYPES[fields["rounded"]]
    return checked(_NODES[value["node"]], fields)


_DTYPES = {**CODE_DTYPES, **FLOAT_DTYPES, **STORED_DTYPES, "bool": np.dtype(np.bool_), PLACES.name: PLACES}


def checked(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass of values that have the types of its fields.

    Raises:
        TypeError: one has another type.
    """
    for name, hint in get_type_hints(kind).items():
        if name in values and not _has_type(values[name], hint):
            raise TypeError(f"{kind.__name__}.{name}: {values[name]!r}")
    return kind(**values)


def _has_type(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(_has_type(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_has_type(item, parts[0]) for item in value)
    return isinstance(value, int | float if origin is float else origin) and not isinstance(value, bool)
