"""Shapes, layouts, joins and pads: operators that move elements."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var, types
from coremltools.converters.mil.mil.types.symbolic import any_symbolic, is_symbolic

from compressor.arrays import NDArray
from compressor.formats.onnx.dtypes import DTYPES
from compressor.targets.coreml.mil.node import Constant, Node, Operators, Value
from compressor.targets.coreml.mil.values import (
    Dim,
    UnsupportedError,
    is_bool,
    is_float,
    like,
    reshape,
    shape,
    spelled_dtype,
    static,
)

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
_NUMPY_MODES: dict[str, Any] = {"constant": "edge", "reflect": "reflect", "edge": "edge"}
"""Where the elements of a padded axis come from; those of constant pads are then replaced."""


def targets(node: Node, number: int) -> list[Dim] | None:
    """The sizes that an operand holds, symbols where they are dynamic; None if nothing is known of them."""
    value = node.operand(number)
    found = value.array if isinstance(value, Constant) else value.sym_val if value is not None else None
    return None if found is None else [dim if is_symbolic(dim) else int(dim) for dim in np.asarray(found).reshape(-1)]


def _reshape(node: Node) -> Var:
    """By sizes where at most one is dynamic, or all that are lie along axes of the input; else by the operand."""
    x, name = node.var(0), node.output()
    dims, wanted = shape(x), targets(node, 1)
    if wanted is None:
        return mb.reshape(x=x, shape=_with_own(node, dims), name=name)
    if not node.attribute("allowzero", 0):
        wanted = [dims[place] if not is_symbolic(dim) and dim == 0 else dim for place, dim in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(dim for dim in wanted if is_symbolic(dim) or dim != -1)
        missing = math.prod(dims) / rest if is_symbolic(rest) or rest else 0
        wanted = [_whole(missing) if not is_symbolic(dim) and dim == -1 else dim for dim in wanted]
    new = sum(is_symbolic(dim) and dim not in dims for dim in wanted)
    if new > 1:
        return mb.reshape(x=x, shape=node.var(1), name=name)
    return reshape(x, wanted, name)


def _with_own(node: Node, dims: Sequence[Dim]) -> Var:
    """Sizes that are found at run time: a zero stands for the input's own."""
    wanted = node.var(1)
    count = static(shape(wanted), "the number of sizes")[0]
    if node.attribute("allowzero", 0):
        return wanted
    known = not any_symbolic(dims)
    own = np.array([*dims, *[1] * count][:count], np.int32) if known else None
    if own is None and count > len(dims):
        return wanted
    first = own if own is not None else mb.slice_by_index(x=mb.shape(x=node.var(0)), begin=[0], end=[count])
    return mb.select(cond=mb.equal(x=wanted, y=np.int32(0)), a=first, b=wanted)


def _whole(dim: Any) -> Dim:
    return dim if is_symbolic(dim) else int(dim)


def _flatten(node: Node) -> Var:
    x, axis = node.var(0), node.attribute("axis", 1)
    dims = shape(x)
    axis += x.rank if axis < 0 else 0
    if any_symbolic(dims[:axis]):
        return mb.reshape(x=x, shape=[-1, math.prod(static(dims[axis:], "the flattened axes"))], name=node.output())
    return mb.reshape(x=x, shape=[math.prod(dims[:axis]), -1], name=node.output())


def _transpose(node: Node) -> Var:
    x = node.var(0)
    perm = node.attribute("perm", list(range(x.rank))[::-1])
    return mb.transpose(x=x, perm=list(perm), name=node.output())


def _squeeze(node: Node) -> Var:
    return mb.squeeze(x=node.var(0), axes=node.integers(1, "axes"), name=node.output())


def _unsqueeze(node: Node) -> Var:
    x, axes = node.var(0), node.integers(1, "axes") or []
    rank = x.rank + len(axes)
    return mb.expand_dims(x=x, axes=sorted(axis % rank for axis in axes), name=node.output())


def _is_empty(value: Value) -> bool:
    sizes = value.array.shape if isinstance(value, Constant) else shape(value)
    return any(not is_symbolic(dim) and dim == 0 for dim in sizes)


