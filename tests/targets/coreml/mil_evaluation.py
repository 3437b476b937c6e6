"""A reading of the MIL operators' documentation in numpy and torch: what a program computes, where no Core ML is.

Operators that Core ML Tools infers values of are left to it; the others stand here, by their documented formulas.
"""

from __future__ import annotations

import coremltools as ct
import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Function, types

from tests.targets.coreml import mil_arrays, mil_layers

_OPERATORS = {**mil_arrays.OPERATORS, **mil_layers.OPERATORS}


def evaluate(program, feeds):
    """The outputs of `main`, by name."""
    function = program.functions["main"]
    known = {function.inputs[name]: np.asarray(value) for name, value in feeds.items()}
    # Infinite on the way is what a device computes, too: exp(-x) in a sigmoid of a very small x.
    with Function({}, opset_version=function.opset_version), np.errstate(over="ignore"):
        _run(function, known)
    return {output.name: known.get(output, output.val) for output in function.outputs}


def evaluate_package(path, feeds):
    """The outputs of the package in `path`, by name, its weights decoded by Core ML Tools; inputs in order."""
    spec = ct.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    inputs = program.functions["main"].inputs
    return evaluate(program, {name: as_given(x, var) for (name, var), x in zip(inputs.items(), feeds, strict=True)})


def as_given(value, var):
    """A value in the type of an input; a scalar as an array of one element, where that is what the program takes."""
    array = np.asarray(value).astype(types.nptype_from_builtin(var.dtype))
    return array if array.ndim == len(var.shape) else array.reshape(1)


def _run(block, known):
    for op in block.operations:
        if op.op_type == "const":
            continue
        if op.op_type.startswith("constexpr_"):
            known[op.outputs[0]] = _materialized(op.outputs[0])
            continue
        given = {name: _value(var, known) for name, var in op.inputs.items() if var is not None and name not in _BLOCKS}
        if op.op_type in {"while_loop", "cond"}:
            results = _CONTROL[op.op_type](op, given, known)
        elif op.op_type in _OPERATORS:
            results = _OPERATORS[op.op_type](**given)
        else:
            results = _inferred(op.op_type, given)
        results = results if isinstance(results, tuple) else (results,)
        for output, value in zip(op.outputs, results, strict=True):
            kind = types.nptype_from_builtin(output.dtype)
            assert len(output.shape) == np.ndim(value), (op.op_type, output.shape, np.shape(value))
            fixed = [
                (a, b) for a, b in zip(output.shape, np.shape(value), strict=True) if isinstance(a, (int, np.integer))
            ]
            assert all(a == b for a, b in fixed), (op.op_type, op.name, output.shape, np.shape(value))
            known[output] = np.asarray(value).astype(kind)


_BLOCKS = {"_cond", "_body", "_true_fn", "_false_fn"}


def _value(var, known):
    if isinstance(var, (list, tuple)):
        return [_value(one, known) for one in var]
    found = known.get(var, var.val)
    return bool(found) if isinstance(found, np.bool_) else found


def _materialized(var):
    """The value of a constant expression: each operation's own `decompress`, from the inside."""
    if var.val is not None:
        return np.asarray(var.val)
    if not hasattr(type(var.op), "decompress"):  # a cast
        return np.asarray(var.op.materialized_val_inference())
    inputs = {key: None if each is None else _materialized(each) for key, each in var.op.inputs.items()}
    decompress = type(var.op).decompress
    names = decompress.__code__.co_varnames[: decompress.__code__.co_argcount]
    result = decompress(*(inputs.get(name) for name in names))
    return np.asarray(result[var.op.outputs.index(var)] if isinstance(result, tuple) else result)


def _while(op, given, known):
    state = given["loop_vars"]
    condition, body = op.blocks
    while True:
        known.update(zip(condition.inputs, state, strict=True))
        _run(condition, known)
        if not np.all(_value(condition.outputs[0], known)):
            return tuple(state)
        known.update(zip(body.inputs, state, strict=True))
        _run(body, known)
        state = [_value(output, known) for output in body.outputs]


def _cond(op, given, known):
    block = op.blocks[0 if given["pred"] else 1]
    _run(block, known)
    return tuple(_value(output, known) for output in block.outputs)


_CONTROL = {"while_loop": _while, "cond": _cond}


def _inferred(operator, given):
    found = getattr(mb, operator)(**given)
    found = found if isinstance(found, (list, tuple)) else [found]
    assert all(one.val is not None for one in found), f"no value inference for {operator}"
    return tuple(one.val for one in found)
