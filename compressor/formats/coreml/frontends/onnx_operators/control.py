"""`If`: the branch that is taken, where that is known; else a `cond` of both."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from typing import Any

import onnx
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.formats.coreml.frontends.onnx_operators.node import Constant, Node, Operators


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


OPERATORS: Operators = {"If": _if}
