"""The normal form of a model: every weight is an initializer without data, and nothing in the graph decodes one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.arrays import Array, is_float
from compressor.encodings import Dense, Encoding, dtype
from compressor.formats.onnx.functions import DOMAIN
from compressor.formats.onnx.graphs import attribute, is_standard, walk
from compressor.formats.onnx.wire import EXTERNAL
from compressor.sources.onnx import folding, lifting, operators
from compressor.sources.onnx.folding import Fold
from compressor.sources.onnx.lifting import Lift
from compressor.sources.onnx.negative_zeros import shown_zeros
from compressor.sources.onnx.order import drop_repeated, sort
from compressor.sources.onnx.scopes import Index, check_names, index, make_names_unique, operand
from compressor.sources.onnx.stubs import bring_back, densify, stub
from compressor.weight import Weight

if TYPE_CHECKING:
    import onnx

_OPTIONAL_INITIALIZER_INPUTS = 4
"""The IR version from which an initializer need not be an input; before it, being one means nothing."""


def normalize(model: onnx.ModelProto, directory: Path, *, own: bool = False) -> tuple[Weight, ...]:
    """Bring `model` to normal form, in place; its weights, in the order of the graph.

    own: whether this package wrote the model. What its graph still computes from constants was to stay so: were it
        folded now, for an opset or a reader that has changed on the way, the weights would not be those of the source.

    Raises:
        CompressorError: the data of a constant are missing or impossible.
    """
    graphs = _in_order(model, directory)
    found = index(graphs, directory)
    if _drop_identities(found):
        found = index(graphs, directory)
    computed: dict[str, Array] = {}
    folded, unfolded = folding.folds(found, model.opset_import)
    if own:
        folded, unfolded = [], unfolded | {fold.name: "what is computed from it was left so" for fold in folded}
    if folded:
        _fold(found, folded)
        computed = {fold.name: fold.array for fold in folded}
        found = index(graphs, directory, computed)
    lifted, refused = lifting.lifts(found)
    refused = {name: reason for name, reason in unfolded.items() if name not in computed} | refused
    _apply(found, lifted)
    _write_stubs(found, {lift.name: (lift.leaf, lift.encoding) for lift in lifted})
    encodings = {lift.name: lift.encoding for lift in lifted}
    encodings.update(densify(graphs, directory))
    found = index(graphs, directory, computed, encodings)
    if _drop_unread(found):
        found = index(graphs, directory, computed, encodings)
    pinned = dict(lifting.plain(found, refused))
    plain: dict[str, Encoding] = {name: Dense(found.array(name)) for name in pinned}
    _write_stubs(found, {name: (name, encoding) for name, encoding in plain.items()})
    encodings.update(plain)
    _drop_stale(model, graphs, encodings)
    bring_back(model, directory)
    return tuple(_weights(found, encodings, pinned, {lift.name: lift for lift in lifted}))


def _in_order(model: onnx.ModelProto, directory: Path) -> list[onnx.GraphProto]:
    """The graph and those inside of it, each name there once, nodes behind what they read; they stay these objects."""
    if model.ir_version < _OPTIONAL_INITIALIZER_INPUTS:
        _keep_true_inputs(model.graph)
        model.ir_version = _OPTIONAL_INITIALIZER_INPUTS
    graphs = list(walk(model.graph))
    check_names(graphs)
    drop_repeated(graphs, directory)
    make_names_unique(graphs)
    sort(model.graph)
    return list(walk(model.graph))


def _weights(
    found: Index, encodings: Mapping[str, Encoding], pinned: Mapping[str, str], lifted: Mapping[str, Lift]
) -> Iterator[Weight]:
    """The weights, in the order of the graph."""
    shown = shown_zeros(found, encodings)
    for name in (tensor.name for inner in found.graphs for tensor in inner.initializer if tensor.name in encodings):
        encoding, lift = encodings[name], lifted.get(name)
        yield Weight(
            name,
            encoding,
            _uses(found, name),
            pinned.get(name, ""),
            signed=shown(name) if is_float(dtype(encoding)) else "",
            linear=lift is not None and lift.linear,
            n_bits=None if lift is None else lift.n_bits,
        )


def _keep_true_inputs(graph: onnx.GraphProto) -> None:
    initialized = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, [value.name not in initialized for value in graph.input])


def _drop_identities(found: Index) -> bool:
    """Readers of a copy of a constant read the constant itself: a weight under several names is one.

    Gives whether there was a copy, as of which `found` is no longer true.
    """
    copies: dict[str, str] = {}
    places: dict[bytes, str] = {}
    gone = set()
    for number, node in enumerate(found.nodes):
        source = copies.get(operand(node, 0), operand(node, 0))
        if node.op_type == "Constant" and is_standard(node):
            source = places.setdefault(_place(found, number), node.output[0]) if node.output else ""
        elif node.op_type != "Identity" or not is_standard(node):
            continue
        if source in found.tensors and len(node.output) == 1 and source != node.output[0]:
            copies[node.output[0]] = source
            if node.output[0] not in found.outputs:
                gone.add(number)
    _respell(found, copies)
    _delete(found, gone)
    return bool(copies)


def _place(found: Index, number: int) -> bytes:
    """Where the data of a `Constant` node of the main graph lie: a function that is called twice has them in two nodes.

    Constants of the model itself, and of graphs whose values others do not see, have a place of their own.
    """
    value = attribute(found.nodes[number], "value")
    if value is None or found.home[number] or value.t.data_location != EXTERNAL:
        return number.to_bytes(8)
    t = value.t
    place = type(t)(data_type=t.data_type, dims=t.dims, external_data=t.external_data)
    return bytes(place.SerializeToString(deterministic=True))


def _fold(found: Index, folded: Iterable[Fold]) -> None:
    """Let readers of what nodes compute from constants read it, in the place of the largest of these."""
    _respell(found, {fold.value: fold.name for fold in folded})
    for fold in folded:
        if fold.name in found.producers:
            found.graphs[found.owner[fold.name]].initializer.append(stub(fold.name, Dense(fold.array)))
        else:
            found.tensors[fold.name].CopyFrom(stub(fold.name, Dense(fold.array)))
    places = {found.producers[fold.name] for fold in folded if fold.name in found.producers}
    _delete(found, places.union(*(fold.nodes for fold in folded)))


def _apply(found: Index, lifted: Iterable[Lift]) -> None:
    """Let readers of a decoded value read its weight, and remove what decoded it."""
    gone: set[int] = set()
    _respell(found, {lift.value: lift.name for lift in lifted if lift.value not in {"", lift.name}})
    for lift in lifted:
        if lift.value:
            gone.update(lift.nodes)
        else:
            _replace(found, lift.nodes[0], operators.mat_mul(found.nodes[lift.nodes[0]], lift.name))
    _delete(found, gone)


def _replace(found: Index, number: int, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put `nodes` in the place of one."""
    graph, old = found.graphs[found.home[number]], found.nodes[number]
    place = next(place for place, node in enumerate(graph.node) if node is old)
    old.CopyFrom(nodes[0])
    for offset, node in enumerate(nodes[1:], 1):
        graph.node.insert(place + offset, node)


