"""The module of a folder, filled as transformers itself fills it: its conversion of names, from files alone.

The tensors come from this package's own reader; neither a file nor the network is opened by transformers, and code that
lies in a folder never runs.
"""

# ruff: noqa: TID253 - imported where a model is exported, and nowhere else

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch.nn import Module

from compressor.errors import CompressorError, unknown
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.torch.load import names

log = logging.getLogger(__name__)

POOLER = ("pooler", "add_pooling_layer")
"""The layer that many architectures have in front of an output of its own, and the argument that leaves both out."""
COUNTER = "num_batches_tracked"
"""Counters of batch norm are absent from checkpoints older than torch 0.4.1 and have no influence on results."""


def load(
    checkpoint: Checkpoint, state: Mapping[str, torch.Tensor], args: Mapping[str, object], dtype: torch.dtype
) -> Module:
    """The module that config.json names, with the tensors of `state`, of the names that the folder has for them.

    args: keyword arguments of the architecture. dtype: of its parameters; tensors of this dtype are not copied.

    Raises:
        UsageError: the architecture takes no such arguments.
        CompressorError: transformers has no such architecture, or cannot build it; the tensors do not fill it.
    """
    import transformers

    kind, config = _architecture(checkpoint, transformers)
    taken = [name for name in inspect.signature(kind.__init__).parameters if name not in {"self", "config"}]
    if wrong := [name for name in args if name not in taken]:
        raise unknown(f"argument of {kind.__name__} (export.args)", wrong[0], taken)
    model, found = _loaded(checkpoint, kind, config, state, args, dtype)
    missing = {name for name in found["missing_keys"] if not name.endswith(COUNTER)}
    layer, argument = POOLER
    superfluous = bool(missing) and all(layer in name.split(".") for name in missing)
    if superfluous and argument in taken and argument not in args:
        log.warning(
            "%s: holds no weights of the layer %s of %s: that output is left out (export.args.%s: false).",
            *(checkpoint.path, layer, kind.__name__, argument),
        )
        return load(checkpoint, state, {**args, argument: False}, dtype)
    unexpected = found["unexpected_keys"]
    problems = [
        names("missing from the file", sorted(missing), unexpected),
        names("shapes differ", [_mismatch(*each) for each in sorted(found["mismatched_keys"])], ()),
    ]
    if any(problems):
        problems.append(names("unknown to the model", sorted(unexpected), missing))
        text = "; ".join(problem for problem in problems if problem)
        raise CompressorError(f"{checkpoint.path} does not fit {kind.__name__}: {text}.")
    if unexpected:
        what = names(f"{kind.__name__} has no place for these, which are left out", sorted(unexpected), ())
        log.warning("%s: %s.", checkpoint.path, what)
    return model


def _architecture(checkpoint: Checkpoint, transformers: Any) -> tuple[Any, Any]:
    """The class and the configuration of what config.json names, of which no code lies in the folder."""
    named = checkpoint.config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else "AutoModel"
    with _errors(checkpoint, name):
        config = transformers.AutoConfig.from_pretrained(
            str(checkpoint.path), trust_remote_code=False, local_files_only=True
        )
        kind = _named(name, type(config), transformers)
    if kind is None:
        raise CompressorError(
            f"{checkpoint.path / CONFIG}: transformers {transformers.__version__} has no architecture {name!r}. "
            "Upgrade transformers, or set export.factory to the function that builds it."
        )
    for part in (config, *vars(config).values()):
        if isinstance(part, transformers.PreTrainedConfig):
            for key in ("quantization_config", "compression_config"):
                vars(part).pop(key, None)
            part.use_cache = False  # a graph returns no cache
    return kind, config


def _named(name: str, config: type, transformers: Any) -> Any:
    """The class of this name: one of transformers' own, or beside the others of its configuration; None for none."""
    if name == "AutoModel":
        kinds = transformers.MODEL_MAPPING[config]
        return kinds[0] if isinstance(kinds, list | tuple) else kinds
    own = config.__module__.replace(".configuration_", ".modeling_")
    for module in (transformers, importlib.import_module(own)):
        kind = getattr(module, name, None)
        if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    return None


def _loaded(
    checkpoint: Checkpoint, kind: Any, config: Any, state: Mapping[str, torch.Tensor], args: Any, dtype: torch.dtype
) -> tuple[Module, Mapping[str, Any]]:
    """The module, and what transformers says about missing, unexpected and mismatched tensors."""
    with _errors(checkpoint, kind.__name__), _offline(), redirect_stderr(StringIO()):  # of its progress bar
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="batched_mm",
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **args,
        )
    return model, found


@contextmanager
def _errors(checkpoint: Checkpoint, name: str) -> Iterator[None]:
    """What transformers raises, as an error: a configuration may break anything in the code of its architecture."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines()
        line = lines[0] if lines else type(error).__name__
        raise CompressorError(
            f"{checkpoint.path / CONFIG}: transformers cannot build {name}: {line} "
            "(code that lies in the folder never runs). Set export.factory to the function that builds the model."
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Without network: a configuration may name files of a hub."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _mismatch(name: str, given: Iterable[int], expected: Iterable[int]) -> str:
    return f"{name} is {list(given)} in the file, {list(expected)} in the model"
