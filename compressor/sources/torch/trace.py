"""Torch's own exporter, fed with declared inputs; its errors in terms of the declaration."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import PurePath
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn import Module
from torch.onnx import ONNXProgram
from torch.utils._pytree import MappingKey, tree_flatten_with_path, tree_unflatten

from compressor.errors import CompressorError, UsageError, unknown
from compressor.sources import InputSpec, Reached, unheard
from compressor.sources.torch.operators import TRANSLATIONS

DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_OTHERS = (PurePath(torch.__file__).parent, PurePath(__file__).parent)
"""Where the code lies that is no model's."""
CHATTER = ("torch", "torchao", "onnxscript", "onnx_ir", "transformers")


@dataclass(frozen=True)
class Call:
    """How torch's exporter is to call the model."""

    args: tuple[torch.Tensor, ...] = ()
    kwargs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    input_names: list[str] | None = None
    dynamic_shapes: Any = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log lines, which name nothing that a user could change."""
    loggers = [logging.getLogger(name) for name in CHATTER]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def trace(
    model: Module | ExportedProgram,
    inputs: Mapping[str, InputSpec],
    outputs: Sequence[str],
    opset: int,
    reached: Reached = unheard,
) -> ONNXProgram:
    """The unoptimized ONNX program of `model`, with its inputs and outputs named.

    Raises: UsageError when the declaration does not fit the model, CompressorError when torch cannot export it.
    """
    examples = example_inputs(inputs)
    if isinstance(model, ExportedProgram):
        _check_program(model, inputs, examples)
        call = Call(input_names=list(model.graph_signature.user_inputs))
        returned = tree_unflatten(list(model.graph_signature.user_outputs), model.call_spec.out_spec)
    else:
        call = _call(model, inputs, examples)
        returned = _run(model, call, inputs)
    names = _output_names(returned, outputs)
    reached("inputs")
    try:
        # On a failure torch prints the graphs it had so far, wherever logging is sent.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            program = torch.onnx.export(
                model,
                call.args,
                kwargs=dict(call.kwargs),
                input_names=call.input_names,
                output_names=names,
                dynamic_shapes=call.dynamic_shapes,
                opset_version=opset,
                dynamo=True,
                custom_translation_table=dict(TRANSLATIONS),
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        raise CompressorError(_explained(error)) from error
    if program is None:
        raise CompressorError("torch.onnx.export returned no program.")
    return program


def check_inputs(inputs: Mapping[str, InputSpec]) -> None:
    """That the declared inputs are such as a model can have.

    Raises: UsageError when one is not.
    """
    sizes: dict[str, int] = {}
    for name, spec in inputs.items():
        key = f"export.inputs.{name}"
        if spec.dtype not in DTYPES:
            raise unknown(f"dtype ({key}.dtype)", spec.dtype, DTYPES)
        if any(size < 1 for size in spec.shape):
            raise UsageError(f"{key}.shape is {list(spec.shape)}: every size must be 1 or more.")
        for axis, symbol in spec.dynamic.items():
            if not 0 <= axis < len(spec.shape):
                raise UsageError(f"{key}.dynamic names axis {axis}, but {key}.shape has {len(spec.shape)} axes.")
            if sizes.setdefault(symbol, spec.shape[axis]) != spec.shape[axis]:
                raise UsageError(
                    f"{key}.dynamic: axis {axis} is {symbol!r} with the size {spec.shape[axis]}, which is "
                    f"{sizes[symbol]} elsewhere. Give axes of one name one size in the shapes."
                )


def example_inputs(inputs: Mapping[str, InputSpec]) -> dict[str, torch.Tensor]:
    """A tensor for each declared input: uniform in [0, 1) or zeros, an index that every table has."""
    check_inputs(inputs)
    generator = torch.Generator().manual_seed(0)
    examples = {}
    for name, spec in inputs.items():
        # torch.export takes a size of 1 for a constant.
        shape = [max(size, 2) if axis in spec.dynamic else size for axis, size in enumerate(spec.shape)]
        dtype = DTYPES[spec.dtype]
        floats = dtype.is_floating_point
        examples[name] = torch.rand(shape, generator=generator).to(dtype) if floats else torch.zeros(shape, dtype=dtype)
    return examples


def _call(model: Module, inputs: Mapping[str, InputSpec], examples: Mapping[str, torch.Tensor]) -> Call:
    parameters = inspect.signature(model.forward).parameters
    variadic = [p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL]
    shapes = {name: dict(spec.dynamic) or None for name, spec in inputs.items()}
    if variadic and not set(examples) <= set(parameters):
        return Call(tuple(examples.values()), input_names=list(examples), dynamic_shapes=(tuple(shapes.values()),))
    wrong = [name for name in examples if name not in parameters]
    required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    missing = [name for name in required if name not in examples and name not in variadic]
    if wrong or missing:
        problems = [f"export.inputs.{name} is no parameter of it" for name in wrong]
        problems += [f"export.inputs.{name} is not declared" for name in missing]
        raise UsageError(f"{type(model).__name__}.forward takes ({', '.join(parameters)}): {'; '.join(problems)}.")
    # In the order of `forward`, which is the order of the graph's inputs.
    order = [name for name in parameters if name in examples]
    kwargs = {name: examples[name] for name in order}
    return Call(kwargs=kwargs, dynamic_shapes={name: shapes[name] for name in order})


def _run(model: Module, call: Call, inputs: Mapping[str, InputSpec]) -> object:
    try:
        return model(*call.args, **call.kwargs)
    except Exception as error:  # the model is the user's code
        raise UsageError(
            f"{type(model).__name__}.forward refused the declared inputs ({_declared(inputs)}): {first_line(error)}. "
            "Correct export.inputs.NAME.shape or .dtype."
        ) from error


def _declared(inputs: Mapping[str, InputSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in inputs.items())


def _check_program(
    program: ExportedProgram, inputs: Mapping[str, InputSpec], examples: Mapping[str, torch.Tensor]
) -> None:
    """An ExportedProgram has its inputs built in: the declaration must say the same."""
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    taken = {name: nodes[name] for name in program.graph_signature.user_inputs}
    problems = [f"export.inputs.{name} is no input of it" for name in inputs if name not in taken]
    problems += [f"export.inputs.{name} is not declared" for name in taken if name not in inputs]
    for name, value in taken.items():
        if name not in inputs or not isinstance(value, torch.Tensor):
            continue
        spec = inputs[name]
        fixed = [_size(size) for size in value.shape]
        fits = len(fixed) == len(spec.shape) and all(
            size is None if axis in spec.dynamic else size in (None, declared)
            for axis, (size, declared) in enumerate(zip(fixed, spec.shape, strict=True))
        )
        if not fits or value.dtype is not examples[name].dtype:
            sizes = ["?" if size is None else size for size in fixed]
            problems.append(
                f"export.inputs.{name} is declared {spec.dtype} {list(spec.shape)}, dynamic {dict(spec.dynamic)}, but "
                f"the program was traced with {str(value.dtype).removeprefix('torch.')} [{', '.join(map(str, sizes))}]"
            )
    if problems:
        raise UsageError(f"the ExportedProgram takes ({', '.join(taken)}): {'; '.join(problems)}.")


def _size(size: Any) -> int | None:
    """A size of a traced tensor, None where it is symbolic."""
    return size if isinstance(size, int) else None


def _output_names(structure: object, outputs: Sequence[str]) -> list[str]:
    leaves, _ = tree_flatten_with_path(structure)
    if outputs:
        if len(outputs) != len(leaves) or len(set(outputs)) != len(outputs):
            raise UsageError(
                f"export.outputs names {list(outputs)}: the model returns {len(leaves)} tensors, name each once."
            )
        return list(outputs)
    keys = [path[0].key for path, _ in leaves if len(path) == 1 and isinstance(path[0], MappingKey)]
    if len(keys) == len(leaves):
        return [str(key) for key in keys]
    return ["output"] if len(leaves) == 1 else [f"output_{index}" for index in range(len(leaves))]


def _explained(error: BaseException) -> str:
    """What stopped the exporter: the operator without a translation, the axis that is not dynamic, or torch's words."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 16:
        chain.append(cause)
        cause = cause.__cause__
    text = "\n".join(str(each) for each in chain)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)', overload='([^']+)'\)>", text)
    if operator:
        return (
            f"torch's exporter has no ONNX form for the operator {operator[1]}.{operator[2]}{_location(text)}. "
            "Replace it in the model's forward by operators that have one."
        )
    if any(words in text for words in ("Constraints violated", "inferred a static shape", "marked as dynamic")):
        detail = first_line(chain[-1])
        return (
            f"an axis declared dynamic has a fixed size in the model: {detail}. "
            "Remove it from export.inputs.NAME.dynamic, or change what fixes it in forward."
        )
    return (
        f"torch cannot export the model{_location(text)}: {first_line(chain[-1])}. "
        "Make forward traceable (no control flow on values, no .item(), no NumPy) or export a .pt2 yourself."
    )


def _location(text: str) -> str:
    """The last line of the user's own code that an error names."""
    found = re.findall(r"File \"?([^\s\",]+)\"?, line (\d+), in (\w+)", text)
    own = [
        f" ({PurePath(path).name}:{line}, in {name})"
        for path, line, name in found
        if not any(PurePath(path).is_relative_to(folder) for folder in _OTHERS)
    ]
    return own[-1] if own else ""


def first_line(error: BaseException) -> str:
    """The type of an error and its first line, with the second one where the first announces it."""
    lines = [line.strip("- \t") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {text.rstrip('.')}"
