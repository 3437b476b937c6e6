"""The graph of a folder: transformers' architecture, filled with the folder's values, over the folder's codes."""

# ruff: noqa: TID253 - imported where a model is exported, and nowhere else

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import Module

from compressor import encodings, references
from compressor.arrays import BFLOAT16, Array, DType
from compressor.encodings import Dense, Encoding
from compressor.errors import CompressorError, UsageError
from compressor.formats.onnx import decoding
from compressor.sources import InputSpec, Reached
from compressor.sources.huggingface import pretrained
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.huggingface.weights import Content
from compressor.sources.torch import check_opset, exported
from compressor.sources.torch.declared import Declared
from compressor.sources.torch.load import build, check_factory, fill
from compressor.sources.torch.merge import unprefixed
from compressor.sources.torch.tidy import stored_names, tidy
from compressor.sources.torch.trace import check_inputs, quiet, trace
from compressor.weight import Weight

log = logging.getLogger(__name__)

TOKENS = InputSpec((1, 16), "int64")
"""What a model of text takes where nothing is declared."""


def export(
    checkpoint: Checkpoint,
    content: Content,
    directory: Path,
    factory: str | None,
    args: Mapping[str, object],
    inputs: Mapping[str, InputSpec],
    outputs: Sequence[str],
    opset: int,
    reached: Reached,
) -> None:
    """Write the graph. The arguments are those of the exporter.

    Raises: CompressorError when the architecture is not known or does not fit, UsageError when the request does not.
    """
    check_inputs(inputs)
    reached("declared")
    if factory:
        check_factory(factory, args)
    reached("imports")
    _check(checkpoint, content, opset)
    reached("opset")
    with quiet(), torch.no_grad(), references.importable_here():
        dtype = _compute_dtype(content.weights)
        if factory:
            model = build(factory, args).to(dtype)
            reached("factory")
            model, owners = _filled(model, checkpoint, content, dtype, factory)
        else:
            model, owners = _pretrained(checkpoint, content, args, dtype)
        reached("weights")
        inputs = inputs or _default_inputs(model)
        program = trace(model.eval(), inputs, outputs, opset, reached)
        stored = stored_names(model)
        tidy(program, stored)
        _keep_dtypes(program.model.graph, model, stored, owners, content.weights)
        exported.write(program.model, model, inputs, _declared(owners), stored, directory)
    reached("graph")


Owners = Mapping[str, Weight]
"""The weights of a folder by the names that a module has for them; what a folder stores otherwise has none."""


def _filled(
    model: Module, checkpoint: Checkpoint, content: Content, dtype: torch.dtype, factory: str
) -> tuple[Module, Owners]:
    """A factory's module with the folder's tensors, whose names it must have, but for a prefix of all."""
    fitting = _fitting(model, content)
    state = {name: tensor for name, tensor in _state(content, dtype).items() if name in fitting}
    names = {id(tensor): name for name, tensor in unprefixed(state, model.state_dict()).items()}
    fill(model, state, checkpoint.path, f"export.factory {factory}")
    own = model.state_dict().keys()
    found = {names[id(state[weight.name])]: weight for weight in content.weights if weight.name in state}
    return model, {name: weight for name, weight in found.items() if name in own}


def _pretrained(
    checkpoint: Checkpoint, content: Content, args: Mapping[str, object], dtype: torch.dtype
) -> tuple[Module, Owners]:
    """The architecture that config.json names, filled by transformers.

    A parameter that lies where a tensor of the folder lies, in its shape, is that tensor, whatever both are called.
    """
    state = _state(content, dtype)
    model = pretrained.load(checkpoint, state, args, dtype)
    weights = {_place(state[weight.name]): weight for weight in content.weights}
    places = {name: _place(tensor) for name, tensor in model.state_dict().items()}
    return model, {name: weights[place] for name, place in places.items() if place in weights}


