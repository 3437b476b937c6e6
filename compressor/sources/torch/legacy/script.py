"""A TorchScript archive as a module that the exporter traces: its graph, interpreted operator by operator.

The exporter takes no TorchScript. Here its inlined graph runs in Python, with the archive's own weights under their own
names; quantized operators compute in float over codes, as in every other quantized model.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from compressor.errors import CompressorError
from compressor.sources.torch.legacy.functions import FLOAT, Floating, supported
from compressor.sources.torch.legacy.packed import OverCodes, kind, unpacked
from compressor.sources.torch.legacy.scalars import ABOUT, ABOUT_NUMBERS, FORBIDDEN, STRUCTURE, UNPACKS, typed

PLACES = (
    re.compile(r"_packed_params(?:\._packed_params|\._packed_weight)?"),
    re.compile(r"_packed_weight(?P<suffix>_ih|_hh)"),
    re.compile(r"_all_weight_values\.(?P<cell>\d+)\.param"),
)
"""Where the modules of torch.ao keep what they have packed."""
QPARAM = re.compile(r"(?:^|_)(?:scale|zero_point)(?:_\d+)?$")
"""What torch.ao calls the grid of an activation, which is no input of an operator here, but a part of it."""


class Script(Module):
    """The forward of `source`, computed by interpreting its graph; weights have the names that they have there.

    Raises: CompressorError that lists all operators that cannot be interpreted.
    """

    _source: torch.jit.ScriptModule

    def __init__(self, source: torch.jit.ScriptModule) -> None:
        super().__init__()
        _copy(source, self)
        # Nodes and values are views, of a graph that is made anew each time one asks for it. No submodule: its weights
        # are here already.
        object.__setattr__(self, "_source", source)
        self._graph = source.inlined_graph
        _check(self._graph)
        self._known: dict[str, Any] = {}
        self._tensors: dict[str, tuple[Module, str]] = {}
        self._lists: dict[str, tuple[Module, list[str]]] = {}
        self._packed: dict[str, Any] = {}
        inputs = [value.debugName() for value in self._graph.inputs()]
        paths = {inputs[0]: ""}
        for node in _nodes(self._graph):
            if node.kind() == "prim::GetAttr":
                self._attribute(node, paths)
            elif node.kind() == "prim::Constant":
                self._constant(node)
        signature = _signature(source)

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            return self._run(dict(zip(inputs[1:], given.arguments.values(), strict=True)))

        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward

    def _attribute(self, node: Any, paths: dict[str, str]) -> None:
        path, output = paths[node.inputsAt(0).debugName()], node.output().debugName()
        owner, name = _at(self._source, path), node.s("name")
        value, inner = getattr(owner, name), f"{path}.{name}".lstrip(".")
        if kind(value) is not None:
            if inner not in self._packed:
                self._packed[inner] = self._unpack(inner, value, _rank(self._graph, output))
            self._known[output] = self._packed[inner]
        elif isinstance(value, Tensor) and value.numel() == 1 and QPARAM.search(name):
            self._known[output] = value.item()
        elif isinstance(value, Tensor):
            self._tensors[output] = (self.get_submodule(path), name)
        elif isinstance(value, list) and value and all(isinstance(one, Tensor) for one in value):
            # Recurrent layers keep their parameters a second time, in the order of the operator.
            names = {_address(tensor): inner for inner, tensor in owner.named_parameters(recurse=False)}
            self._lists[output] = (self.get_submodule(path), [names[_address(one)] for one in value])
        elif isinstance(value, torch.jit.ScriptModule):
            paths[output] = inner
        else:
            self._known[output] = value

    def _constant(self, node: Any) -> None:
        output, value = node.output().debugName(), node.output().toIValue()
        name = f"constant_{len(self._tensors) + len(self._packed)}"
        if kind(value) is not None:
            self._known[output] = self._packed[name] = self._unpack(name, value, _rank(self._graph, output))
        elif isinstance(value, Tensor) and value.dim():
            # A weight of a frozen module: it has lost its name.
            self.register_buffer(name, value)
            self._tensors[output] = (self, name)
        else:
            # Sizes are numbers here, so what is computed with them must be too.
            self._known[output] = value.item() if isinstance(value, Tensor) else value

    def _unpack(self, path: str, packed: Any, rank: int) -> Any:
        """Codes under the name that the float layer's weight had."""
        for place in PLACES:
            match = re.fullmatch(rf"(?:(?P<owner>.*?)\.)?{place.pattern}", path)
            if match:
                owner, found = match["owner"] or "", match.groupdict()
                suffix = found.get("suffix", "")
                if "cell" in found:
                    directions = 2 if _at(self._source, owner).bidirectional else 1
                    layer, direction = divmod(int(found["cell"]), directions)
                    suffix = f"_l{layer}{'_reverse' if direction else ''}"
                return unpacked(self.get_submodule(owner), packed, suffix, rank)
        parent, _, name = path.rpartition(".")
        child = OverCodes()
        self.get_submodule(parent).add_module(name, child)
        return child.over(unpacked(child, packed, rank=rank))

    def _run(self, values: dict[str, Any]) -> Any:
        values |= self._known
        # Read now: exporters exchange the tensors of a module while they trace.
        values |= {name: getattr(owner, attribute) for name, (owner, attribute) in self._tensors.items()}
        values |= {name: [getattr(owner, one) for one in names] for name, (owner, names) in self._lists.items()}
        outputs = Run(values).block(self._graph)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class Run:
    """One run of a graph: the values that it has computed so far, by name."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.floating = Floating()

    def block(self, block: Any) -> list[Any]:
        for node in block.nodes():
            self.node(node)
        return self._take(block.outputs())

    def node(self, node: Any) -> None:
        name = node.kind()
        if name in ("prim::Constant", "prim::GetAttr"):
            return
        if name == "prim::If":
            then, otherwise = node.blocks()
            results = self.block(then if self._take(node.inputs())[0] else otherwise)
        elif name == "prim::Loop":
            results = self._loop(node)
        elif name in UNPACKS:
            results = list(self._take(node.inputs())[0])
        else:
            result = self._call(node, self._take(node.inputs()))
            results = list(result) if node.outputsSize() > 1 else [result] * node.outputsSize()
        self._put(node.outputs(), results)

    def _loop(self, node: Any) -> list[Any]:
        (body,) = node.blocks()
        most, go_on, *carried = self._take(node.inputs())
        step = 0
        while go_on and step < most:
            self._put(body.inputs(), [step, *carried])
            go_on, *carried = self.block(body)
            step += 1
        return carried

    def _call(self, node: Any, args: list[Any]) -> Any:
        name = node.kind()
        if name in ABOUT:
            return ABOUT[name](*args)
        if name == "aten::_convolution":
            # With the choices of a backend at the end, which an exporter does not know.
            return torch.ops.aten.convolution(*args[:9])
        if name in ABOUT_NUMBERS and not any(_holds_tensor(value) for value in args):
            return ABOUT_NUMBERS[name](*args)
        schema = torch._C.parse_schema(node.schema())  # noqa: SLF001 - there is no public way
        pairs = [
            (argument, typed(str(argument.real_type), value))
            for argument, value in zip(schema.arguments, args, strict=True)
        ]
        positional = [value for argument, value in pairs if not argument.kwarg_only]
        named = {argument.name: value for argument, value in pairs if argument.kwarg_only}
        function = self.floating.function(name)
        return function(*positional, **named) if function else _overload(name, schema)(*positional, **named)

    def _take(self, values: Any) -> list[Any]:
        return [self.values[value.debugName()] for value in values]

    def _put(self, values: Any, results: list[Any]) -> None:
        self.values.update(zip((value.debugName() for value in values), results, strict=True))


def _address(tensor: Tensor) -> tuple[int, object]:
    return tensor.data_ptr(), tensor.storage_offset()


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list) and any(isinstance(one, Tensor) for one in value))


def _overload(name: str, schema: Any) -> Any:
    namespace, _, short = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), short), schema.overload_name or "default")


def _signature(source: Any) -> inspect.Signature:
    kinds = inspect.Parameter
    return inspect.Signature(
        [
            kinds(
                argument.name,
                kinds.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else kinds.empty,
            )
            for argument in source.forward.schema.arguments[1:]
        ]
    )


def _at(source: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        source = getattr(source, name)
    return source


def _copy(source: Module, target: Module) -> None:
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, torch.nn.Parameter(parameter.detach(), requires_grad=False))
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer.detach())
    for name, child in source.named_children():
        copy = Module()
        target.add_module(name, copy)
        _copy(child, copy)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _check(graph: Any) -> None:
    """Refuse what cannot be interpreted, all of it at once."""
    unknown = sorted({node.kind() for node in _nodes(graph) if not _known(node)})
    if unknown:
        raise CompressorError(
            f"the TorchScript has operators without a float form: {', '.join(unknown)}. Replace them in the model, or "
            "save its state dict."
        )


def _known(node: Any) -> bool:
    name = node.kind()
    if name in FORBIDDEN or not supported(name):
        return False
    if name in STRUCTURE or name in ABOUT or name in ABOUT_NUMBERS or name.startswith("quantized::"):
        return True
    namespace, _, short = name.partition("::")
    # What takes and gives no tensor is TorchScript's alone: torch.ops cannot call it for values of Python.
    return (namespace == "aten" and short in FLOAT) or (
        "Tensor" in node.schema() and hasattr(getattr(torch.ops, namespace), short)
    )


def _rank(graph: Any, output: str) -> int:
    """The rank of the convolution that takes the packed parameters `output`: those of rank 1 are packed as rank 2."""
    takers = [node.kind() for node in _nodes(graph) if output in [value.debugName() for value in node.inputs()]]
    return 1 if any("1d" in name for name in takers) else 0
