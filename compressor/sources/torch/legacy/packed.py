"""What torch.ao packs (a weight, its bias, a convolution's options), unpacked into codes that are buffers of a module.

    weight = (codes - zero_point) * scale        value = grid(after(f(x, weight) + bias))

Activations stay float and on the grid of their scale: a QuantizeLinear and a DequantizeLinear follow each operator that
torch requantizes after, so ONNX Runtime finds its integer kernels again. Codes are buffers under the weight's name.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers torch.ops.quantized_decomposed
from torch.nn import Module, functional

from compressor.sources.torch import operators  # noqa: F401 - registers torch.ops.compressor

decomposed: Any = torch.ops.quantized_decomposed
CONVOLUTIONS: Sequence[Any] = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: Sequence[Any] = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@dataclass(frozen=True)
class ActivationGrid:
    """value = (code - zero_point) * scale, for codes of `dtype`, rounded half to even and saturated."""

    scale: float
    zero_point: int
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        limits = torch.iinfo(self.dtype)
        where = (self.scale, self.zero_point, limits.min, limits.max, self.dtype)
        on_grid: Tensor = decomposed.dequantize_per_tensor(decomposed.quantize_per_tensor(x, *where), *where)
        return on_grid


class CodedWeight:
    """A weight of `owner`: float where the source keeps it so, else its codes.

    NAME             int8 or uint8 [shape of the float weight]
    NAME_scale       float32 [channels], absent when one scale (a constant) holds for all
    NAME_zero_point  dtype of the codes [channels], likewise
    NAME_offset      float32 [rows, 1], -zero_point * scale, where the zero points are no codes (torch's embeddings)
    """

    def __init__(self, owner: Module, name: str, value: Tensor) -> None:
        # Not the tensors themselves: an exporter exchanges the buffers of a module while it traces.
        self.owner, self.name = owner, name
        self.axis: int | None = None
        self.grid: tuple[float, int] | None = None
        if not value.is_quantized:
            owner.register_buffer(name, value.detach())
            return
        codes = _codes(value)
        limits = torch.iinfo(codes.dtype)
        self.limits = (limits.min, limits.max, codes.dtype)
        owner.register_buffer(name, codes)
        if value.qscheme() in {torch.per_tensor_affine, torch.per_tensor_symmetric}:
            self.grid = (value.q_scale(), value.q_zero_point())
            return
        self.axis = value.q_per_channel_axis()
        # Scales are float32 at their origin; torch hands them out as float64, or as a view of memory it then frees.
        scales = value.q_per_channel_scales().to(torch.float32, copy=True)
        points = value.q_per_channel_zero_points()
        integral = points.to(codes.dtype)
        if not torch.equal(integral.to(points.dtype), points):
            owner.register_buffer(self._offset, (-points * scales).to(torch.float32).unsqueeze(1))
            integral = torch.zeros_like(integral)
        owner.register_buffer(f"{name}_scale", scales)
        owner.register_buffer(f"{name}_zero_point", integral)

    @property
    def _offset(self) -> str:
        return "offset" if self.name == "weight" else f"{self.name}_offset"

    @property
    def stored(self) -> Tensor:
        value: Tensor = getattr(self.owner, self.name)
        return value

    @property
    def offset(self) -> Tensor | None:
        return getattr(self.owner, self._offset, None)

    def __call__(self) -> Tensor:
        """The float weight, less its offset."""
        value = self.stored
        if self.grid is not None:
            value = decomposed.dequantize_per_tensor(value, *self.grid, *self.limits)
        elif self.axis is not None:
            scales = (getattr(self.owner, f"{self.name}_scale"), getattr(self.owner, f"{self.name}_zero_point"))
            value = decomposed.dequantize_per_channel(value, *scales, self.axis, *self.limits)
        return value


def _codes(weight: Tensor) -> Tensor:
    packed = weight.int_repr()
    if weight.dtype is not torch.quint4x2:
        return packed
    # Two codes a byte, the first in the low bits, one row after the other.
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten()
    return codes[: weight.numel()].reshape(weight.shape)


class Product:
    """A weight and its bias, which is float32 [channels] or None."""

    def __init__(self, owner: Module, weight: Tensor, bias: Tensor | None, suffix: str = "") -> None:
        self.weight = CodedWeight(owner, f"weight{suffix}", weight)
        self._bias = f"bias{suffix}"
        owner.register_buffer(self._bias, None if bias is None else bias.detach())

    @property
    def bias(self) -> Tensor | None:
        value: Tensor | None = getattr(self.weight.owner, self._bias)
        return value


class Linear(Product):
    """The fully connected layer, y = x W^T + b."""

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight(), self.bias)

    def dynamic(self, x: Tensor) -> Tensor:
        """The product y = x' W^T + b, with x' on the 8-bit grid of its own range (in torch of 7 bits, mostly)."""
        # Of rank 3 or more, because ONNX Runtime turns a product of rank 2 and what follows into one float operator
        # before it looks for its integer kernel.
        rows = x.unsqueeze(0) if x.dim() == 2 else x
        y = rounded(rows) @ self.weight().t()
        y = y if self.bias is None else y + self.bias
        return y.squeeze(0) if x.dim() == 2 else y


def rounded(x: Tensor) -> Tensor:
    """`x` on the 8-bit grid of its own range."""
    y: Tensor = torch.ops.compressor.rounded(x, 0, 255, torch.finfo(torch.float32).tiny, False, False)
    return y


class Conv(Product):
    """The convolution and its transpose, y = conv(x, W) + b; what pads by reflection and the like pads before."""

    def __init__(self, owner: Module, packed: Any, rank: int) -> None:
        weight, bias = packed.unpack()
        # torch packs a convolution of rank 1 as one of rank 2, whose height is 1.
        super().__init__(owner, weight.squeeze(2) if weight.dim() > rank + 2 else weight, bias)
        transposed = bool(packed.transpose())
        self.operator = (TRANSPOSED if transposed else CONVOLUTIONS)[rank - 1]
        self.options: dict[str, Any] = {
            name: tuple(getattr(packed, name)())[-rank:] for name in ("stride", "padding", "dilation")
        }
        self.options["groups"] = packed.groups()
        if transposed:
            self.options["output_padding"] = tuple(packed.output_padding())[-rank:]

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.operator(x, self.weight(), self.bias, **self.options)
        return y

    def dynamic(self, x: Tensor) -> Tensor:
        y: Tensor = self.operator(rounded(x), self.weight(), self.bias, **self.options)
        return y


class EmbeddingTable:
    """An embedding, y = W[indices], by row; the zero points of torch's embeddings are float."""

    def __init__(self, owner: Module, weight: Tensor) -> None:
        self.weight = CodedWeight(owner, "weight", weight)

    def __call__(self, indices: Tensor) -> Tensor:
        y = functional.embedding(indices, self.weight())
        offset = self.weight.offset
        return y if offset is None else y + functional.embedding(indices, offset)

    def dense(self) -> Tensor:
        offset = self.weight.offset
        return self.weight() if offset is None else self.weight() + offset


class Cell:
    """The two products of a recurrent layer: of its input, and of its state."""

    def __init__(self, owner: Module, packed: Any, suffix: str) -> None:
        inputs, state = (part.__getstate__()[0] for part in packed.__getstate__()[0][4])
        self.inputs = Linear(owner, inputs[0], inputs[1], f"_ih{suffix}")
        self.state = Linear(owner, state[0], state[1], f"_hh{suffix}")

    def flat(self, *, biases: bool) -> list[Tensor]:
        """Weights, then biases, in the order of torch's recurrent operators."""
        products = (self.inputs, self.state)
        return [one.weight() for one in products] + [one.bias for one in products if biases and one.bias is not None]


class OverCodes(Module):
    """Codes in buffers, and what computes over them: the content of packed parameters, or a layer of torch that has it.

    source is no submodule, so the names of the buffers are those that the weights have in the state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: Callable[..., Any]

    def over(self, source: Callable[..., Any]) -> OverCodes:
        object.__setattr__(self, "source", source)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.source(*args, **kwargs)


CLASSES = "__torch__.torch.classes."


def _linear(owner: Module, packed: Any, suffix: str, _: int) -> Linear:
    weight, bias = packed.unpack()
    return Linear(owner, weight, bias, suffix)


UNPACKED: Mapping[str, Callable[[Module, Any, str, int], Any]] = {
    "quantized.LinearPackedParamsBase": _linear,
    "quantized.Conv2dPackedParamsBase": lambda owner, packed, _, rank: Conv(owner, packed, rank or 2),
    "quantized.Conv3dPackedParamsBase": lambda owner, packed, *_: Conv(owner, packed, 3),
    "quantized.EmbeddingPackedParamsBase": lambda owner, packed, *_: EmbeddingTable(
        owner, torch.ops.quantized.embedding_bag_unpack(packed)
    ),
    "rnn.CellParamsBase": lambda owner, packed, suffix, _: Cell(owner, packed, suffix),
}
"""By class of torch's packed parameters: their content over buffers of a module."""


def kind(value: object) -> str | None:
    """The class of the packed parameters `value`, None for anything else."""
    if not isinstance(value, torch.ScriptObject):
        return None
    name: str = value._type().qualified_name()  # noqa: SLF001 - there is no public way
    return name.removeprefix(CLASSES)


def unpacked(owner: Module, packed: Any, suffix: str = "", rank: int = 0) -> Any:
    """The content of `packed`, with codes in buffers of `owner` called weight`suffix`; rank: of a convolution."""
    return UNPACKED[str(kind(packed))](owner, packed, suffix, rank)