def _state(content: Content, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The values of a folder by name, weights as `dtype`."""
    state = {weight.name: _tensor(encodings.decode(weight.encoding)).to(dtype) for weight in content.weights}
    return state | {name: _tensor(array) for name, array in content.others.items()}


def _place(tensor: torch.Tensor) -> tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr() if tensor.numel() else id(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _check(checkpoint: Checkpoint, content: Content, opset: int) -> None:
    """Refuse what cannot be exported with its codes.

    Raises:
        CompressorError: a weight is kept as bytes that nothing here decodes.
        UsageError: one cannot be said in the opset, or there is no such opset.
    """
    check_opset(opset)
    if bare := [weight for weight in content.weights if weight.pinned]:
        raise CompressorError(f"{checkpoint.path}: {bare[0].name}: {bare[0].pinned}. Export the model before that.")
    if checkpoint.quantization.get("transform_config"):
        raise CompressorError(
            f"{checkpoint.path / CONFIG}: quantization_config.transform_config rotates activations while the model "
            "runs, which is not exported. Quantize without it, or export the model before."
        )
    groups = checkpoint.quantization.get("config_groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and (group.get("input_activations") or group.get("output_activations")):
            log.warning(
                "%s: config_groups.%s quantizes activations: they are exported in float.", checkpoint.path, name
            )
    encoded = [weight for weight in content.weights if not isinstance(weight.encoding, Dense)]
    opsets = [decoding.needs_opset(decoding.in_opset(weight.encoding, opset)) for weight in encoded]
    needed = max(opsets, default=opset)
    if needed > opset:
        first = encoded[opsets.index(needed)]
        raise UsageError(
            f"export.opset is {opset}, but {first.name} is {encodings.name(first.encoding)}, which keeps its codes "
            f"from opset {needed} on. Set export.opset: {needed} in params.yaml (or -S export.opset={needed})."
        )


def _declared(owners: Owners) -> Declared:
    """What the graph stores in a form of its own, and what there is to say of others."""
    encoded: dict[str, Encoding] = {}
    notes: dict[str, str] = {}
    for name, weight in owners.items():
        if weight.note:
            notes[name] = weight.note
        if isinstance(weight.encoding, Dense):
            continue
        if reason := decoding.why_not(weight.encoding):
            notes[name] = f"{encodings.name(weight.encoding)}, kept as values: {reason}"
        else:
            encoded[name] = weight.encoding
    return Declared(encoded, notes)


def _default_inputs(model: Module) -> Mapping[str, InputSpec]:
    """Tokens for a model of text, an image of the size in its configuration for one of images."""
    parameters = inspect.signature(model.forward).parameters
    if "input_ids" in parameters:
        return {"input_ids": TOKENS}
    config = getattr(model, "config", None)
    channels, size = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    sizes = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if "pixel_values" in parameters and isinstance(channels, int) and len(sizes) == 2:
        return {"pixel_values": InputSpec((1, channels, *sizes))}
    raise UsageError(
        f"export.inputs is empty, and {type(model).__name__}.forward takes ({', '.join(parameters)}): declare "
        "every input of the model, as NAME: {shape: [...], dtype: ...}."
    )


def _fitting(model: Module, content: Content) -> frozenset[str]:
    """The names of the tensors that are loaded: not those that the architecture declares as superfluous.

    Nor indices that it does not have; what else it does not have is an error when it is filled.
    """
    weights = {weight.name for weight in content.weights}
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    superfluous = {name for name in weights for pattern in patterns if re.search(pattern, name)}
    present = model.state_dict().keys() & (weights | content.others.keys())
    return frozenset((weights - superfluous) | present)


def _compute_dtype(weights: Iterable[Weight]) -> torch.dtype:
    """What the model computes in: the narrowest dtype that holds all values and has kernels everywhere.

    ONNX Runtime has none for bfloat16 on processors.
    """
    found = {encodings.dtype(weight.encoding) for weight in weights}
    if found == {np.dtype(np.float16)}:
        return torch.float16
    return torch.float64 if np.dtype(np.float64) in found else torch.float32


def _tensor(array: Array) -> torch.Tensor:
    values = np.asarray(np.asarray(array), order="C")
    if values.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _keep_dtypes(
    graph: ir.Graph, model: Module, stored: Mapping[str, str], owners: Owners, weights: Iterable[Weight]
) -> None:
    """What the folder has in another dtype than the model computes in is stored in its own, and cast.

    What is computed of several tensors is stored in the narrowest of their dtypes that holds its values.
    """
    found = {encodings.dtype(weight.encoding) for weight in weights}
    narrow = sorted(found, key=lambda each: each.itemsize)
    for name, tensor in model.state_dict().items():
        if stored.get(name) != name or not tensor.is_floating_point():
            continue
        if name in owners:
            _keep_dtype(
                graph, name, encodings.dtype(owners[name].encoding), partial(encodings.decode, owners[name].encoding)
            )
            continue
        values = tensor.numpy()
        kept = next((each for each in narrow if np.array_equal(values.astype(each).astype(values.dtype), values)), None)
        if kept is not None:
            _keep_dtype(graph, name, kept, partial(values.astype, kept))


def _keep_dtype(graph: ir.Graph, name: str, kept: DType, values: Callable[[], Array]) -> None:
    old = graph.initializers.get(name)
    if old is None or old.const_value is None or old.const_value.dtype.numpy() == kept or not len(graph):
        return
    to = old.const_value.dtype
    graph.initializers.pop(name)
    own = ir.Value(name=name, const_value=ir.Tensor(np.asarray(values()), name=name))
    cast = ir.node("Cast", [own], {"to": to}, name=f"{name}.cast")
    cast.outputs[0].name = f"{name}.cast"
    cast.outputs[0].dtype = to
    ir.convenience.replace_all_uses_with(old, cast.outputs[0], replace_graph_outputs=True)
    graph.initializers.add(own)
    graph.insert_before(graph[0], cast)
