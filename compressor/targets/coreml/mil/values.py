"""What is known of MIL variables while a program is built: values, sizes, types."""

# ruff: noqa: TID253 - imported where an ONNX graph becomes a MIL program, and nowhere else

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - the name that all its examples have
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.types.symbolic import any_symbolic, is_symbolic

from compressor.arrays import NDArray


class UnsupportedError(Exception):
    """Core ML has no form for a node; the message is the reason."""


Dim = Any
"""An int, or the symbol of a size that is known when the model runs."""

_INT32 = np.iinfo(np.int32)


def narrowed(array: NDArray, *, clip: bool = False) -> NDArray:
    """The array in a type that Core ML computes in: 32-bit integers, float16, float32, bool.

    clip: take the nearest integer of 32 bits for a larger one, which is the same to comparisons and bounds.

    Raises: UnsupportedError for strings and complex numbers, and for integers that 32 bits do not hold.
    """
    kind = array.dtype
    if kind in {np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int32), np.dtype(np.bool_)}:
        return array
    if kind.kind == "f" or kind == ml_dtypes.bfloat16:
        return array.astype(np.float32)
    if kind.kind not in "iu" and kind.name not in {"int4", "uint4", "int2", "uint2"}:
        raise UnsupportedError(f"values of type {kind}")
    if kind.itemsize >= 4:
        near = np.clip(array, max(np.iinfo(kind).min, _INT32.min), _INT32.max)
        if not clip and (near != array).any():
            raise UnsupportedError(f"the integer {array[near != array].flat[0]}, which 32 bits do not hold")
        array = near
    return array.astype(np.int32)


def inferred(x: Var) -> NDArray | None:
    """What MIL's own inference knows of the values of `x`; sizes among them are objects to it."""
    if x.val is None:
        return None
    found = np.asarray(x.val)
    return found.astype(np.int32) if found.dtype == np.object_ else found


def shape(x: Var) -> tuple[Dim, ...]:
    return tuple(dim if is_symbolic(dim) else int(dim) for dim in x.shape)


def static(dims: Sequence[Dim], what: str) -> list[int]:
    """The sizes, all of which must be known.

    Raises: UnsupportedError.
    """
    if any_symbolic(dims):
        raise UnsupportedError(f"{what} must not be dynamic, got {spell(dims)}")
    return [int(dim) for dim in dims]


def spell(dims: Sequence[Dim]) -> str:
    return f"[{', '.join('?' if is_symbolic(dim) else str(dim) for dim in dims)}]"


def is_float(x: Var) -> bool:
    return bool(types.is_float(x.dtype))


def is_bool(x: Var) -> bool:
    return bool(types.is_bool(x.dtype))


def like(x: Var, value: float) -> Any:
    """The number in the type of `x`."""
    return types.nptype_from_builtin(x.dtype)(value)


def spelled_dtype(x: Var) -> str:
    """The name of the type of `x` as `cast` takes it."""
    return str(types.builtin_to_string(x.dtype))


def integer(x: Var) -> Var:
    """`x`, or its int32 form if it is bool: few operators take bool."""
    return mb.cast(x=x, dtype="int32") if is_bool(x) else x


def size(x: Var, axis: int) -> Any:
    """One size of `x`, `[1]` int32: a constant where it is known."""
    dim = shape(x)[axis]
    if not is_symbolic(dim):
        return np.array([dim], np.int32)
    return mb.gather(x=mb.shape(x=x), indices=np.array([axis % x.rank], np.int32), axis=0)


def broadcast_shape(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape that values of these shapes have together; a size that is known wins over one that is not."""
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(each)) + tuple(each) for each in shapes]
    return tuple(
        next((dim for dim in sorted(dims, key=is_symbolic) if is_symbolic(dim) or dim != 1), 1)
        for dims in zip(*aligned, strict=True)
    )


def reshape(x: Var, dims: Sequence[Dim], name: str | None = None) -> Var:
    """`x` in a shape whose symbols are those of axes that it has; one may be new, which follows from the others."""
    named = {} if name is None else {"name": name}
    if sum(map(is_symbolic, dims)) <= 1:
        return mb.reshape(x=x, shape=[-1 if is_symbolic(dim) else int(dim) for dim in dims], **named)
    own = list(x.shape)
    parts = [
        size(x, own.index(dim)) if dim in own else np.array([-1 if is_symbolic(dim) else dim], np.int32) for dim in dims
    ]
    return mb.reshape(x=x, shape=mb.concat(values=parts, axis=0), **named)
