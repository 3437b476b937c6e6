"""LSTM, GRU and RNN.

The weights are `[directions, gates * hidden, ...]`; the gates of an LSTM are input, output, forget, cell in ONNX and
input, forget, output, cell in MIL, those of a GRU update, reset, hidden. Sequences are `[steps, batch, ...]`.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var

from compressor.arrays import NDArray
from compressor.targets.coreml.mil.node import Constant, Node, Operators
from compressor.targets.coreml.mil.values import UnsupportedError, like, shape, size

_W, _R, _B, _LENGTHS, _H, _C, _P = range(1, 8)
_LSTM_GATES = (0, 2, 1, 3)
_PEEPHOLES = (0, 2, 1)  # input, output, forget -> input, forget, output
_LSTM_CONSTANTS = (("weight_ih", _W, _LSTM_GATES), ("weight_hh", _R, _LSTM_GATES), ("peephole", _P, _PEEPHOLES))
_ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def _sequence(node: Node) -> tuple[Var, int]:
    """The input as `[steps, batch, features]`, and the number of directions."""
    if node.operand(_LENGTHS) is not None and not _full(node):
        raise UnsupportedError("sequence_lens: sequences of different lengths")
    if node.attribute("clip") is not None:
        raise UnsupportedError("clip")
    if node.attribute("input_forget", 0):
        raise UnsupportedError("input_forget")
    x = node.var(0)
    x = mb.transpose(x=x, perm=[1, 0, 2]) if node.attribute("layout", 0) else x
    return x, _DIRECTIONS[node.attribute("direction", "forward")]


def _full(node: Node) -> bool:
    lengths = node.known(_LENGTHS)
    steps = shape(node.var(0))[1 if node.attribute("layout", 0) else 0]
    return lengths is not None and bool((lengths == steps).all())


def _activations(node: Node, default: Sequence[str]) -> list[str]:
    """Of one direction, in MIL's names; both directions must have the same."""
    given = [name.decode() if isinstance(name, bytes) else name for name in node.attribute("activations", default)]
    count = len(default)
    wanted = [name.lower() for name in given[:count]]
    same = all(name.lower() == wanted[place % count] for place, name in enumerate(given))
    if not same or any(name not in _ACTIVATIONS for name in wanted):
        raise UnsupportedError(f"the activations {given}")
    if node.attribute("activation_alpha") or node.attribute("activation_beta"):
        raise UnsupportedError("parameters of activations")
    return [_ACTIVATIONS[name] for name in wanted]


def _part(node: Node, number: int, direction: int, key: str) -> Var | None:
    """What a direction has of a constant operand; a weight that was only joined to another one is that weight."""
    if node.operand(number) is None:
        return None
    if node.known(number) is None:
        raise UnsupportedError(f"operand {node.proto.input[number]!r} must be a constant")
    whole, name = node.var(number), _key(node, key)
    if whole.op.op_type == "concat" and whole.op.axis.val == 0 and all(part.shape[0] == 1 for part in whole.op.values):
        return mb.squeeze(x=whole.op.values[direction], axes=[0], name=name)
    count = shape(whole)[0]
    if count == 1:
        return mb.squeeze(x=whole, axes=[0], name=name)
    one = mb.split(x=whole, num_splits=count, axis=0, name=f"{name}.directions")[direction]
    return mb.squeeze(x=one, axes=[0], name=name)


def _regated(x: Var | None, order: Sequence[int]) -> Var | None:
    """The blocks of rows in another order."""
    if x is None:
        return None
    blocks = mb.split(x=x, num_splits=len(order), axis=0, name=f"{x.name}.gates")
    return mb.concat(values=[blocks[gate] for gate in order], axis=0, name=f"{x.name}.ordered")


def _bias(node: Node, direction: int) -> tuple[NDArray, NDArray] | None:
    """The biases of the input and of the hidden state, `[gates * hidden]` both."""
    if node.operand(_B) is None:
        return None
    of_x, of_h = np.split(node.constant(_B, "the bias")[direction], 2)
    return of_x, of_h


def _initial(node: Node, number: int, x: Var, directions: int) -> Var:
    """A state `[batch, directions * hidden]`; zeros if it is not given."""
    width = directions * int(node.attribute("hidden_size"))
    if node.operand(number) is None:
        batch = shape(x)[1]
        if isinstance(batch, int):
            return mb.const(val=np.zeros((batch, width), like(x, 0).dtype), name=_key(node, f"state.{number}"))
        sizes = mb.concat(values=[size(x, 1), np.array([width], np.int32)], axis=0)
        return mb.fill(shape=sizes, value=like(x, 0))
    state = node.var(number)
    if not node.attribute("layout", 0):
        if directions == 1:
            return mb.squeeze(x=state, axes=[0])
        state = mb.transpose(x=state, perm=[1, 0, 2])
    return mb.reshape(x=state, shape=[-1, width])