def _respell(found: Index, names: Mapping[str, str]) -> None:
    """Spell the inputs of all nodes as `names` says."""
    for old in names:
        for number in found.readers.get(old, ()):
            node = found.nodes[number]
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = names[old]


def _delete(found: Index, numbers: Collection[int]) -> None:
    """Remove nodes where they are: nothing else in the graphs moves in memory, so that `found` still refers to it."""
    gone = {id(found.nodes[number]) for number in numbers}
    for graph in (found.graphs[home] for home in {found.home[number] for number in numbers}):
        _keep(graph.node, [id(node) not in gone for node in graph.node])


def _drop_unread(found: Index) -> bool:
    """Remove constants, and what is computed from them alone, that nothing reads; whether there were any."""
    readers = {name: set(numbers) for name, numbers in found.readers.items()}
    gone: set[int] = set()
    unread, pending = set(), [*found.tensors, *(name for name in found.producers if name not in readers)]
    while pending:
        name = pending.pop()
        if readers.get(name, set()) - gone or name in found.outputs or name in found.inputs:
            continue
        node = found.producer(name)
        if node is None:
            unread.add(name)
        elif node.domain == DOMAIN or (node.op_type in {"Constant", "Cast"} and is_standard(node)):
            gone.add(found.producers[name])
            pending.extend(node.input)
    _delete(found, gone)
    for graph in found.graphs:
        _keep(graph.initializer, [tensor.name not in unread for tensor in graph.initializer])
    return bool(gone or unread)


def _write_stubs(found: Index, weights: Mapping[str, tuple[str, Encoding]]) -> None:
    """Every weight becomes an initializer without data, in the place of a constant; that may be a `Constant` node.

    weights: by name, the constant, and what the weight is. Of several weights in one constant, the first one takes
        its place and the others follow it: the graph's tensors are then others than those that `found` has.
    """
    first: dict[str, str] = {}
    others: dict[str, list[onnx.TensorProto]] = defaultdict(list)
    for name, (leaf, encoding) in weights.items():
        if leaf in found.producers:
            found.graphs[found.owner[leaf]].initializer.append(stub(name, encoding))
        elif leaf in first:
            others[first[leaf]].append(stub(name, encoding))
        else:
            found.tensors[leaf].CopyFrom(stub(name, encoding))
            first[leaf] = name
    _delete(found, {found.producers[leaf] for leaf, _ in weights.values() if leaf in found.producers})
    for graph in found.graphs if others else ():
        every = [one for tensor in graph.initializer for one in (tensor, *others.get(tensor.name, ()))]
        graph.ClearField("initializer")
        graph.initializer.extend(every)


def _uses(found: Index, name: str) -> tuple[str, ...]:
    return tuple(sorted({found.nodes[number].op_type for number in found.readers.get(name, ())}))


def _drop_stale(model: onnx.ModelProto, graphs: Iterable[onnx.GraphProto], encodings: Container[str]) -> None:
    """Remove what describes values, and imports operators, that the normal form does not have."""
    called: set[tuple[str, str]] = set()
    for graph in graphs:
        called.update((node.domain, node.op_type) for node in graph.node)
        values = {name for node in graph.node for name in node.output}
        _keep(graph.value_info, [value.name in values for value in graph.value_info])
        annotations = graph.quantization_annotation
        _keep(annotations, [value.tensor_name not in encodings for value in annotations])
    _keep(model.functions, [found.domain != DOMAIN or (DOMAIN, found.name) in called for found in model.functions])
    _keep(model.metadata_props, [not str(entry.key).startswith(f"{DOMAIN}.") for entry in model.metadata_props])
    domains = {domain for domain, _ in called} | {node.domain for made in model.functions for node in made.node}
    _keep(model.opset_import, [entry.domain in domains | {""} for entry in model.opset_import])


def _keep(values: MutableSequence[Any], kept: Sequence[bool]) -> None:
    """Delete where they are the elements of a repeated field that are not to be kept."""
    for place in reversed([place for place, keep in enumerate(kept) if not keep]):
        del values[place]
