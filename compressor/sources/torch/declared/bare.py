"""Where a layer has the grid of its weight, and what stands there for the grid of a bare state dict."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import Module

QUANTIZER = "weight_fake_quant"
"""The name of the submodule that a layer puts its weight through."""


class BareGrid(Module):
    """A grid without its quantizer, which does not say how many codes it has.

    scale  float, a scalar or by channel
    zero_point  whole numbers, likewise
    ch_axis  where the channels are; 0 if absent
    alone: whether the model has no place for the grids of activations, which stood beside this one.
    """

    def __init__(self, buffers: Mapping[str, Tensor], *, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
