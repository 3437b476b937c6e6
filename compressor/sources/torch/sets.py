"""The sets of tensors that a checkpoint consists of: which of them is the model's state dict."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError, unknown
from compressor.sources.torch.beside import Beside

log = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
"""Where the checkpoints of trainings hold the state dict, beside an optimizer's and the like."""

_PLAIN = (bool, int, float, str, list, type(None), Beside)
"""What configurations consist of, and no state dict does."""

_SHOWN = 8


def state_dict(source: Path, content: object, key: str = "") -> Mapping[str, object]:
    """The state dict that a checkpoint is, has under `key`, or has under one of the usual keys.

    Of several sets of weights the first usual one is taken, which the log says.
    """
    if not isinstance(content, Mapping):
        raise CompressorError(
            f"{source}: expected a state dict, got a {type(content).__name__}. Save model.state_dict()."
        )
    sets = {str(name): one for name, one in content.items() if isinstance(one, Mapping) and _is_state(one)}
    if key:
        if key not in sets:
            raise unknown(f"export.key of {source}:", key, sets)
        return _tensors(source, sets[key])
    taken = next((name for name in WRAPPERS if name in sets), "")
    if taken:
        others = ", ".join(map(repr, sorted(sets.keys() - {taken})))
        if others:
            log.warning("%s: took the weights under %r; export.key takes those under %s", source, taken, others)
        return _tensors(source, sets[taken])
    if _is_flat(content):
        return _tensors(source, content)
    found = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
    wrappers = ", ".join(map(repr, WRAPPERS))
    hint = f" Weights lie under {', '.join(map(repr, sorted(sets)))}: set export.key." if sets else ""
    raise CompressorError(f"{source}: expected a state dict, or one under {wrappers}; found the keys {found}.{hint}")


def _tensors(source: Path, state: Mapping[str, object]) -> Mapping[str, object]:
    """The state dict, which holds nothing that was left out while it was read."""
    for name, value in state.items():
        if isinstance(value, Beside):
            raise CompressorError(
                f"{source}: {name} is a {value.called} among the weights, where tensors are expected. Save "
                "model.state_dict(), or other values under a key beside it."
            )
    return state


def _is_state(content: Mapping[Any, object]) -> bool:
    """Whether it is a state dict beside others: what has plain values alone is a configuration."""
    return _is_flat(content) and not all(isinstance(value, _PLAIN) for value in content.values())


def _is_flat(content: Mapping[Any, object]) -> bool:
    return all(isinstance(name, str) for name in content) and not any(isinstance(v, Mapping) for v in content.values())
