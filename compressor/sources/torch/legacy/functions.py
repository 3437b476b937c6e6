"""The operators of torch's quantized tensors, computed on float tensors that lie on their grids.

    quantized::f(codes ..., scale, zero_point) = grid(scale, zero_point)(f(values ...))

`Floating` applies the tables while a model runs, so it does not matter whether torch's modules, a graph of FX, a
TorchScript or the user's own forward call an operator. Weights come as `packed` has unpacked them.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compressor.errors import CompressorError
from compressor.sources.torch.legacy import recurrent
from compressor.sources.torch.legacy.packed import ActivationGrid, CodedWeight, EmbeddingTable, OverCodes, rounded

Function = Callable[..., Any]

ACTIVATION = {torch.quint8: torch.uint8, torch.qint8: torch.int8}
SCALES = ("output_scale", "Y_scale_i", "scale")
ZERO_POINTS = ("output_zero_point", "Y_zero_point_i", "zero_point")
"""What the schemas call the grid of the result; `elu` has a `scale` of its own beside the first."""


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return functional.batch_norm(x, mean, var, weight, bias, eps=eps)


def _bag(
    packed: EmbeddingTable,
    indices: Tensor,
    offsets: Tensor | None = None,
    _frequency: object = None,
    _mode: object = 0,
    _pruned: object = None,
    weights: Tensor | None = None,
    _mapping: object = None,
    last: bool = False,  # noqa: FBT001, FBT002 - the place that it has in the schema
) -> Tensor:
    """The sum of rows: of each row of `indices`, or of what lies between two `offsets`."""
    if indices.dim() == 2:
        rows = packed(indices)
        return (rows if weights is None else rows * weights.unsqueeze(2)).sum(1)
    return functional.embedding_bag(
        indices, packed.dense(), offsets, mode="sum", per_sample_weights=weights, include_last_offset=last
    )


def _prelu(x: Tensor, weight: CodedWeight) -> Tensor:
    """PReLU as torch's kernel has it: the slope of positive values is 1 on the weight's grid, if that reaches it."""
    scale, zero_point = weight.grid or (1.0, 0)
    most = (torch.iinfo(weight.stored.dtype).max - zero_point) * scale
    if most >= 1:
        return functional.prelu(x, weight())
    return functional.relu(x) * most - functional.relu(-x) * weight()


def _product(x: Tensor, packed: Any) -> Any:
    return packed(x)


def _dynamic(x: Tensor, packed: Any, *_: Any) -> Any:
    return packed.dynamic(x)


def _and_relu(name: str, compute: Function) -> dict[str, Function]:
    return {name: compute, f"{name}_relu": lambda *args: functional.relu(compute(*args))}


def _by_rank(rank: int) -> dict[str, Function]:
    return {
        **_and_relu(f"conv{rank}d", _product),
        f"conv{rank}d_dynamic": _dynamic,
        f"conv_transpose{rank}d": _product,
        f"conv_transpose{rank}d_dynamic": _dynamic,
        **_and_relu(f"batch_norm{rank}d", _batch_norm),
    }


OPERATORS: Mapping[str, Function] = {
    **_by_rank(1),
    **_by_rank(2),
    **_by_rank(3),
    "conv2d_add": lambda x, extra, packed: packed(x) + extra,
    "conv2d_add_relu": lambda x, extra, packed: functional.relu(packed(x) + extra),
    **_and_relu("linear", _product),
    "linear_leaky_relu": lambda x, packed, slope: functional.leaky_relu(packed(x), slope),
    "linear_tanh": lambda x, packed: torch.tanh(packed(x)),
    "linear_dynamic": _dynamic,
    "linear_relu_dynamic": lambda x, packed, *_: functional.relu(packed.dynamic(x)),
    "linear_dynamic_fp16": _product,
    "linear_relu_dynamic_fp16": lambda x, packed: functional.relu(packed(x)),
    **_and_relu("batch_norm", _batch_norm),
    "layer_norm": functional.layer_norm,
    "group_norm": functional.group_norm,
    "instance_norm": lambda x, weight, bias, eps: functional.instance_norm(x, None, None, weight, bias, eps=eps),
    **_and_relu("add", torch.add),
    **_and_relu("add_scalar", torch.add),
    **_and_relu("mul", torch.mul),
    **_and_relu("mul_scalar", torch.mul),
    **_and_relu("cat", torch.cat),
    "matmul": torch.matmul,
    "prelu": _prelu,
    "leaky_relu": lambda x, slope, _inplace: functional.leaky_relu(x, slope),
    "relu6": lambda x, *_: functional.relu6(x),
    "elu": torch.ops.aten.elu,
    "celu": functional.celu,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "softmax": functional.softmax,
    "clamp": torch.clamp,
    "threshold": functional.threshold,
    "dropout": lambda x, *_: x,
    "max_pool1d": functional.max_pool1d,
    "max_pool2d": functional.max_pool2d,
    "embedding_byte": lambda packed, indices, *_: packed(indices),
    "embedding_4bit": lambda packed, indices, *_: packed(indices),
    "embedding_bag_byte": _bag,
    "embedding_bag_4bit": _bag,
    "quantized_lstm_cell_dynamic": recurrent.lstm_cell,
    "quantized_gru_cell_dynamic": recurrent.gru_cell,
    "quantized_rnn_tanh_cell_dynamic": recurrent.rnn_tanh_cell,
    "quantized_rnn_relu_cell_dynamic": recurrent.rnn_relu_cell,
}
"""quantized::NAME, less the grid of its result: where the schema has one, the result is rounded to it."""

FLOAT: Mapping[str, Function] = {
    "dequantize": lambda x: x.float() if isinstance(x, Tensor) else [each.float() for each in x],
    "quantize_per_tensor_dynamic": lambda x, *_: rounded(x),
    "quantized_lstm": recurrent.lstm,
    "quantized_gru": recurrent.gru,
}
"""aten::NAME, which takes quantized tensors or makes them."""

UNKNOWN = ("quantize_per_channel", "int_repr", "q_scale", "q_zero_point", "q_per_channel_scales", "qscheme")
"""aten::NAME that has no meaning for a float tensor, or none here."""


class Floating(TorchFunctionMode):
    """While it is active, quantized operators compute on float tensors.

    All activations have one integer dtype, which the first quantization chooses: torch's kernels keep it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) is torch.Tensor.is_quantized:
            return _is_torch_ao(sys._getframe(1)) or func(*args)  # noqa: SLF001 - of whoever asks
        found = self.function(spelled(func))
        return (found or func)(*args, **(kwargs or {}))

    def function(self, name: str) -> Function | None:
        """What computes the operator `name` in float, None where it is none of quantized tensors.

        Raises: CompressorError when it is one of those and has no float form.
        """
        if not supported(name):
            raise CompressorError(f"no float form for the operator {name} of quantized tensors. Keep it in float.")
        namespace, _, short = name.partition("::")
        if namespace == "quantized":
            return functools.partial(self._call, name, OPERATORS[short])
        if namespace != "aten":
            return None
        return self.quantize if short == "quantize_per_tensor" else FLOAT.get(short)

    def quantize(self, x: Any, scale: Any, zero_point: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor):
            return [self.quantize(*each, dtype) for each in zip(x, scale, zero_point, strict=True)]
        # A module that asks a tensor for its dtype has got that of the stand-in.
        wanted = self.dtype if dtype.is_floating_point else ACTIVATION.get(dtype)
        if wanted is None or self.dtype not in {None, wanted}:
            raise CompressorError(
                f"activations are quantized to {dtype}{f' and {self.dtype}' if self.dtype else ''}: "
                "use torch.quint8 or torch.qint8 throughout."
            )
        self.dtype = wanted
        return self._grid(scale, zero_point)(x)

    def _grid(self, scale: Any, zero_point: Any) -> ActivationGrid:
        return ActivationGrid(float(scale), int(zero_point), self.dtype or torch.uint8)

    def _call(self, name: str, compute: Function, *args: Any, **kwargs: Any) -> Any:
        given = {key: _content(value) for key, value in bound(name, args, kwargs).items()}
        scale = next((given.pop(key) for key in SCALES if key in given), None)
        zero_point = next((given.pop(key) for key in ZERO_POINTS if key in given), None)
        result = compute(*given.values())
        return result if scale is None else self._grid(scale, zero_point)(result)


