"""The graph of a folder: transformers' architecture, filled with the folder's values, over the folder's codes."""

# ruff: noqa: TID253 - imported where a model is exported, and nowhere else

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import Module

from compressor import encodings, references
from compressor.arrays import BFLOAT16, Array
from compressor.encodings import Dense, Encoding
from compressor.errors import CompressorError, UsageError
from compressor.formats.onnx import decoding
from compressor.model import Weight
from compressor.sources import InputSpec
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.huggingface.weights import Content
from compressor.sources.torch import OPSETS
from compressor.sources.torch.declared import Declared
from compressor.sources.torch.declared.place import place
from compressor.sources.torch.load import build, fill
from compressor.sources.torch.tidy import stored_names, tidy, write
from compressor.sources.torch.trace import quiet, trace

log = logging.getLogger(__name__)

DEFAULT_INPUTS = {"input_ids": InputSpec((1, 16), "int64")}
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
) -> None:
    """Write the graph. The arguments are those of the exporter.

    Raises: CompressorError when the architecture is not known or does not fit, UsageError when the request does not.
    """
    _check(checkpoint, content, opset)
    with quiet(), torch.no_grad(), references.importable_here():
        dtype = _compute_dtype(content.weights)
        model = build(factory, args).to(dtype) if factory else _architecture(checkpoint, args, dtype)
        names = _fitting(model, content)
        weights = tuple(weight for weight in content.weights if weight.name in names)
        state = {weight.name: _tensor(_value(weight)) for weight in weights}
        state |= {name: _tensor(array) for name, array in content.others.items() if name in names}
        fill(model.eval(), state, checkpoint.path, f"export.factory {factory}" if factory else type(model).__name__)
        del state
        program = trace(model, inputs or _default_inputs(model), outputs, opset)
        stored = stored_names(model)
        tidy(program, stored)
        for weight in weights:
            _keep_dtype(program.model.graph, stored[weight.name], weight)
        place(program.model, _declared(weights), stored, opset)
        write(program.model, directory)


def _check(checkpoint: Checkpoint, content: Content, opset: int) -> None:
    """Refuse what cannot be exported with its codes.

    Raises:
        CompressorError: a weight is kept as bytes that nothing here decodes.
        UsageError: one cannot be said in the opset, or there is no such opset.
    """
    if opset not in OPSETS:
        raise UsageError(f"export.opset is {opset}: expected {OPSETS.start} to {OPSETS.stop - 1}.")
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
    needed = max((decoding.needs_opset(weight.encoding) for weight in encoded), default=opset)
    if needed > opset:
        first = next(weight for weight in encoded if decoding.needs_opset(weight.encoding) == needed)
        raise UsageError(
            f"export.opset is {opset}, but {first.name} is {encodings.name(first.encoding)}, which keeps its codes "
            f"from opset {needed} on. Set export.opset: {needed} in params.yaml (or -S export.opset={needed})."
        )


def _declared(weights: Iterable[Weight]) -> Declared:
    """What the graph stores in a form of its own, and what there is to say of others."""
    encoded: dict[str, Encoding] = {}
    notes: dict[str, str] = {}
    for weight in weights:
        if weight.note:
            notes[weight.name] = weight.note
        if isinstance(weight.encoding, Dense):
            continue
        if reason := decoding.why_not(weight.encoding):
            notes[weight.name] = f"{encodings.name(weight.encoding)}, kept as values: {reason}"
        else:
            encoded[weight.name] = weight.encoding
    return Declared(encoded, notes)


def _architecture(checkpoint: Checkpoint, args: Mapping[str, object], dtype: torch.dtype) -> Module:
    """The module that config.json names, of which no code lies in the folder."""
    if args:
        raise UsageError("export.args are those of export.factory, which is not set: the model is that of config.json.")
    import transformers

    named = checkpoint.config.get("architectures")
    name = named[0] if isinstance(named, list) and named else "AutoModel"
    kind: Any = getattr(transformers, str(name), None)
    known = inspect.isclass(kind) and (name == "AutoModel" or issubclass(kind, transformers.PreTrainedModel))
    if not known:
        raise CompressorError(
            f"{checkpoint.path / CONFIG}: transformers {transformers.__version__} has no architecture {name!r}. "
            "Upgrade transformers, or set export.factory to the function that builds it."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(checkpoint.path), trust_remote_code=False, local_files_only=True
        )
        for key in ("quantization_config", "compression_config"):
            vars(config).pop(key, None)
        config.use_cache = False  # a graph returns no cache
        make = kind.from_config if name == "AutoModel" else kind._from_config  # noqa: SLF001 - the public one takes no class
        made: Module = make(config, dtype=dtype, attn_implementation="eager")
    except Exception as error:  # a configuration may break anything in the code of its architecture
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompressorError(
            f"{checkpoint.path / CONFIG}: transformers cannot build {name}: {line} Correct it, or set export.factory."
        ) from error
    return made


def _default_inputs(model: Module) -> Mapping[str, InputSpec]:
    parameters = inspect.signature(model.forward).parameters
    if not DEFAULT_INPUTS.keys() <= parameters.keys():
        raise UsageError(
            f"export.inputs is empty, and {type(model).__name__}.forward takes ({', '.join(parameters)}): declare "
            "every input of the model, as NAME: {shape: [...], dtype: ...}."
        )
    return DEFAULT_INPUTS


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


def _value(weight: Weight) -> Array:
    if isinstance(weight.encoding, Dense):
        return weight.encoding.values
    return encodings.decode(weight.encoding)


def _tensor(array: Array) -> torch.Tensor:
    values = np.ascontiguousarray(np.asarray(array))
    if values.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def _keep_dtype(graph: ir.Graph, name: str, weight: Weight) -> None:
    """A weight of another dtype than the model computes in is stored in its own, and cast."""
    old, kept = graph.initializers.get(name), encodings.dtype(weight.encoding)
    if old is None or old.const_value is None or old.const_value.dtype.numpy() == kept or not len(graph):
        return
    to = old.const_value.dtype
    graph.initializers.pop(name)
    own = ir.Value(name=name, const_value=ir.Tensor(np.asarray(_value(weight)), name=name))
    cast = ir.node("Cast", [own], {"to": to}, name=f"{name}.cast")
    cast.outputs[0].name = f"{name}.cast"
    cast.outputs[0].dtype = to
    ir.convenience.replace_all_uses_with(old, cast.outputs[0], replace_graph_outputs=True)
    graph.initializers.add(own)
    graph.insert_before(graph[0], cast)
