"""From a file to the model it holds, without running code of the file."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import difflib
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.export import ExportedProgram
from torch.nn import Module
from torch.nn.utils import prune

from compressor import references
from compressor.errors import CompressorError, UsageError, unknown
from compressor.sources.torch import SUFFIXES

SETTING = "export.factory"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
"""Where the checkpoints of trainings hold the state dict, beside an optimizer's and the like."""
PLAIN = (bool, int, float, str, list, type(None))
"""What configurations consist of, and no state dict does."""
ALLOW = "set export.allow_pickle: true in params.yaml (or -S export.allow_pickle=true)"
SHOWN = 8


def load(
    source: Path, *, factory: str | None, args: Mapping[str, object], allow_pickle: bool
) -> Module | ExportedProgram:
    """The model of `source`: a module with the file's weights, or the program that a `.pt2` file holds."""
    suffix = source.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("suffix of a torch model", source.suffix, SUFFIXES)
    if not source.is_file():
        raise CompressorError(f"{source}: no such file. Name the file that the training wrote.")
    if suffix == ".pt2":
        if factory is not None:
            raise UsageError(f"{source}: an ExportedProgram needs no factory. Remove export.factory ({factory}).")
        return _read_program(source)
    content = _read_safetensors(source) if suffix == ".safetensors" else _read_pickle(source, allow_pickle=allow_pickle)
    if isinstance(content, Module):
        if factory is not None:
            raise UsageError(
                f"{source}: holds a whole module, which needs no factory. Remove export.factory ({factory})."
            )
        return _without_pruning(content)
    state = _state_dict(source, content)
    if factory is None:
        raise UsageError(
            f"{source}: holds a state dict. Set export.factory to the module:function that builds its model."
        )
    model = build(factory, args)
    fill(model, state, source, factory)
    return _without_pruning(model)


def _read_program(source: Path) -> ExportedProgram:
    # torch reads constants and example inputs of a program with weights_only, so no code runs here either.
    try:
        return torch.export.load(source)
    except Exception as error:  # torch raises whatever the archive's reader or its schema check raises
        raise CompressorError(f"{source}: not a readable ExportedProgram ({_line(error)}). Save it again.") from error


def _read_safetensors(source: Path) -> object:
    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise CompressorError(f"{source}: not a readable safetensors file ({_line(error)}). Save it again.") from error


def _read_pickle(source: Path, *, allow_pickle: bool) -> object:
    # Only the zip format can be mapped; the legacy one is read into memory.
    mapped = zipfile.is_zipfile(source)
    try:
        return torch.load(source, map_location="cpu", mmap=mapped, weights_only=not allow_pickle)
    except Exception as error:  # an unpickler raises any exception on damaged bytes
        wanted = sorted(
            set(re.findall(r"GLOBAL (\S+)", str(error)) + re.findall(r"class (\S+) to be added", str(error)))
        )
        if isinstance(error, UnpicklingError) and wanted and not allow_pickle:
            raise CompressorError(
                f"{source}: this pickle runs code when it is loaded ({', '.join(wanted)}), which is refused. "
                f"Save model.state_dict() instead, or, if you trust the file, {ALLOW}."
            ) from error
        instruction = re.search(r"Unsupported operand (\d+)", str(error))
        known = {ord(code.code) for code in pickletools.opcodes}
        if mapped and instruction and int(instruction[1]) in known and not allow_pickle:
            raise CompressorError(
                f"{source}: the reader that runs no code does not know instruction {instruction[1]} of this pickle: it "
                "is damaged, or was saved with a later pickle_protocol than torch's default. Save it again with the "
                f"default, or, if you trust the file, {ALLOW}."
            ) from error
        if "TorchScript" in str(error):
            raise CompressorError(
                f"{source}: a TorchScript archive, which is not read. Save model.state_dict(), or an ExportedProgram."
            ) from error
        raise CompressorError(
            f"{source}: truncated or not a torch checkpoint ({_line(error)}). Save it again."
        ) from error


def _state_dict(source: Path, content: object) -> Mapping[str, object]:
    if not isinstance(content, Mapping):
        raise CompressorError(
            f"{source}: expected a state dict, got a {type(content).__name__}. Save model.state_dict()."
        )
    inner: list[Mapping[str, object]] = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
    # A wrapper's name may also be that of a configuration.
    for state in (*(one for one in inner if not all(isinstance(value, PLAIN) for value in one.values())), content):
        if all(isinstance(key, str) for key in state) and not any(isinstance(v, Mapping) for v in state.values()):
            return state
    found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
    wrappers = ", ".join(map(repr, WRAPPERS))
    raise CompressorError(f"{source}: expected a state dict, or one under {wrappers}; found the keys {found}.")


