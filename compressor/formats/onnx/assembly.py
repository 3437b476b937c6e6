"""A graph in normal form and the lowered weights, put together: the model that is written."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, line
from compressor.formats.onnx import functions, reading
from compressor.formats.onnx.graphs import inside, is_standard, walk
from compressor.formats.onnx.lowered import Lowered, Part, shared
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx

FUNCTIONS_IR_VERSION = 8


def insert(model: onnx.ModelProto, lowered: Sequence[Lowered], weights: Collection[str], opset: int) -> None:
    """Replace the stubs of `weights` by what computes them; decoding comes first, in the main graph."""
    import onnx

    _return_copies(model.graph, weights)
    for inner in walk(model.graph):
        kept = [t for t in inner.initializer if t.name not in weights and t.data_location != EXTERNAL]
        del inner.initializer[:]
        inner.initializer.extend(kept)
    every = [shared(lowered), *lowered]
    nodes = [node for one in every for node in one.nodes]
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.value_info.extend(value for one in every for value in one.values)
    called = sorted({name for one in every for name in one.functions})
    model.functions.extend(functions.function(name, opset) for name in called)
    if called:
        model.opset_import.add(domain=functions.DOMAIN, version=functions.VERSION)
        version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        model.ir_version = max(model.ir_version, version, FUNCTIONS_IR_VERSION)


def elsewhere(graph: onnx.GraphProto, weights: Collection[str], directory: Path) -> list[Part]:
    """The constants of the main graph that lie in files and are no weights."""
    return [
        Part(tensor.name, tensor.data_type, tuple(tensor.dims), reading.external(tensor, directory))
        for tensor in graph.initializer
        if tensor.data_location == EXTERNAL and tensor.name not in weights
    ]


def names(graph: onnx.GraphProto) -> list[str]:
    """The names of all values of `graph` and the graphs inside of it, sorted."""
    taken: set[str] = set()
    for inner in walk(graph):
        taken.update(value.name for value in (*inner.input, *inner.output, *inner.initializer))
        taken.update(name for node in inner.node for name in node.output)
    return sorted(taken)


def opset(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own operators that the model imports."""
    return next(int(entry.version) for entry in model.opset_import if not entry.domain)


def latest(model: onnx.ModelProto) -> int:
    """The latest opset that the model or one of its functions imports."""
    return max((entry.version for entry in _imports(model)), default=0)


def _imports(model: onnx.ModelProto) -> list[onnx.OperatorSetIdProto]:
    """Those of ONNX's own operators."""
    return [entry for one in (model, *model.functions) for entry in one.opset_import if not entry.domain]


def restamp(model: onnx.ModelProto, newest: int) -> list[str]:
    """Let a model that imports a later opset than `newest` import that; where operators differ, their names instead."""
    import onnx

    imports = _imports(model)
    nodes = [node for body in (model.graph, *model.functions) for node in inside(body.node) if is_standard(node)]
    newer = [entry for entry in imports if entry.version > newest]
    later = max((entry.version for entry in newer), default=newest)
    changed = {
        operator
        for operator in {node.op_type for node in nodes}
        if later > newest
        and not (onnx.defs.has(operator, later) and onnx.defs.get_schema(operator, later).since_version <= newest)
    }
    for entry in newer if not changed else ():
        entry.version = newest
    return sorted(changed)


def convert(model: onnx.ModelProto, to: int) -> None:
    """Bring the model to opset `to`; what it has no data of, its weights, and sparse tensors are inputs meanwhile.

    Raises:
        CompressorError: an operator of the model has no later form.
    """
    import onnx
    from onnx import inliner

    graph = model.graph
    if opset(model) == 8 and any(node.op_type == "Scan" for inner in walk(graph) for node in inner.node):
        raise CompressorError(
            f"the model has opset 8, whose Scan goes over batches: no later one does, {to} is needed."
        )
    stubs = [tensor for tensor in graph.initializer if not _has_data(tensor)]
    try:
        # The converter drops the model's own functions, so their bodies come first into the graph.
        converted = onnx.version_converter.convert_version(inliner.inline_local_functions(_bare(model, stubs)), to)
    except Exception as error:  # the converter raises whatever it stumbles over
        raise CompressorError(
            f"the model has opset {opset(model)}, decoding needs {to}, and it cannot be converted: {line(error)}"
        ) from error
    kept = onnx.GraphProto(
        input=graph.input,
        output=graph.output,
        initializer=stubs,
        sparse_initializer=graph.sparse_initializer,
        quantization_annotation=graph.quantization_annotation,
    )
    for field in ("input", "output", "sparse_initializer", "quantization_annotation"):
        converted.graph.ClearField(field)
    converted.graph.MergeFrom(kept)
    _forget_shapes(converted.graph, {value.name for inner in walk(graph) for value in inner.value_info})
    model.CopyFrom(converted)


def _bare(model: onnx.ModelProto, stubs: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """The model with inputs in place of `stubs` and sparse initializers."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:], bare.graph.sparse_initializer[:]
    bare.graph.initializer.extend(tensor for tensor in model.graph.initializer if _has_data(tensor))
    given = [(one.name, one.data_type, one.dims) for one in stubs]
    given += [(one.values.name, one.values.data_type, one.dims) for one in model.graph.sparse_initializer]
    inputs = {value.name for value in model.graph.input}
    bare.graph.input.extend(onnx.helper.make_tensor_value_info(*one) for one in given if one[0] not in inputs)
    return bare


def _forget_shapes(graph: onnx.GraphProto, declared: Collection[str]) -> None:
    """Leaves out the shapes that the converter infers: only those that the model `declared` are worth their bytes."""
    for inner in walk(graph):
        kept = [value for value in inner.value_info if value.name in declared]
        del inner.value_info[:]
        inner.value_info.extend(kept)


def _has_data(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == EXTERNAL:
        return False
    fields = {descriptor.name for descriptor, _ in tensor.ListFields()}
    return bool(fields - {"name", "data_type", "dims", "doc_string", "metadata_props"}) or 0 in tensor.dims


def prefixes(names: Iterable[str], taken: Sequence[str]) -> dict[str, str]:
    """What the names of each weight's parts begin with: its name, and an underscore for as long as others do.

    taken: names, sorted.
    """
    taken, made = [*taken], dict[str, str]()
    for name in names:
        free = name
        while (place := bisect_left(taken, f"{free}.")) < len(taken) and taken[place].startswith(f"{free}."):
            free += "_"
        taken.insert(place, f"{free}.")
        made[name] = free
    return made


def _return_copies(graph: onnx.GraphProto, weights: Collection[str]) -> None:
    """Weights that a subgraph returns are computed outside of it, and it cannot return an outer value itself."""
    import onnx

    for inner in walk(graph):
        own = {tensor.name for tensor in inner.initializer}.intersection(weights)
        for value in inner.output if inner is not graph else ():
            if value.name in own:
                inner.node.append(onnx.helper.make_node("Identity", [value.name], [f"{value.name}.returned"]))
                value.name = f"{value.name}.returned"
