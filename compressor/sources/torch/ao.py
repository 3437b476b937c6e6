"""Which modules of a model are torch.ao's, told by the names of their classes: torch will drop them."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import Module

from compressor.errors import CompressorError

PACKAGE = "torch.ao."
QUANTIZED = (f"{PACKAGE}nn.quantized.", f"{PACKAGE}nn.intrinsic.quantized.")


@contextmanager
def legacy_of(source: Path) -> Iterator[None]:
    """Where the file `source` is read, and what of torch it needs is imported.

    Raises: CompressorError where torch has dropped it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not f"{error.name}.".startswith(PACKAGE):
            raise
        raise CompressorError(
            f"{source}: holds what {error.name} makes, which torch {torch.__version__} does not have. Install an older "
            "torch, or save the model in float."
        ) from error


def is_own(module: Module) -> bool:
    """Whether the class of the module, or one that it derives from, is torch.ao's."""
    return _comes_from(module, (PACKAGE,))


def is_quantized(module: Module) -> bool:
    """Whether it computes with quantized tensors."""
    return _comes_from(module, QUANTIZED)


def packed(module: Module) -> list[tuple[str, Any]]:
    """Attributes of this very module that are packed parameters or quantized tensors."""
    return [
        (key, value)
        for key, value in vars(module).items()
        if isinstance(value, torch.ScriptObject) or (isinstance(value, Tensor) and value.is_quantized)
    ]


def needs_lowering(model: Module) -> bool:
    """Whether anything in the model may compute with quantized tensors."""
    return any(isinstance(one, GraphModule) or is_quantized(one) or packed(one) for one in model.modules())


def _comes_from(module: Module, packages: tuple[str, ...]) -> bool:
    return any(f"{kind.__module__}.".startswith(packages) for kind in type(module).__mro__)