def _is_torch_ao(asking: FrameType) -> bool:
    """Whether code of torch.ao asks if a tensor is quantized: for it every one is, else it would refuse what is float.

    Its functions begin with `if not input.is_quantized: raise`, and nothing else tells them apart from a user's own
    forward, or torch's float layers, which must get a true answer.
    """
    return str(asking.f_globals.get("__name__")).startswith("torch.ao.")


def _content(value: Any) -> Any:
    return value.source if isinstance(value, OverCodes) else value


def spelled(func: Any) -> str:
    """`namespace::name` of an operator as a function mode sees it."""
    if isinstance(func, OpOverload):
        return func._schema.name  # noqa: SLF001 - there is no public way
    name: str = getattr(func, "_qualified_op_name", None) or f"aten::{getattr(func, '__name__', '')}"
    return name


def supported(name: str) -> bool:
    namespace, _, short = name.partition("::")
    return short in OPERATORS if namespace == "quantized" else namespace != "aten" or short not in UNKNOWN


@functools.cache
def _schemas(name: str) -> Sequence[Any]:
    found: Sequence[Any] = torch._C._jit_get_schemas_for_operator(name)  # noqa: SLF001 - there is no public way
    return found


def bound(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The given arguments by their names in the first schema of `name` that takes as many."""
    for schema in _schemas(name):
        names = [argument.name for argument in schema.arguments]
        required = [argument.name for argument in schema.arguments if not argument.has_default_value()]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if len(args) <= len(names) and given.keys() <= set(names) and given.keys() >= set(required):
            return {key: given[key] for key in names if key in given}
    raise CompressorError(f"no schema of {name} takes {len(args)} arguments and {', '.join(kwargs) or 'no names'}.")
