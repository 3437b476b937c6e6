"""Weights that are one under several names: stored once, and read by all who read a copy of them.

A tied embedding is often exported twice, once transposed; a 1x1 convolution may share its weight with a linear layer.
The copy becomes a `Reshape` or a `Transpose` of the other weight, which ONNX Runtime computes as a session is created.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressor.arrays import Array, Shape, is_float
from compressor.encodings import Dense, shape
from compressor.formats.onnx.assembly import opset
from compressor.formats.onnx.graphs import walk
from compressor.sources.onnx.copies import copies
from compressor.weight import Copy, Weight

if TYPE_CHECKING:
    import onnx

SMALLEST = 2048
"""Copies of at most this many elements are left as they are."""

_RESHAPE_SINCE = 5
"""The opset since which `Reshape` reads its shape."""


def tie(model: onnx.ModelProto, weights: Sequence[Weight]) -> tuple[tuple[Weight, ...], dict[str, Copy]]:
    """The weights without those that are copies of another one, whose readers are changed in place.

    Also, by the name of each copy, how its values lie in the weight that is left. The values of that one are those of
    all: it is read by what reads any of them, and keeps the sign of a zero where one of them has to.
    """
    by_name, of = {weight.name: weight for weight in weights}, defaultdict[str, list[str]](list)
    found = copies(dict(_constants(model, weights)))
    if found and opset(model) < _RESHAPE_SINCE:
        found = {name: copy for name, copy in found.items() if "Reshape" not in dict(_steps_of(copy, by_name))}
    if not found:
        return tuple(weights), {}
    for name, copy in found.items():
        of[copy.weight].append(name)
    made = [_merged(weight, {name: found[name] for name in of[weight.name]}, by_name) for weight in weights]
    _rewire(model.graph, found, by_name)
    return tuple(weight for weight in made if weight.name not in found), found


def told(found: Mapping[str, Copy], weights: Sequence[Weight]) -> dict[str, str]:
    """By the name of a weight, which copies it stands for."""
    notes: dict[str, list[str]] = defaultdict(list)
    shapes = {weight.name: shape(weight.encoding) for weight in weights}
    for name, copy in found.items():
        how = ", ".join(_how(copy, shapes[copy.weight]))
        notes[copy.weight].append(f"{name} ({how})" if how else name)
    return {name: f"stands for {', '.join(names)} too" for name, names in notes.items()}


def _how(copy: Copy, of: Shape) -> Iterator[str]:
    if copy.order:
        yield "transposed"
    if copy.shape != (of[::-1] if copy.order else of):
        yield f"as {list(copy.shape)}"


def _constants(model: onnx.ModelProto, weights: Sequence[Weight]) -> Iterator[tuple[str, Array]]:
    """The floats that may be stored once, by name."""
    fixed = {value.name for inner in walk(model.graph) for value in (*inner.input, *inner.output)}
    visible = {tensor.name for tensor in model.graph.initializer} - fixed
    for weight in weights:
        encoding = weight.encoding
        if isinstance(encoding, Dense) and not weight.pinned and weight.name in visible:
            values = encoding.values
            if is_float(values.dtype) and values.size > SMALLEST:
                yield weight.name, values


def _merged(weight: Weight, found: Mapping[str, Copy], by_name: Mapping[str, Weight]) -> Weight:
    """A weight as all of its copies are read."""
    uses, signed = {*weight.uses}, weight.signed
    for name, copy in found.items():
        steps = _steps_of(copy, by_name)
        uses |= {steps[0][0]} if steps else {*by_name[name].uses}
        signed = signed or by_name[name].signed
    return replace(weight, uses=tuple(sorted(uses)), signed=signed)


def _steps_of(copy: Copy, weights: Mapping[str, Weight]) -> list[tuple[str, Sequence[int]]]:
    return [*_steps(copy, shape(weights[copy.weight].encoding))]


def _steps(copy: Copy, of: Shape) -> Iterator[tuple[str, Sequence[int]]]:
    """What makes a copy of a weight of that shape: operators, with the new shape or the order of the axes."""
    if copy.order:
        if copy.frame != of:
            yield "Reshape", copy.frame
        yield "Transpose", copy.order
        of = tuple(copy.frame[axis] for axis in copy.order)
    if copy.shape != of:
        yield "Reshape", copy.shape


def _rewire(graph: onnx.GraphProto, found: Mapping[str, Copy], weights: Mapping[str, Weight]) -> None:
    """Let the readers of a copy read the weight itself, or what operators in front of all others make of it."""
    steps = {name: _steps_of(copy, weights) for name, copy in found.items()}
    for node in (node for inner in walk(graph) for node in inner.node):
        for place, name in enumerate(node.input):
            if name in found and not steps[name]:
                node.input[place] = found[name].weight
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name in found:
            del graph.initializer[place]
    taken = {name for inner in walk(graph) for name in _names(inner)}
    made = [node for name, copy in found.items() for node in _nodes(graph, name, copy.weight, steps[name], taken)]
    for place, node in enumerate(made):
        graph.node.insert(place, node)


def _nodes(
    graph: onnx.GraphProto, name: str, of: str, steps: Sequence[tuple[str, Sequence[int]]], taken: set[str]
) -> Iterator[onnx.NodeProto]:
    """What makes the value `name` of the weight `of`; the shapes that it reads become initializers of the graph."""
    import onnx

    value = of
    for number, (operator, numbers) in enumerate(steps, 1):
        result = name if number == len(steps) else _free(f"{name} tied {number}", taken)
        if operator == "Transpose":
            yield onnx.helper.make_node(operator, [value], [result], f"{result} tied", perm=numbers)
        else:
            dims = _free(f"{name} shape {number}", taken)
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), dims))
            yield onnx.helper.make_node(operator, [value, dims], [result], f"{result} tied")
        value = result


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    yield from (name for node in graph.node for name in (*node.input, *node.output))


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken, which it is from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
