"""Slices, gathers and scatters."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import any_symbolic, is_symbolic

from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, integer, is_bool, is_float, shape, size, static

_FAR = 2**31 - 1
_SCATTER_MODES = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def _slice(node: Node) -> Var:
    x, name = node.var(0), node.output()
    starts, ends = node.known(1), node.known(2)
    count = len(starts) if starts is not None else int(shape(node.var(1))[0])
    axes = [axis % x.rank for axis in node.integers(3, "axes") or range(count)]
    steps = node.integers(4, "steps") or [1] * count
    if starts is None or ends is None:
        return _dynamic_slice(node, x, axes, steps)
    begin, end, stride = [0] * x.rank, [0] * x.rank, [1] * x.rank
    begin_mask, end_mask = [True] * x.rank, [True] * x.rank
    for axis, start, stop, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        first, last = _bounds(start, stop, step, shape(x)[axis])
        begin[axis], end[axis], stride[axis] = first or 0, last or 0, step
        begin_mask[axis], end_mask[axis] = first is None, last is None
    return mb.slice_by_index(
        x=x, begin=begin, end=end, stride=stride, begin_mask=begin_mask, end_mask=end_mask, name=name
    )


def _bounds(start: int, stop: int, step: int, dim: Dim) -> tuple[int | None, int | None]:
    """The first index, and the one after the last; None for the end of the axis."""
    if not is_symbolic(dim):
        first, last, _ = slice(start, stop, step).indices(dim)
        if len(range(first, last, step)) == 0:
            raise UnsupportedError(f"an empty slice {start}:{stop}:{step} of {dim} elements")
        return (None if first == 0 and step > 0 else first), (None if last < 0 or (last == dim and step > 0) else last)
    if step < 0:
        return (None if start >= _FAR or start == -1 else start), (None if stop <= -_FAR else stop)
    return (None if start == 0 or start <= -_FAR else start), (None if stop >= _FAR else stop)


def _dynamic_slice(node: Node, x: Var, axes: list[int], steps: list[int]) -> Var:
    """Bounds that are known when the model runs; whole axes are masked."""
    given: dict[str, Any] = {}
    known = [node.known(1), node.known(2)]
    for key, number, values in (("begin", 1, known[0]), ("end", 2, known[1])):
        parts = []
        for axis in range(x.rank):
            if axis not in axes:
                parts.append(np.zeros(1, np.int32))
            elif values is not None:
                parts.append(np.clip(values[axes.index(axis) : axes.index(axis) + 1], -_FAR, _FAR).astype(np.int32))
            else:
                parts.append(mb.gather(x=node.var(number), indices=np.array([axes.index(axis)], np.int32), axis=0))
        given[key] = mb.concat(values=parts, axis=0) if len(parts) > 1 else parts[0]
    last = known[1]
    far = set() if last is None else {axis for axis, end in zip(axes, last.tolist(), strict=True) if end >= _FAR}
    ends = [axis not in axes or axis in far for axis in range(x.rank)]
    stride = [steps[axes.index(axis)] if axis in axes else 1 for axis in range(x.rank)]
    begins = [axis not in axes for axis in range(x.rank)]
    return mb.slice_by_index(x=x, **given, stride=stride, begin_mask=begins, end_mask=ends, name=node.output())


def positive(node: Node, number: int, x: Var, axis: int) -> Any:
    """Indices counted from the start: MIL takes no negative ones from iOS17 on."""
    known, dim = node.known(number), shape(x)[axis]
    if known is not None and known.dtype.kind in "iu":
        if (known >= 0).all():
            return known.astype(np.int32)
        if not is_symbolic(dim):
            return np.where(known < 0, known + dim, known).astype(np.int32)
    indices = node.var(number)
    if _never_negative(indices):
        return indices
    count = np.int32(dim) if not is_symbolic(dim) else mb.squeeze(x=size(x, axis), axes=[0])
    return mb.select(cond=mb.less(x=indices, y=0), a=mb.add(x=indices, y=count), b=indices)


def _never_negative(indices: Var) -> bool:
    return indices.op is not None and indices.op.op_type in {
        "reduce_argmax",
        "reduce_argmin",
        "topk",
        "non_zero",
        "shape",
    }


def _moved(move: Callable[..., Var], x: Var, name: str, **others: Any) -> Var:
    """What an operator that moves elements makes of `x`, also where it is bool, which no such operator takes."""
    if not is_bool(x):
        return move(x=x, name=name, **others)
    return mb.cast(x=move(x=mb.cast(x=x, dtype="int32"), **others), dtype="bool", name=name)


def _gather(node: Node) -> Var:
    """An embedding, a constant matrix that is read by rows, takes its indices as they are: none counts from the end."""
    x, axis, name = node.var(0), node.attribute("axis", 0), node.output()
    table = node.known(0) is not None and axis == 0 and x.rank == 2 and node.known(1) is None
    known = node.known(1)
    if known is not None and known.ndim == 0 and x.rank > 1 and not is_symbolic(shape(x)[axis]):
        place, at = int(known) % shape(x)[axis], axis % x.rank
        here = [number == at for number in range(x.rank)]
        others = [not one for one in here]
        begin = [place if one else 0 for one in here]
        end = [place + 1 if one else 0 for one in here]
        return mb.slice_by_index(
            x=x, begin=begin, end=end, begin_mask=others, end_mask=others, squeeze_mask=here, name=name
        )
    indices = node.var(1) if table else positive(node, 1, x, axis)
    return _moved(mb.gather, x, name, indices=indices, axis=axis)


def _gather_elements(node: Node) -> Var:
    x, axis = node.var(0), node.attribute("axis", 0)
    return _moved(mb.gather_along_axis, x, node.output(), indices=positive(node, 1, x, axis), axis=axis)


def _gather_nd(node: Node) -> Var:
    batch = node.attribute("batch_dims", 0)
    indices = _positive_tuples(node, 1, node.var(0), batch)
    return _moved(mb.gather_nd, node.var(0), node.output(), indices=indices, batch_dims=batch)


def _positive_tuples(node: Node, number: int, x: Var, batch: int = 0) -> Any:
    """Tuples of indices `[..., axes of x behind the batch]`, counted from the start."""
    known, indices = node.known(number), node.var(number)
    if (known is not None and (known >= 0).all()) or _never_negative(indices):
        return indices
    counted = static(shape(indices)[-1:], "the length of the indices")[0]
    dims = shape(x)[batch : batch + counted]
    if known is not None and not any_symbolic(dims):
        return np.where(known < 0, known + np.array(dims), known).astype(np.int32)
    sizes = [size(x, axis) for axis in range(batch, batch + counted)]
    counts = mb.concat(values=sizes, axis=0) if any_symbolic(dims) else np.concatenate(sizes)
    return mb.select(cond=mb.less(x=indices, y=0), a=mb.add(x=indices, y=counts), b=indices)


def _scatter_elements(node: Node) -> Var:
    x, axis = node.var(0), node.attribute("axis", 0)
    return _scattered(mb.scatter_along_axis, node, node.var(2), positive(node, 1, x, axis), _mode(node), axis=axis)


def _scatter_nd(node: Node) -> Var:
    return _scattered(mb.scatter_nd, node, node.var(2), _positive_tuples(node, 1, node.var(0)), _mode(node))


def _tensor_scatter(node: Node) -> Var:
    """A part of a cache is written along an axis, in each batch from another place on; it may go on at the start."""
    cache, update, mode = node.var(0), node.var(1), node.attribute("mode", "linear")
    if mode not in {"linear", "circular"}:
        raise UnsupportedError(f"mode {mode!r}")
    axis, dims = node.attribute("axis", -2) % cache.rank, static(shape(update), "what is written into a cache")
    steps = np.arange(dims[axis], dtype=np.int32).reshape([-1 if at == axis else 1 for at in range(cache.rank)])
    places: Any = np.broadcast_to(steps, dims)
    if node.operand(2) is not None:
        first = mb.reshape(x=node.var(2), shape=[dims[0], *[1] * (cache.rank - 1)])
        places = mb.add(x=np.array(places), y=first)
    if mode == "circular":
        places = mb.mod(x=places, y=size(cache, axis))
    return _scattered(mb.scatter_along_axis, node, update, places, "update", axis=axis)


def _scattered(scatter: Callable[..., Var], node: Node, updates: Var, indices: Any, mode: str, **others: Any) -> Var:
    x = node.var(0)
    others |= {"indices": indices, "mode": mode}
    if not is_bool(x):
        return scatter(data=x, updates=updates, name=node.output(), **others)
    found = scatter(data=integer(x), updates=integer(updates), **others)
    return mb.cast(x=found, dtype="bool", name=node.output())


def _mode(node: Node) -> str:
    return _SCATTER_MODES[node.attribute("reduction", "none")]


def _one_hot(node: Node) -> Var:
    indices, name = node.var(0), node.output()
    depth = int(node.constant(1, "the depth").reshape(-1)[0])
    off, on = node.constant(2, "the values").reshape(-1)
    kind = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}[off.dtype.kind]
    whole = mb.cast(x=indices, dtype="int32") if is_float(indices) else indices
    shifted = mb.select(cond=mb.less(x=whole, y=0), a=mb.add(x=whole, y=depth), b=whole)
    return mb.one_hot(
        indices=shifted, one_hot_vector_size=depth, axis=node.attribute("axis", -1), on_value=kind(on),
        off_value=kind(off), name=name,
    )  # fmt: skip


def _non_zero(node: Node) -> Var:
    return mb.transpose(x=mb.non_zero(x=node.var(0)), perm=[1, 0], name=node.output())


def _compress(node: Node) -> Var:
    """What lies at the places where the condition is set, along an axis or of all elements."""
    x, axis = node.var(0), node.attribute("axis")
    if axis is None:
        x = mb.reshape(x=x, shape=[-1])
    known = node.known(1)
    if known is not None:
        places: Any = np.flatnonzero(known).astype(np.int32)
        if not places.size:
            raise UnsupportedError("nothing is selected")
    else:
        places = mb.squeeze(x=mb.non_zero(x=mb.cast(x=node.var(1), dtype="int32")), axes=[1])
    return mb.gather(x=x, indices=places, axis=axis or 0, name=node.output())


def _reverse_sequence(node: Node) -> Var:
    """The first elements of each batch, as many as its length says, in the other order."""
    x, lengths = node.var(0), node.var(1)
    batch, time = node.attribute("batch_axis", 1), node.attribute("time_axis", 0)
    name = node.output()
    return mb.reverse_sequence(x=x, lengths=lengths, seq_axis=time, batch_axis=batch, name=name)


OPERATORS: Operators = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "TensorScatter": _tensor_scatter,
}
