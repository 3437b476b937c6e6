"""`Einsum` of one or two operands, as transposes, one matrix product and a reshape."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from collections.abc import Sequence

from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, reshape, shape, static

_ELLIPSIS = "ABCDEFGH"


def _einsum(node: Node) -> Var:
    operands = [node.var(number) for number in range(len(node.operands))]
    terms, result = _labels(node.attribute("equation"), [x.rank for x in operands])
    if len(operands) > 2 or any(len(set(term)) < len(term) for term in terms):
        raise UnsupportedError(f"the equation {node.attribute('equation')!r}: repeated labels, or over two operands")
    others = [set(result).union(*terms[:place], *terms[place + 1 :]) for place in range(len(terms))]
    reduced = [_summed(x, term, kept) for x, term, kept in zip(operands, terms, others, strict=True)]
    if len(reduced) == 1:
        ((x, labels),) = reduced
        return _turned(x, [labels.index(label) for label in result], node.output())
    return _product(reduced[0], reduced[1], result, node.output())


def _labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, with a capital letter for each axis of an ellipsis."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    spread = [rank - len(term.replace("...", "")) for term, rank in zip(left.split(","), ranks, strict=True)]
    most = max(spread)
    terms = [
        term.replace("...", _ELLIPSIS[most - count : most]) for term, count in zip(left.split(","), spread, strict=True)
    ]
    if arrow:
        return terms, right.replace("...", _ELLIPSIS[:most])
    joined = "".join(terms)
    return terms, _ELLIPSIS[:most] + "".join(
        sorted(c for c in set(joined) if joined.count(c) == 1 and c not in _ELLIPSIS)
    )


def _summed(x: Var, labels: str, kept: set[str]) -> tuple[Var, str]:
    """Without the axes that nothing else has."""
    axes = [axis for axis, label in enumerate(labels) if label not in kept]
    if axes:
        x = mb.reduce_sum(x=x, axes=axes, keep_dims=False)
    return x, "".join(label for label in labels if label in kept)


def _product(left: tuple[Var, str], right: tuple[Var, str], result: str, name: str) -> Var:
    """`[batch, rows, inner] @ [batch, inner, columns]`, where each of these may be several labels."""
    (x, of_x), (y, of_y) = left, right
    batch = [label for label in result if label in of_x and label in of_y]
    inner = [label for label in of_x if label in of_y and label not in result]
    rows = [label for label in of_x if label not in of_y]
    columns = [label for label in of_y if label not in of_x]
    sizes: dict[str, Dim] = dict(zip(of_y, shape(y), strict=True)) | dict(zip(of_x, shape(x), strict=True))
    x = _arranged(x, of_x, (batch, rows, inner))
    y = _arranged(y, of_y, (batch, inner, columns))
    product = mb.matmul(x=x, y=y)
    order = [*batch, *rows, *columns]
    if not order:
        return mb.squeeze(x=product, name=name)
    if len(rows) != 1 or len(columns) != 1:
        product = reshape(product, [sizes[label] for label in order])
    return _turned(product, [order.index(label) for label in result], name)


def _turned(x: Var, perm: Sequence[int], name: str) -> Var:
    return mb.transpose(x=x, perm=perm, name=name) if perm else mb.identity(x=x, name=name)


def _arranged(x: Var, labels: str, groups: tuple[list[str], list[str], list[str]]) -> Var:
    """The first group axis by axis, each of the others as one axis."""
    x = mb.transpose(x=x, perm=[labels.index(label) for group in groups for label in group])
    if len(groups[1]) == len(groups[2]) == 1:
        return x
    dims, first = shape(x), len(groups[0])
    merged = [dims[first : first + len(groups[1])], dims[first + len(groups[1]) :]]
    return reshape(
        x, [*dims[:first], *(math.prod(static(one, "merged axes")) if len(one) != 1 else one[0] for one in merged)]
    )


OPERATORS: Operators = {"Einsum": _einsum}
