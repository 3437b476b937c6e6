"""From a file to the model it holds, without running code of the file."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import difflib
import logging
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.export import ExportedProgram
from torch.nn import Module

from compressor import references
from compressor.errors import CompressorError, UsageError, unknown
from compressor.sources import Reached, unheard
from compressor.sources.huggingface.layers import foreign
from compressor.sources.torch import SUFFIXES
from compressor.sources.torch.archive import check_program, check_script, entries, is_script
from compressor.sources.torch.declared import torchao
from compressor.sources.torch.declared.attach import attach
from compressor.sources.torch.merge import inner, merged, unhooked, unprefixed
from compressor.sources.torch.sets import state_dict

log = logging.getLogger(__name__)

SETTING = "export.factory"
ALLOW = "set export.allow_pickle: true in params.yaml (or -S export.allow_pickle=true)"
SHOWN = 8
PREPARED = (".fake_palett_enabled", ".fake_quant_enabled", ".qparams_calculator.scale")
"""How buffers are called in which coreai-opt keeps what its weights are computed of."""


def load(
    source: Path,
    *,
    factory: str | None,
    args: Mapping[str, object],
    allow_pickle: bool,
    key: str = "",
    reached: Reached = unheard,
) -> Module | ExportedProgram:
    """The model of `source`: a module with the file's weights, or the program that a `.pt2` file holds."""
    if factory is not None:
        check_factory(factory, args)
    reached("imports")
    suffix = source.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("suffix of a torch model", source.suffix, SUFFIXES)
    if not source.is_file():
        raise CompressorError(f"{source}: no such file. Name the file that the training wrote.")
    names = [] if suffix == ".safetensors" else entries(source)
    if suffix == ".pt2" or is_script(names):
        what = "an ExportedProgram" if suffix == ".pt2" else "a TorchScript archive"
        if factory is not None:
            raise UsageError(f"{source}: {what} needs no factory. Remove export.factory ({factory}).")
        return _read_program(source, allow_pickle=allow_pickle) if suffix == ".pt2" else _read_script(source)
    content = _read_safetensors(source) if suffix == ".safetensors" else read_pickle(source, allow_pickle=allow_pickle)
    reached("checkpoint")
    if isinstance(content, Module):
        if not all(hasattr(module, "_forward_pre_hooks") for module in content.modules()):
            raise CompressorError(
                f"{source}: torch cannot restore the quantized modules of this pickle. Save model.state_dict(), and "
                "set export.factory to the module:function that builds the quantized model."
            )
        if factory is not None:
            raise UsageError(
                f"{source}: holds a whole module, which needs no factory. Remove export.factory ({factory})."
            )
        return unhooked(content)
    state = state_dict(source, content, key)
    if factory is None:
        raise UsageError(
            f"{source}: holds a state dict. Set export.factory to the module:function that builds its model."
        )
    model = build(factory, args)
    reached("factory")
    fill(model, state, source, f"{SETTING} {factory}")
    return unhooked(model)


def _read_program(source: Path, *, allow_pickle: bool) -> ExportedProgram:
    from compressor.sources.torch import program  # noqa: F401 - registers operators that it may call

    try:
        if not allow_pickle:
            check_program(source, ALLOW)
        return torch.export.load(source)
    except CompressorError:
        raise
    except Exception as error:  # torch raises whatever the archive's reader or its schema check raises
        raise CompressorError(f"{source}: not a readable ExportedProgram ({_line(error)}). Save it again.") from error


def _read_script(source: Path) -> Module:
    from compressor.sources.torch.legacy.script import Script

    # Parts of it run while it is loaded, in TorchScript's own interpreter, where operators are all there is.
    try:
        check_script(source)
        script = torch.jit.load(source, map_location="cpu")  # type: ignore[no-untyped-call]
    except CompressorError:
        raise
    except Exception as error:  # torch raises whatever its parser or its unpickler raises
        raise CompressorError(
            f"{source}: not a readable TorchScript archive ({_line(error)}). Save it again."
        ) from error
    return Script(script.eval())


def _read_safetensors(source: Path) -> object:
    try:
        return load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise CompressorError(f"{source}: not a readable safetensors file ({_line(error)}). Save it again.") from error