def _concat(node: Node) -> Var:
    parts = [node.var(number) for number, value in enumerate(node.operands) if value is None or not _is_empty(value)]
    if len(parts) == 1:
        return mb.identity(x=parts[0], name=node.output())
    return mb.concat(values=parts, axis=node.attribute("axis"), name=node.output())


def _split(node: Node) -> list[Var | None]:
    x, axis, count = node.var(0), node.attribute("axis", 0), len(node.proto.output)
    sizes = node.integers(1, "split")
    if sizes is None:
        total = static([shape(x)[axis]], "an axis that is split into equal parts")[0]
        most = -(-total // count)
        sizes = [min(most, total - place * most) for place in range(count)]
    if count == 1:
        return [mb.identity(x=x, name=node.output())]
    found = mb.split(x=x, split_sizes=sizes, axis=axis)
    return [
        mb.identity(x=one, name=node.output(number)) if node.reads(number) else None for number, one in enumerate(found)
    ]


def _pad(node: Node) -> Var:
    """Negative pads are cut off first."""
    x, name, mode = node.var(0), node.output(), node.attribute("mode", "constant")
    if mode not in _PAD_MODES:
        raise UnsupportedError(f"mode {mode!r}")
    pads = node.constant(1, "pads").reshape(2, -1).astype(np.int64)
    axes = node.given(3, "axes")
    both = np.zeros((2, x.rank), np.int64)
    both[:, range(x.rank) if axes is None else axes.reshape(-1)] = pads
    if both.min(initial=0) < 0:
        begin, end = np.maximum(-both[0], 0), np.minimum(both[1], 0)
        x = mb.slice_by_index(x=x, begin=begin.tolist(), end=end.tolist(), end_mask=(end == 0).tolist())
        both = np.maximum(both, 0)
    if not both.any():
        return mb.identity(x=x, name=name)
    if not is_float(x):
        return _integers_padded(node, x, both, mode)
    first = int(np.flatnonzero(both.any(axis=0))[0])
    by_axis = both.T[first:].reshape(-1).tolist()
    value = node.known(2)
    if value is None and node.operand(2) is not None:  # a value that arrives when the model runs goes beside a frame
        inside = mb.cast(x=mb.pad(x=mb.fill_like(ref_tensor=x, value=like(x, 1)), pad=by_axis), dtype="bool")
        return mb.select(cond=inside, a=mb.pad(x=x, pad=by_axis), b=node.var(2), name=name)
    number = 0.0 if value is None or value.size == 0 else float(value.item())
    return mb.pad(x=x, pad=by_axis, mode=_PAD_MODES[mode], constant_val=like(x, number), name=name)


def _integers_padded(node: Node, x: Var, both: NDArray, mode: str) -> Var:
    """By taking elements along each axis: MIL pads floats alone, which do not hold every integer."""
    whole = mb.cast(x=x, dtype="int32") if is_bool(x) else x
    value: Any = None
    if mode == "constant":
        value = mb.cast(x=node.var(2), dtype="int32") if node.operand(2) is not None else np.int32(0)
    for axis in np.flatnonzero(both.any(axis=0)).tolist():
        count = static([shape(x)[axis]], "an axis of integers that is padded")[0]
        places = np.pad(np.arange(count, dtype=np.int32), both[:, axis], _NUMPY_MODES[mode])
        whole = mb.gather(x=whole, indices=places, axis=axis)
        if value is not None:
            kept = np.pad(np.ones(count, np.bool_), both[:, axis])
            kept = kept.reshape([-1 if place == axis else 1 for place in range(x.rank)])
            whole = mb.select(cond=kept, a=whole, b=value)
    return mb.cast(x=whole, dtype=spelled_dtype(x), name=node.output())


def _expand(node: Node) -> Var:
    return broadcast(node.var(0), targets(node, 1), node)


def broadcast(x: Var, wanted: Sequence[Dim] | None, node: Node) -> Var:
    """`x` repeated along axes of one element; by a product with ones where the sizes are dynamic."""
    name, dims = node.output(), shape(x)
    rank = max(x.rank, len(wanted)) if wanted is not None else x.rank
    if wanted is not None:
        dims = (1,) * (rank - len(dims)) + dims
        wanted = [1] * (rank - len(wanted)) + list(wanted)
        reps = [1 if target in {dim, 1} else target for dim, target in zip(dims, wanted, strict=True)]
        if not any_symbolic(reps):
            if all(rep == 1 for rep in reps):
                return reshape(x, dims, name) if x.rank < rank else mb.identity(x=x, name=name)
            return mb.tile(x=reshape(x, dims) if x.rank < rank else x, reps=reps, name=name)
    if is_bool(x):
        return mb.logical_and(x=x, y=mb.fill(shape=node.var(1), value=True), name=name)
    return mb.mul(x=x, y=mb.fill(shape=node.var(1), value=like(x, 1)), name=name)


def _tile(node: Node) -> Var:
    reps = node.known(1)
    given = node.var(1) if reps is None else reps.astype(np.int32)
    return mb.tile(x=node.var(0), reps=given, name=node.output())


def _shape(node: Node) -> Any:
    """A constant where all sizes that are asked for are known."""
    value = node.operand(0)
    x = node.var(0)
    dims = value.array.shape if isinstance(value, Constant) else shape(x)
    part = slice(node.attribute("start", 0), node.attribute("end"))
    if not any_symbolic(dims[part]):
        return Constant(np.array(dims[part], np.int64))
    begin, end, _ = part.indices(len(dims))
    if end - begin == len(dims):
        return mb.shape(x=x, name=node.output())
    places = np.arange(begin, end, dtype=np.int32)
    return mb.gather(x=mb.shape(x=x), indices=places, axis=0, name=node.output())


def _size(node: Node) -> Any:
    dims = shape(node.var(0))
    if not any_symbolic(dims):
        return Constant(np.array(math.prod(dims), np.int64))
    return mb.reduce_prod(x=mb.shape(x=node.var(0)), axes=[0], keep_dims=False, name=node.output())


def _constant_of_shape(node: Node) -> Var:
    given = node.attribute("value")
    value = np.float32(0) if given is None else node.scope.tensor(given).reshape(())
    kinds: dict[str, type[Any]] = {"f": np.float32, "b": np.bool_}
    kind = np.float16 if value.dtype == np.float16 else kinds.get(value.dtype.kind, np.int32)
    return mb.fill(shape=node.var(0), value=kind(value), name=node.output())


def _range(node: Node) -> Var:
    start, end, step = (node.var(number) for number in range(3))
    return mb.range_1d(start=start, end=end, step=step, name=node.output())


def _depth_to_space(node: Node) -> Var:
    """`CRD` is what torch calls pixel shuffle."""
    x, block = node.var(0), node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "CRD":
        return mb.pixel_shuffle(x=x, upscale_factor=block, name=node.output())
    return mb.depth_to_space(x=x, block_size=block, name=node.output())


def _space_to_depth(node: Node) -> Var:
    x, block = node.var(0), node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "CRD":
        return mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(block), name=node.output())
    return mb.space_to_depth(x=x, block_size=block, name=node.output())


