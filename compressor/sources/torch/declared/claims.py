"""What a training tool said about one weight, after it was checked."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.arrays import BFLOAT16, NDArray
from compressor.encodings import Encoding
from compressor.sources.torch.declared.recover import ContradictionError


@dataclass(frozen=True)
class Claim:
    """weight: its name in the state dict.

    encoding: what gives back its very values; None where nothing does, or where the values alone say it as well.
    note: what was declared and does not hold, or is not kept, for whoever wonders.
    """

    weight: str
    encoding: Encoding | None = None
    note: str = ""


def numbers(tensor: Tensor) -> NDArray:
    """The elements, real numbers of any dtype that numpy has, without a copy where they lie in one piece.

    Raises: ContradictionError where they are no such numbers.
    """
    try:
        plain = tensor.detach().cpu().contiguous()
        if plain.dtype is torch.bfloat16:
            return plain.view(torch.uint16).numpy().view(BFLOAT16)
        found: NDArray = plain.numpy()
    except (TypeError, RuntimeError) as error:
        raise ContradictionError(f"{tensor.dtype} are no plain numbers") from error
    if found.dtype.kind not in "fiub":
        raise ContradictionError(f"{tensor.dtype} are no real numbers")
    return found


def integer(what: str, value: NDArray) -> int:
    """The value of an array of one integer.

    Raises: ContradictionError where it is something else.
    """
    if value.size != 1 or value.dtype.kind not in "iu":
        raise ContradictionError(f"{what} is {value.dtype}{list(value.shape)}, expected one integer")
    return int(value.reshape(()))