def _const(node: Node, array: NDArray | None, key: str) -> Var | None:
    return None if array is None else node.scope.const(Constant(array), _key(node, key))


def _key(node: Node, key: str) -> str:
    """A name for a constant of the node."""
    first = next(number for number in range(len(node.proto.output)) if node.reads(number))
    return f"{node.output(first)}.{key}"


def _outputs(node: Node, sequence: Var, states: Sequence[Var], directions: int) -> list[Any]:
    """`Y` `[steps, directions, batch, hidden]` and the last states `[directions, batch, hidden]`."""
    hidden = int(node.attribute("hidden_size"))
    if directions == 1:
        y = mb.expand_dims(x=sequence, axes=[1])
        found = [mb.expand_dims(x=state, axes=[0]) for state in states]
    else:
        steps, batch = (dim if isinstance(dim, int) else -1 for dim in shape(sequence)[:2])
        if steps == batch == -1:
            raise UnsupportedError("both the steps and the batch are dynamic")
        y = mb.transpose(x=mb.reshape(x=sequence, shape=[steps, batch, directions, hidden]), perm=[0, 2, 1, 3])
        split = [mb.reshape(x=state, shape=[batch, directions, hidden]) for state in states]
        found = [mb.transpose(x=state, perm=[1, 0, 2]) for state in split]
    if node.attribute("layout", 0):
        y, found = mb.transpose(x=y, perm=[2, 0, 1, 3]), [mb.transpose(x=state, perm=[1, 0, 2]) for state in found]
    return [
        mb.identity(x=value, name=node.output(number)) if node.reads(number) else None
        for number, value in enumerate([y, *found][: len(node.proto.output)])
    ]


def _lstm(node: Node) -> list[Any]:
    x, directions = _sequence(node)
    gate, cell, last = _activations(node, ["Sigmoid", "Tanh", "Tanh"])
    given: dict[str, Var | None] = {}
    for direction, suffix in enumerate(("", "_back")[:directions]):
        for key, number, order in _LSTM_CONSTANTS:
            given[key + suffix] = _regated(_part(node, number, direction, key + suffix), order)
        biases = _bias(node, direction)
        blocks = None if biases is None else np.split(biases[0] + biases[1], 4)
        total = None if blocks is None else np.concatenate([blocks[gate] for gate in _LSTM_GATES])
        given["bias" + suffix] = _const(node, total, "bias" + suffix)
    sequence, h, c = mb.lstm(
        x=x,
        initial_h=_initial(node, _H, x, directions),
        initial_c=_initial(node, _C, x, directions),
        **{key: value for key, value in given.items() if value is not None},
        direction=node.attribute("direction", "forward"),
        output_sequence=True,
        recurrent_activation=gate,
        cell_activation=cell,
        activation=last,
    )
    return _outputs(node, sequence, [h, c], directions)


def _by_direction(node: Node, layer: Callable[[Var, Var, int], Var]) -> list[Any]:
    """Run a layer `(input, state, direction) -> states [steps, batch, hidden]` forwards, backwards or both."""
    x, directions = _sequence(node)
    initial = _initial(node, _H, x, directions)
    parts = [initial] if directions == 1 else mb.split(x=initial, num_splits=directions, axis=1)
    sequences, states = [], []
    for direction, state in enumerate(parts):
        backwards = direction == 1 or node.attribute("direction", "forward") == "reverse"
        found = layer(mb.reverse(x=x, axes=[0]) if backwards else x, state, direction)
        states.append(_last(found))
        sequences.append(mb.reverse(x=found, axes=[0]) if backwards else found)
    if directions == 1:
        return _outputs(node, sequences[0], states, 1)
    return _outputs(node, mb.concat(values=sequences, axis=2), [mb.concat(values=states, axis=1)], directions)


def _last(sequence: Var) -> Var:
    return mb.slice_by_index(
        x=sequence, begin=[-1, 0, 0], end=[0, 0, 0], begin_mask=[False, True, True], end_mask=[True, True, True],
        squeeze_mask=[True, False, False],
    )  # fmt: skip


