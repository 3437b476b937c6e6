"""Calls of a model's own functions, replaced by what the functions do: their constants are weights too."""

from __future__ import annotations

from collections.abc import Container, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor.formats.onnx.functions import BODIES, DOMAIN, is_own
from compressor.formats.onnx.graphs import inside, tensors
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx

MOST_NODES = 100_000
"""How many nodes the functions of a model may expand to; a graph may have more of its own."""

MOST_BYTES = 1 << 28
"""The same in bytes: strings and small constants in functions are copied with each call."""

_COUNTED = 1 << 60

Key = tuple[str, str]
"""The domain and the name of a function."""
Called = tuple[str, str, str]
"""The name, the domain and the overload of a function."""


def inline(model: onnx.ModelProto, *, own: bool) -> None:
    """Replace the calls of all functions but this project's, in place; constants that lie in files stay there.

    Functions that cannot be inlined, those of another opset for the most part, stay where no large constant is in them.
    own: whether this package wrote the model, whose functions are then taken for what their names say;
    else only those that have the operands and attributes of its own.

    Raises:
        CompressorError: one that cannot be inlined holds a large constant, or they expand to more than a limit.
    """
    named = [made for made in model.functions if made.domain == DOMAIN and made.name in BODIES]
    ours = {_key(made) for made in named if own or is_own(made)}
    if len(ours) < len(model.functions):
        _check_expansion(model, ours)
        _inline(model, ours)
    foreign = next((made.name for made in model.functions if made.domain == DOMAIN and _key(made) not in ours), None)
    called = {node.op_type for node in inside(model.graph.node) if node.domain == DOMAIN}
    missing = min(called - {name for _, name in ours}, key=str, default=foreign)  # one may be bytes, no text
    if missing is not None:
        raise CompressorError(
            f"the function {missing!r} of the domain {DOMAIN!r}, which this package keeps for its own, is none "
            "of these and cannot be inlined: give it another domain."
        )


def _inline(model: onnx.ModelProto, ours: set[Key]) -> None:
    import onnx
    from onnx import inliner

    imported = {entry.domain for entry in model.opset_import}
    needed = {entry.domain: entry for made in model.functions for entry in made.opset_import}
    model.opset_import.extend(needed[domain] for domain in sorted(needed.keys() - imported))
    try:
        if ours:
            inlined = inliner.inline_selected_functions(model, sorted(ours), exclude=True)
        else:
            inlined = inliner.inline_local_functions(model, convert_version=True)
    except onnx.checker.ValidationError as error:  # more functions, or a longer chain of calls, than it takes
        raise CompressorError(f"its functions cannot be inlined: {str(error).splitlines()[0]}") from error
    except Exception as error:  # its errors have no common base
        holding = next((made for made in model.functions if _holds_data(made)), None)
        if holding is not None:
            raise CompressorError(
                f"the function {holding.name!r} of {holding.domain!r} holds constants, and it cannot be inlined: "
                f"{str(error).splitlines()[0]}. Export the model without functions, or with functions of its own opset."
            ) from error
    else:
        model.CopyFrom(inlined)


def _check_expansion(model: onnx.ModelProto, ours: set[Key]) -> None:
    """Count what inlining gives before it is done: twenty functions that call each other twice are a million nodes.

    Raises:
        CompressorError: functions call each other in a circle, or their calls expand to more than the limits.
    """
    functions = {_called(made, made.name): made for made in model.functions if _key(made) not in ours}
    calls = {key: _calls(made.node, functions) for key, made in functions.items()}
    counted: dict[Called, tuple[int, int]] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            nodes = sum(1 for _ in inside(functions[key].node))
            counted[key] = _sum([(nodes, functions[key].ByteSize()), *(counted[call] for call in calls[key])])
    except CycleError as error:
        name, domain = error.args[1][0][:2]
        raise CompressorError(
            f"the function {name!r} of {domain!r} calls itself, by way of others or at once."
        ) from error
    nodes, nbytes = _sum(counted[call] for call in _calls(model.graph.node, functions))
    if nodes > MOST_NODES or nbytes > MOST_BYTES:
        raise CompressorError(
            f"the functions of the model expand to {nodes:,} nodes of {nbytes:,} bytes, expected at most "
            f"{MOST_NODES:,} of {MOST_BYTES:,}: inline those calls that are needed before."
        )


def _calls(nodes: Iterable[onnx.NodeProto], functions: Container[Called]) -> list[Called]:
    """The functions that nodes, and those of graphs inside of them, call: as often as they do."""
    return [call for node in inside(nodes) if (call := _called(node, node.op_type)) in functions]


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Nodes and bytes added up, as far as anybody counts."""
    nodes, nbytes = zip(*counts, strict=True) if (counts := list(counts)) else ((), ())
    return min(sum(nodes), _COUNTED), min(sum(nbytes), _COUNTED)


def _called(proto: onnx.NodeProto | onnx.FunctionProto, name: str) -> Called:
    return (name, proto.domain, proto.overload)


def _key(function: onnx.FunctionProto) -> Key:
    return (function.domain, function.name)


def _holds_data(function: onnx.FunctionProto) -> bool:
    return any(tensor.data_location == EXTERNAL for tensor in tensors((), [function]))