def build(factory: str, args: Mapping[str, object]) -> Module:
    """The module that `factory`, spelled `module:function`, returns for `args`."""
    function = references.load(factory, SETTING)
    given = ", ".join(f"{key}={value!r}" for key, value in args.items())
    try:
        model = references.call(function, f"{SETTING} {factory}({given})", **args)
    except CompressorError as error:
        raise CompressorError(f"{error}. Correct it, or export.args.") from error
    if not isinstance(model, Module):
        raise CompressorError(f"{SETTING} {factory} returned a {type(model).__name__}: expected a torch.nn.Module.")
    return model


def fill(model: Module, state: Mapping[str, object], source: Path, factory: str) -> None:
    """Load `state` into `model`, strictly: every name and shape must agree, no value may lose precision.

    Raises: CompressorError that lists all the names, shapes or dtypes that do not fit.
    """
    expected = model.state_dict()
    versions = getattr(state, "_metadata", getattr(expected, "_metadata", None))
    state = _merge_masks(state, expected)
    missing = _missing(expected, state)
    unexpected = [key for key in state if key not in expected]
    problems = [
        _names("missing from the file", missing, unexpected),
        _names("unknown to the model", unexpected, missing),
        *_mismatches(expected, state),
    ]
    if any(problems):
        text = "; ".join(problem for problem in problems if problem)
        raise CompressorError(f"{source} does not fit the model of export.factory {factory}: {text}.")
    try:
        # Quantized modules read their entries by version, which a dict comprehension over a state dict has lost.
        state._metadata = versions  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
        # Names were compared above, where a name that only repeats a tied weight may be absent.
        model.load_state_dict(state, strict=False)
    except Exception as error:  # modules run their own loading code
        raise CompressorError(
            f"{source} does not fit the model of export.factory {factory}: {_line(error)}."
        ) from error


def _missing(expected: Mapping[str, object], state: Mapping[str, object]) -> list[str]:
    """Names that the file lacks, but not those of weights that it has under another name (safetensors keeps one)."""
    loaded = {_storage(expected[key]) for key in state if key in expected} - {None}
    # Counters of batch norm are absent from checkpoints older than torch 0.4.1 and have no influence on results.
    return [
        key
        for key, value in expected.items()
        if key not in state and _storage(value) not in loaded and not key.endswith("num_batches_tracked")
    ]


def _storage(value: object) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    if not isinstance(value, torch.Tensor) or value.is_quantized or value.numel() == 0:
        return None
    return value.data_ptr(), tuple(value.shape), tuple(value.stride())


def _merge_masks(state: Mapping[str, object], expected: Mapping[str, object]) -> OrderedDict[str, object]:
    """Replace `weight_orig` and `weight_mask` of torch.nn.utils.prune by their product, for a model without masks."""
    merged = OrderedDict(state)
    for key in state:
        name = key.removesuffix("_orig")
        original, mask = state[key], state.get(f"{name}_mask")
        if name == key or key in expected or name not in expected:
            continue
        if isinstance(original, torch.Tensor) and isinstance(mask, torch.Tensor):
            merged[name] = original * mask.to(original.dtype)
            del merged[key], merged[f"{name}_mask"]
    return merged


def _names(what: str, names: list[str], others: Iterable[str]) -> str:
    if not names:
        return ""
    pool = list(others)
    shown = []
    for name in names[:SHOWN]:
        close = difflib.get_close_matches(name, pool, n=1)
        shown.append(f"{name} (closest: {close[0]})" if close else name)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(shown)}{more}"


def _mismatches(expected: Mapping[str, object], state: Mapping[str, object]) -> Iterator[str]:
    pairs = [
        (name, old, new)
        for key in expected
        if key in state
        for name, old, new in _tensor_pairs(key, expected[key], state[key])
    ]
    shapes = [
        f"{name} is {list(new.shape)} in the file, {list(old.shape)} in the model"
        for name, old, new in pairs
        if old.shape != new.shape
    ]
    lossy = [
        f"{name} is {_dtype(new)} in the file, {_dtype(old)} in the model, which cannot hold it"
        for name, old, new in pairs
        if old.dtype != new.dtype
        and (old.is_quantized or new.is_quantized or torch.promote_types(old.dtype, new.dtype) != old.dtype)
    ]
    yield _names("shapes differ", shapes, ())
    yield _names("dtypes differ", lossy, ())


def _tensor_pairs(name: str, old: object, new: object) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        yield name, old, new
    elif isinstance(old, tuple) and isinstance(new, tuple):
        # Packed weights of quantized linear modules: (weight, bias), which torch itself replaces without a check.
        for one, other in zip(old, new, strict=False):
            yield from _tensor_pairs(name, one, other)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _without_pruning(model: Module) -> Module:
    """Make the masks of torch.nn.utils.prune part of their weights, under the weights' own names."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):  # noqa: SLF001 - prune finds its masks there too
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return model


def _line(error: BaseException) -> str:
    """The first sentence of an error, with its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].split('. ')[0].rstrip('.')}" if lines else type(error).__name__
