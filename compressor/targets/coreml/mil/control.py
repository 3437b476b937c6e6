"""`If`: the branch that is taken, where that is known; else a `cond` of both. `Loop` and `Scan`: step by step.

A loop whose steps are counted while the program is built becomes its steps, one after the other: most that exporters
write are short, and all that is known stays known in each.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Constant, Node, Operators, Value
from compressor.targets.coreml.mil.values import UnsupportedError, narrowed, shape, static

_MOST_NODES = 10_000
"""Of all steps together."""


def _if(node: Node) -> Any:
    condition = node.known(0)
    branches = (node.attribute("then_branch"), node.attribute("else_branch"))
    if condition is not None:
        return node.lower(branches[0] if condition.any() else branches[1], node.scope.inner())
    true, false = (_branch(node, graph) for graph in branches)
    predicate = node.var(0)
    predicate = mb.squeeze(x=predicate) if predicate.rank else predicate
    found = mb.cond(pred=predicate, _true_fn=true, _false_fn=false)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _branch(node: Node, graph: onnx.GraphProto) -> Any:
    """A branch as a function; its results are variables of its own block."""

    def emit() -> Any:
        scope = node.scope.inner()
        found = node.lower(graph, scope)
        names = [output.name for output in graph.output]
        values = [_own(value, name, scope) for value, name in zip(found, names, strict=True)]
        return tuple(values) if len(values) > 1 else values[0]

    return emit


def _own(value: Any, name: str, scope: Any) -> Var:
    return mb.identity(x=scope.const(value, name) if isinstance(value, Constant) else value)


def _loop(node: Node) -> list[Any]:
    """Carried values from step to step, then what every step adds to the results."""
    body: onnx.GraphProto = node.attribute("body")
    steps = node.given(0, "the number of steps")
    going = node.given(1, "the condition of the first step")
    if steps is None:
        raise UnsupportedError("no number of steps")
    count = int(steps.reshape(-1)[0]) if going is None or going.all() else 0
    _check(body, count)
    carried, rows = list(node.operands[2:]), []
    for step in range(count):
        given = [Constant(np.array(step, np.int64)), Constant(np.array(True)), *carried]
        condition, *found = _step(node, body, given)
        carried, row = found[: len(carried)], found[len(carried) :]
        rows.append(row)
        if not _goes_on(condition):
            break
    return [*carried, *_collected(node, len(carried), rows, {}, {})]


def _goes_on(condition: Value | None) -> bool:
    known = condition.array if isinstance(condition, Constant) else None if condition is None else condition.val
    if condition is not None and known is None:
        raise UnsupportedError("a condition that is computed when the model runs")
    return condition is None or bool(np.all(known))


def _check(body: onnx.GraphProto, count: int) -> None:
    if count < 1:
        raise UnsupportedError(f"{count} steps")
    if count * len(body.node) > _MOST_NODES:
        raise UnsupportedError(f"{count} steps of {len(body.node)} nodes, the most are {_MOST_NODES:,} nodes in all")


def _step(node: Node, body: onnx.GraphProto, given: Sequence[Value | None]) -> list[Any]:
    scope = node.scope.inner()
    scope.values.update({one.name: value for one, value in zip(body.input, given, strict=True)})
    found = node.lower(body, scope)
    if any(value is None for value in found):
        raise UnsupportedError("its body has nodes without a form")
    return found


def _collected(
    node: Node, first: int, rows: Sequence[Sequence[Any]], axes: dict[int, int], backwards: dict[int, int]
) -> list[Any]:
    """The results of all steps, each kind along an axis of its own."""
    made: list[Any] = []
    for place, column in enumerate(zip(*rows, strict=True)):
        name = node.output(first + place)
        parts = [_own(value, name, node.scope) for value in (column[::-1] if backwards.get(place) else column)]
        rank = parts[0].rank + 1
        axis = axes.get(place, 0) % rank
        made.append(mb.stack(values=parts, axis=axis, name=name))
    return made


def _scan(node: Node) -> list[Any]:
    """As `_loop`, over slices of the last operands."""
    body: onnx.GraphProto = node.attribute("body")
    scanned = node.attribute("num_scan_inputs")
    states, inputs = (
        list(node.operands[:-scanned]),
        [node.var(len(node.operands) - scanned + n) for n in range(scanned)],
    )
    axes = [axis % x.rank for axis, x in zip(node.attribute("scan_input_axes", [0] * scanned), inputs, strict=True)]
    backwards = node.attribute("scan_input_directions", [0] * scanned)
    count = static([shape(inputs[0])[axes[0]]], "the length of what is scanned")[0]
    _check(body, count)
    rows = []
    for step in range(count):
        at = [count - 1 - step if back else step for back in backwards]
        slices = [_slice(x, axis, place) for x, axis, place in zip(inputs, axes, at, strict=True)]
        found = _step(node, body, [*states, *slices])
        states, row = found[: len(states)], found[len(states) :]
        rows.append(row)
    outputs = dict(enumerate(node.attribute("scan_output_axes", [])))
    return [
        *states,
        *_collected(node, len(states), rows, outputs, dict(enumerate(node.attribute("scan_output_directions", [])))),
    ]


def _slice(x: Var, axis: int, place: int) -> Value:
    if x.val is not None:
        return Constant(narrowed(np.take(x.val, place, axis)))
    here = [number == axis for number in range(x.rank)]
    begin = [place if one else 0 for one in here]
    end = [place + 1 if one else 0 for one in here]
    others = [not one for one in here]
    return mb.slice_by_index(x=x, begin=begin, end=end, begin_mask=others, end_mask=others, squeeze_mask=here)


OPERATORS: Operators = {"If": _if, "Loop": _loop, "Scan": _scan}