def _rnn(node: Node) -> list[Any]:
    (activation,) = _activations(node, ["Tanh"])

    def layer(x: Var, state: Var, direction: int) -> Var:
        biases = _bias(node, direction)
        sequence, _ = mb.rnn(
            x=x,
            initial_h=state,
            weight_ih=_part(node, _W, direction, f"weight_ih.{direction}"),
            weight_hh=_part(node, _R, direction, f"weight_hh.{direction}"),
            bias=_const(node, None if biases is None else biases[0] + biases[1], f"bias.{direction}"),
            output_sequence=True,
            activation=activation,
        )
        return sequence

    return _by_direction(node, layer)


def _gru(node: Node) -> list[Any]:
    """A loop over the steps: MIL's own operator does not say which of the two forms of a GRU it is.

    `h' = (1 - z) n + z h`, where `n = tanh(W x + b + r (R h + c))` if `linear_before_reset`, else
    `n = tanh(W x + b + R (r h) + c)`. The products with the input are taken for all steps at once.
    """
    if _activations(node, ["Sigmoid", "Tanh"]) != ["sigmoid", "tanh"]:
        raise UnsupportedError("activations other than Sigmoid and Tanh")

    def layer(x: Var, state: Var, direction: int) -> Var:
        of_x, of_h = _bias(node, direction) or (None, None)
        weight = _part(node, _W, direction, f"weight_ih.{direction}")
        projected = mb.linear(x=x, weight=weight, bias=_const(node, of_x, f"bias_ih.{direction}"))
        return _steps(projected, state, _gru_cell(node, direction, of_h))

    return _by_direction(node, layer)


def _gru_cell(node: Node, direction: int, bias: NDArray | None) -> Callable[[Var, Var], Var]:
    """`(projected input, state) -> state`, both `[batch, ...]`."""
    weight = _part(node, _R, direction, f"weight_hh.{direction}")
    assert weight is not None
    hidden, together = int(node.attribute("hidden_size")), bool(node.attribute("linear_before_reset", 0))
    rows = [3 * hidden] if together else [2 * hidden, hidden]
    weights = [weight] if together else mb.split(x=weight, split_sizes=rows, axis=0, name=f"{weight.name}.gates")
    parts = [None] * len(rows) if bias is None else np.split(bias, np.cumsum(rows)[:-1])
    products = [
        {"weight": one, "bias": _const(node, part, f"bias_hh.{direction}.{number}")}
        for number, (one, part) in enumerate(zip(weights, parts, strict=True))
    ]

    def cell(x: Var, h: Var) -> Var:
        x_z, x_r, x_n = mb.split(x=x, num_splits=3, axis=1)
        gates = mb.split(x=mb.linear(x=h, **products[0]), num_splits=3 if together else 2, axis=1)
        z, r = mb.sigmoid(x=mb.add(x=x_z, y=gates[0])), mb.sigmoid(x=mb.add(x=x_r, y=gates[1]))
        inner = mb.mul(x=r, y=gates[2]) if together else mb.linear(x=mb.mul(x=r, y=h), **products[1])
        n = mb.tanh(x=mb.add(x=x_n, y=inner))
        return mb.add(x=mb.mul(x=mb.sub(x=like(z, 1), y=z), y=n), y=mb.mul(x=z, y=h))

    return cell


def _steps(x: Var, state: Var, cell: Callable[[Var, Var], Var]) -> Var:
    """The states after each step, `[steps, batch, hidden]`; they are collected behind the initial one."""
    first = mb.expand_dims(x=state, axes=[0])
    count = size(x, 0)
    room = mb.fill(shape=mb.concat(values=[count, size(first, 1), size(first, 2)], axis=0), value=like(x, 0))

    def more(step: Var, states: Var) -> Var:  # noqa: ARG001 - a loop passes all its variables
        return mb.less(x=step, y=count)

    def body(step: Var, states: Var) -> tuple[Var, Var]:
        now = [mb.squeeze(x=mb.gather(x=one, indices=step, axis=0), axes=[0]) for one in (x, states)]
        following = mb.add(x=step, y=np.int32(1))
        updates = mb.expand_dims(x=cell(now[0], now[1]), axes=[0])
        return following, mb.scatter(data=states, indices=following, updates=updates, axis=0, mode="update")

    start = np.zeros(1, np.int32)
    _, states = mb.while_loop(_cond=more, _body=body, loop_vars=(start, mb.concat(values=[first, room], axis=0)))
    return mb.slice_by_index(
        x=states, begin=[1, 0, 0], end=[0, 0, 0], begin_mask=[False, True, True], end_mask=[True, True, True]
    )


OPERATORS: Operators = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