def read_pickle(source: Path, *, allow_pickle: bool) -> object:
    """What a file holds, tensors mapped where they can be; code runs only if that is allowed."""
    if allow_pickle:
        from compressor.sources.torch import program  # noqa: F401 - registers operators that it may call
    # Only the zip format can be mapped; the legacy one is read into memory.
    mapped = zipfile.is_zipfile(source)
    try:
        return torchao.load(source, mmap=mapped, weights_only=not allow_pickle)
    except CompressorError:
        raise
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
        raise CompressorError(
            f"{source}: truncated or not a torch checkpoint ({_line(error)}). Save it again."
        ) from error


def check_factory(factory: str, args: Mapping[str, object]) -> Callable[..., object]:
    """The function that `factory`, spelled `module:function`, names: it takes `args`."""
    function = references.load(factory, SETTING)
    references.check_arguments(function, f"{SETTING} {factory}", "export.args", args)
    return function


def build(factory: str, args: Mapping[str, object]) -> Module:
    """The module that `factory`, spelled `module:function`, returns for `args`."""
    function = check_factory(factory, args)
    given = ", ".join(f"{key}={value!r}" for key, value in args.items())
    try:
        model = references.call(function, f"{SETTING} {factory}({given})", **args)
    except CompressorError as error:
        raise CompressorError(f"{error}. Correct it, or export.args.") from error
    if not isinstance(model, Module):
        raise CompressorError(f"{SETTING} {factory} returned a {type(model).__name__}: expected a torch.nn.Module.")
    return model


def fill(model: Module, state: Mapping[str, object], source: Path, builder: str) -> None:
    """Load `state` into `model`, which `builder` made, strictly: names and shapes must agree, no precision may be lost.

    Raises: CompressorError that lists all the names, shapes or dtypes that do not fit.
    """
    given, state = state, unprefixed(state, model.state_dict())
    state, beside = inner(state, model.state_dict()) if state is given else (state, [])
    if beside:
        more = f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else ""
        log.warning("%s: left out, beside the model of %s: %s%s.", source, builder, ", ".join(beside[:SHOWN]), more)
    state = attach(model, state)
    expected = model.state_dict()
    versions = getattr(given, "_metadata", None) if given.keys() & expected.keys() else None
    versions = versions or getattr(expected, "_metadata", None)
    state = merged(state, expected)
    missing = _missing(expected, state)
    unexpected = [key for key in state if key not in expected]
    problems = [
        names("missing from the file", missing, unexpected),
        names("unknown to the model", unexpected, missing),
        *_mismatches(expected, state),
    ]
    if any(problems):
        text = "; ".join(problem for problem in problems if problem)
        raise CompressorError(f"{source} does not fit the model of {builder}: {text}.{_remedy({*unexpected})}")
    # The model has torchao's tensors already, of which not every class can be copied into another.
    state = OrderedDict((key, one) for key, one in state.items() if not torchao.is_own(expected.get(key)))
    try:
        # Quantized modules read their entries by version, which a dict comprehension over a state dict has lost.
        state._metadata = versions  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
        # Names were compared above, where a name that only repeats a tied weight may be absent.
        model.load_state_dict(state, strict=False)
    except Exception as error:  # modules run their own loading code
        raise CompressorError(f"{source} does not fit the model of {builder}: {_line(error)}.") from error


def _remedy(names: Collection[str]) -> str:
    """What to do about weights that a library has as codes, or that a training still computes."""
    if codes := next(filter(None, (foreign(name, names) for name in names)), ""):
        return f" It holds {codes}."
    if any(name.endswith(PREPARED) for name in names):
        return " coreai-opt still computes its weights: save what its `finalize(backend=ExportBackend.CoreML)` returns."
    return ""


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


def names(what: str, found: Sequence[str], others: Iterable[str]) -> str:
    """A line about the names in `found`, each with the closest of the `others`; empty where none is found."""
    if not found:
        return ""
    pool = list(others)
    shown = []
    for name in found[:SHOWN]:
        close = difflib.get_close_matches(name, pool, n=1)
        shown.append(f"{name} (closest: {close[0]})" if close else name)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
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
    yield names("shapes differ", shapes, ())
    yield names("dtypes differ", lossy, ())


def _tensor_pairs(name: str, old: object, new: object) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        yield name, old, new
    elif isinstance(old, tuple) and isinstance(new, tuple):
        # Packed weights of quantized linear modules: (weight, bias), which torch itself replaces without a check.
        for one, other in zip(old, new, strict=False):
            yield from _tensor_pairs(name, one, other)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _line(error: BaseException) -> str:
    """The first sentence of an error, with its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].split('. ')[0].rstrip('.')}" if lines else type(error).__name__