def _eye_like(node: Node) -> Constant:
    """Ones on a diagonal of a matrix whose size is known."""
    rows, columns = static(shape(node.var(0)), "the size")
    kind = DTYPES.get(node.attribute("dtype", 0))
    if kind is None:
        kind = np.dtype(types.nptype_from_builtin(node.var(0).dtype))
    return Constant(np.eye(rows, columns, node.attribute("k", 0)).astype(kind))


def _trilu(node: Node) -> Var:
    """A band: everything on one side of a diagonal; what is left of the whole where the band does not hold it."""
    x, name = node.var(0), node.output()
    found = node.known(1) if node.operand(1) is not None else np.array(0)
    if found is None:
        raise UnsupportedError("the diagonal must be a constant")
    k, upper = int(found.item()), bool(node.attribute("upper", 1))
    if upper and k <= 0:
        return mb.band_part(x=x, lower=-k, upper=-1, name=name)
    if not upper and k >= 0:
        return mb.band_part(x=x, lower=-1, upper=k, name=name)
    rest = mb.band_part(x=x, lower=-1, upper=k - 1) if upper else mb.band_part(x=x, lower=-k - 1, upper=-1)
    return mb.logical_xor(x=x, y=rest, name=name) if is_bool(x) else mb.sub(x=x, y=rest, name=name)


OPERATORS: Operators = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
