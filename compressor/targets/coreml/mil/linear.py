"""Matrix products. A constant matrix becomes the weight of `linear`, which is `[out, in]`."""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.targets.coreml.mil.node import Node, Operators
from compressor.targets.coreml.mil.values import Dim, like, shape

LINEAR_RANK = 3
"""`linear` takes inputs up to this rank."""


def transposed(x: Var, name: str) -> Var:
    """The transposed matrix; of a transposed one, that from which it came."""
    if x.op is not None and x.op.op_type == "transpose" and list(x.op.perm.val) == [1, 0]:
        return x.op.x
    return mb.transpose(x=x, perm=[1, 0], name=name)


def _mat_mul(node: Node) -> Var:
    x, y, name = node.var(0), node.var(1), node.output()
    if x.rank == 1 or y.rank == 1:
        return _with_vector(x, y, name)
    if y.val is None or y.rank != 2 or x.val is not None:
        return mb.matmul(x=x, y=y, name=name)
    if x.rank <= LINEAR_RANK:
        return mb.linear(x=x, weight=transposed(y, f"{name}.weight"), name=name)
    if y.op.op_type == "transpose":
        return mb.matmul(x=x, y=transposed(y, f"{name}.weight"), transpose_y=True, name=name)
    return mb.matmul(x=x, y=y, name=name)


def _with_vector(x: Var, y: Var, name: str) -> Var:
    """A vector is a row on the left, a column on the right."""
    left, right = x.rank == 1, y.rank == 1
    product = mb.matmul(x=mb.expand_dims(x=x, axes=[0]) if left else x, y=mb.expand_dims(x=y, axes=[1]) if right else y)
    return mb.squeeze(x=product, axes=[axis for axis, gone in ((-2, left), (-1, right)) if gone], name=name)


def _gemm(node: Node) -> Var:
    """`alpha A B + beta C`; a constant C of one row is the bias of `linear`."""
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    x, matrix, name = node.var(0), node.var(1), node.output()
    x = mb.transpose(x=x, perm=[1, 0]) if node.attribute("transA", 0) else x
    flipped = bool(node.attribute("transB", 0))
    bias = _fused_bias(node, shape(matrix)[0 if flipped else 1]) if alpha == beta == 1 else None
    last = node.operand(2) is None or bias is not None
    if matrix.val is None:
        y = mb.matmul(x=x, y=matrix, transpose_y=flipped)
        bias, last = None, node.operand(2) is None
    else:
        weight = matrix if flipped else transposed(matrix, f"{name}.weight")
        y = mb.linear(x=x, weight=weight, bias=bias, **({"name": name} if last and alpha == 1 else {}))
    if alpha != 1:
        y = mb.mul(x=y, y=like(y, alpha), **({"name": name} if last else {}))
    if last:
        return y
    addend = node.var(2)
    return mb.add(x=y, y=addend if beta == 1 else mb.mul(x=addend, y=like(addend, beta)), name=name)


def _fused_bias(node: Node, columns: Dim) -> Var | None:
    known = node.known(2)
    if known is None or known.size != columns or known.shape[-1:] != (columns,):
        return None
    bias = node.var(2)
    return bias if bias.rank == 1 else mb.reshape(x=bias, shape=[-1], name=f"{node.output()}.bias")


OPERATORS: Operators = {"Gemm": _gemm, "MatMul": _mat_mul}
