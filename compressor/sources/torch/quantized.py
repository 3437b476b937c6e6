"""Float modules over codes: what a quantized module of torch.ao computes, in operators that the exporter translates.

    quantized(x) = grid(after(f(x, dequantize(codes)) + bias))

Activations stay float and on the grid of their scale: a QuantizeLinear and a DequantizeLinear follow each operator that
torch requantizes after, so ONNX Runtime finds its integer kernels again. Codes are buffers under the weight's name.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers torch.ops.quantized_decomposed
from torch.nn import Module, functional

Unary = Callable[[Tensor], Tensor]
decomposed: Any = torch.ops.quantized_decomposed
CONVOLUTIONS: Sequence[Any] = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: Sequence[Any] = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@dataclass(frozen=True)
class Grid:
    """value = (code - zero_point) * scale, for codes of `dtype`, rounded half to even and saturated."""

    scale: float
    zero_point: int
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        limits = torch.iinfo(self.dtype)
        where = (self.scale, self.zero_point, limits.min, limits.max, self.dtype)
        on_grid: Tensor = decomposed.dequantize_per_tensor(decomposed.quantize_per_tensor(x, *where), *where)
        return on_grid


class Weighted(Module):
    """A module whose weight is its codes.

    weight             int8 or uint8 [shape of the float weight]
    weight_scale       float32 [channels], absent when one scale (a constant) holds for all
    weight_zero_point  dtype of the codes [channels], likewise
    bias               float32 [channels] or None
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        codes = _codes(weight)
        limits = torch.iinfo(codes.dtype)
        self.limits = (limits.min, limits.max, codes.dtype)
        self.axis: int | None = None
        self.grid = (1.0, 0)
        self.register_buffer("weight", codes)
        if weight.qscheme() in {torch.per_tensor_affine, torch.per_tensor_symmetric}:
            self.grid = (weight.q_scale(), weight.q_zero_point())
        else:
            self.axis = weight.q_per_channel_axis()
            # Scales are float32 at their origin; torch hands them out as float64, or as a view of memory it then frees.
            self.register_buffer("weight_scale", weight.q_per_channel_scales().to(torch.float32, copy=True))
            self.register_buffer("weight_zero_point", weight.q_per_channel_zero_points().to(codes.dtype))
        self.register_buffer("bias", None if bias is None else bias.detach())

    def dequantized(self) -> Tensor:
        value: Tensor
        if self.axis is None:
            value = decomposed.dequantize_per_tensor(self.weight, *self.grid, *self.limits)
        else:
            scales = (self.weight_scale, self.weight_zero_point)
            value = decomposed.dequantize_per_channel(self.weight, *scales, self.axis, *self.limits)
        return value


def _codes(weight: Tensor) -> Tensor:
    packed = weight.int_repr()
    if weight.dtype is not torch.quint4x2:
        return packed
    # Two codes a byte, the first in the low bits; torch has padded the rows to whole bytes.
    return torch.stack([packed & 15, packed >> 4], dim=-1).reshape(weight.shape)


class Linear(Weighted):
    """The fully connected layer, y = grid(after(x W^T + b))."""

    def __init__(self, source: Any, after: Unary, grid: Grid) -> None:
        super().__init__(source.weight(), source.bias())
        self.after, self.output = after, grid

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.after(functional.linear(x, self.dequantized(), self.bias)))


class DynamicLinear(Weighted):
    """y = x' W^T + b, with x' rounded to the 8-bit grid of its own range (7 bits in torch, on most engines)."""

    def __init__(self, source: Any) -> None:
        super().__init__(source.weight(), source.bias())

    def forward(self, x: Tensor) -> Tensor:
        # Of rank 3 or more, because ONNX Runtime turns a product of rank 2 and what follows into one float operator
        # before it looks for its integer kernel.
        rows = x.unsqueeze(0) if x.dim() == 2 else x
        scalar: list[int] = []
        codes, scale, zero_point = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            (rows,),
            dtypes=(torch.uint8, torch.float32, torch.uint8),
            shapes=(rows.shape, scalar, scalar),
        )
        rounded = torch.onnx.ops.symbolic(
            "DequantizeLinear", (codes, scale, zero_point), dtype=torch.float32, shape=rows.shape
        )
        y = rounded @ self.dequantized().t()
        y = y if self.bias is None else y + self.bias
        return y.squeeze(0) if x.dim() == 2 else y


class Conv(Weighted):
    """The convolution and its transpose, y = grid(after(conv(x, W) + b + extra))."""

    def __init__(self, source: Any, after: Unary, grid: Grid) -> None:
        super().__init__(source.weight(), source.bias())
        rank = self.weight.dim() - 2
        self.after, self.output = after, grid
        # Conv1d stores its padding twice.
        self.padding: tuple[int, ...] = source.padding[:rank]
        self.padding_mode: str = source.padding_mode
        self.options = {"stride": source.stride[:rank], "dilation": source.dilation[:rank], "groups": source.groups}
        self.operator = CONVOLUTIONS[rank - 1]
        if source.transposed:
            self.operator = TRANSPOSED[rank - 1]
            self.options["output_padding"] = source.output_padding[:rank]

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x = functional.pad(x, [size for size in reversed(padding) for _ in range(2)], mode=self.padding_mode)
            padding = (0,) * len(padding)
        y = self.operator(x, self.dequantized(), self.bias, padding=padding, **self.options)
        return self.output(self.after(y if extra is None else y + extra))


class Embedding(Weighted):
    """y = (codes * scale + offset)[indices] by row; the zero points of torch's embeddings are float.

    offset  float32 [rows, 1], -zero_point * scale; None where all zero points are codes
    """

    offset: Tensor | None

    def __init__(self, source: Any) -> None:
        weight = source.weight()
        super().__init__(weight, None)
        points = weight.q_per_channel_zero_points()
        integral = torch.equal(self.weight_zero_point.to(points.dtype), points)
        self.register_buffer("offset", None if integral else (-points * self.weight_scale).unsqueeze(1))
        if not integral:
            self.weight_zero_point = torch.zeros_like(self.weight_zero_point)

    def forward(self, indices: Tensor) -> Tensor:
        y = functional.embedding(indices, self.dequantized())
        return y if self.offset is None else y + functional.embedding(indices, self.offset)


class Functional(Module):
    """The operations of QFunctional, each followed by its grid."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.output = grid

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output(x + y)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output(functional.relu(x + y))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output(x * y)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self.output(x @ y)

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        return self.output(torch.cat(x, dim))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        return x + y

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        return x * y


class Requantized(Module):
    """y = grid(compute(x, self)) for a module without a quantized weight; it keeps the source's float tensors.

    weight, bias, running_mean, running_var  float32 [channels] or None, as the source has them
    """

    def __init__(self, source: Module, compute: Callable[[Tensor, Any], Tensor], grid: Grid) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(source, name, None)
            self.register_buffer(name, value.detach() if isinstance(value, Tensor) else None)
        self.compute, self.output = compute, grid
        # Not a submodule: only its plain attributes (eps, dim ...) are read.
        object.__setattr__(self, "source", source)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.compute(x, self))
