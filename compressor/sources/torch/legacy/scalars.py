"""What TorchScript computes beside tensors: numbers, lists, types and structure, in Python."""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compressor.errors import CompressorError

Function = Callable[..., Any]

DTYPES: Sequence[torch.dtype] = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32),
    *(torch.bfloat16, torch.quint4x2),
)
"""By the number that TorchScript has for them."""
FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
TYPED: Mapping[str, Sequence[Any]] = {"ScalarType": DTYPES, "MemoryFormat": FORMATS}


def typed(kind: str, value: Any) -> Any:
    """`value` as Python has it, for an argument whose type is spelled `kind` in the schema."""
    name = kind.removeprefix("Optional[").removesuffix("]")
    if name == "Layout":
        return None
    known = TYPED.get(name)
    return known[value] if known is not None and isinstance(value, int) else value


def _number(cast: Function) -> Function:
    """Numbers stay what they are: a symbolic size must not become a constant."""
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return lambda value: value if isinstance(value, symbols) else cast(value)


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _size(x: Tensor, axis: int | None = None) -> Any:
    return list(x.shape) if axis is None else x.shape[axis]


def _raise(message: object = "", *_: object) -> None:
    raise CompressorError(f"the TorchScript refuses its input: {message}. Correct export.inputs.")


def _stay(value: Any, *_: Any) -> Any:
    return value


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _slice(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return values[start:end:step]


def _divide(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    quotient = x / y
    return (
        quotient
        if rounding_mode is None
        else math.floor(quotient)
        if rounding_mode == "floor"
        else math.trunc(quotient)
    )


ABOUT: Mapping[str, Function] = {
    "aten::size": _size,
    "aten::dim": lambda x: x.dim(),
    "aten::numel": lambda x: x.numel(),
    "aten::len": len,
    "aten::is_floating_point": lambda x: x.is_floating_point(),
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__not__": operator.not_,
    "aten::__contains__": lambda values, value: value in values,
    "aten::append": _append,
    "aten::extend": lambda values, more: values.extend(more),
    "aten::_set_item": operator.setitem,
    "aten::list": list,
    "aten::keys": lambda values: list(values.keys()),
    "aten::values": lambda values: list(values.values()),
    "aten::str": str,
    "aten::format": lambda text, *values: text.format(*values),
    "aten::percentFormat": lambda text, *values: text % values,
    "aten::warn": _stay,
    "aten::Int": _number(int),
    "aten::Float": _number(float),
    "aten::Bool": _number(bool),
    **dict.fromkeys(("aten::IntImplicit", "aten::FloatImplicit", "aten::ScalarImplicit"), _number(_item)),
    "prim::NumToTensor": _stay,
    "prim::dtype": lambda x: DTYPES.index(x.dtype),
    "prim::device": lambda x: x.device,
    "prim::layout": _stay,
    # Asked only by modules of torch.ao, in a quantized model.
    "prim::is_quantized": lambda _: True,
    "prim::is_cuda": lambda x: x.is_cuda,
    "prim::unchecked_cast": _stay,
    "prim::unchecked_unwrap_optional": _stay,
    "aten::_unwrap_optional": _stay,
    "prim::Uninitialized": lambda: None,
    "prim::Print": lambda *_: None,
    "prim::RaiseException": _raise,
    "prim::ListConstruct": lambda *values: list(values),
    "prim::TupleConstruct": lambda *values: values,
    "prim::DictConstruct": lambda *values: dict(zip(values[::2], values[1::2], strict=True)),
    "prim::TupleIndex": lambda values, index: values[index],
}
"""Operators that mean the same for every argument."""
ABOUT_NUMBERS: Mapping[str, Function] = {
    "aten::__getitem__": operator.getitem,
    "aten::slice": _slice,
    "aten::add": lambda x, y, *_: x + y,
    "aten::sub": lambda x, y, *_: x - y,
    "aten::mul": operator.mul,
    "aten::div": _divide,
    "aten::floordiv": operator.floordiv,
    "aten::floor_divide": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::pow": operator.pow,
    "aten::neg": operator.neg,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::floor": math.floor,
    "aten::ceil": math.ceil,
    "aten::sqrt": math.sqrt,
    "prim::min": min,
    "prim::max": max,
    "prim::abs": abs,
}
"""Operators that have another meaning for tensors."""
UNPACKS = ("prim::ListUnpack", "prim::TupleUnpack")
STRUCTURE = ("prim::Constant", "prim::GetAttr", "prim::If", "prim::Loop", "prim::ListUnpack", "prim::TupleUnpack")
FORBIDDEN = ("aten::save", "aten::from_file", "prim::PythonOp")
"""Operators that reach beyond the model: files, and Python."""
