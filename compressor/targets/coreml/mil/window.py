"""Convolutions and pools: operators with a window that moves along the spatial axes.

ONNX lists the pads of all begins and then of all ends, MIL those of each axis together.
"""

# ruff: noqa: TID253 - see node.py

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - see node.py
from coremltools.converters.mil.mil import Var
from coremltools.converters.mil.mil.types.symbolic import any_symbolic

from compressor.targets.coreml.mil.node import Node, Operator, Operators
from compressor.targets.coreml.mil.taps import Taps, largest, total
from compressor.targets.coreml.mil.values import Dim, UnsupportedError, is_float, like, shape, spelled_dtype, static

_AUTO_PAD = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


@dataclass(frozen=True)
class Window:
    """A window along the spatial axes: `begins` and `ends` are the pads; None for those of a dynamic size."""

    sizes: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int] | None
    ends: list[int] | None
    auto_pad: str

    @property
    def spans(self) -> list[int]:
        """How far a window reaches, dilation included."""
        return [(size - 1) * dilation + 1 for size, dilation in zip(self.sizes, self.dilations, strict=True)]

    def padding(self) -> dict[str, Any]:
        """The pads as MIL takes them."""
        if self.begins is None or self.ends is None:
            return {"pad_type": _AUTO_PAD[self.auto_pad]}
        if not any((*self.begins, *self.ends)):
            return {"pad_type": "valid"}
        if min(*self.begins, *self.ends) < 0:
            raise UnsupportedError(f"negative pads {self.begins + self.ends}")
        return {"pad_type": "custom", "pad": interleaved(self.begins, self.ends)}


def interleaved(begins: Sequence[int], ends: Sequence[int]) -> list[int]:
    return [pad for pair in zip(begins, ends, strict=True) for pad in pair]


def _window(node: Node, sizes: Sequence[int], spatial: Sequence[Dim]) -> Window:
    """The window of a convolution or a pool over axes of these sizes."""
    rank, auto_pad = len(spatial), node.attribute("auto_pad", "NOTSET")
    ones, zeros = [1] * rank, [0] * rank
    strides, dilations = list(node.attribute("strides", ones)), list(node.attribute("dilations", ones))
    window = Window(list(sizes), strides, dilations, zeros, zeros, auto_pad)
    if auto_pad == "VALID":
        return window
    if auto_pad not in _AUTO_PAD:
        pads = list(node.attribute("pads", zeros * 2))
        return Window(window.sizes, strides, dilations, pads[:rank], pads[rank:], auto_pad)
    if any_symbolic(spatial):
        return Window(window.sizes, strides, dilations, None, None, auto_pad)
    totals = [
        max((-(-int(dim) // stride) - 1) * stride + span - int(dim), 0)
        for dim, stride, span in zip(spatial, strides, window.spans, strict=True)
    ]
    begins, ends = _halves(totals, lower=auto_pad == "SAME_LOWER")
    return Window(window.sizes, strides, dilations, begins, ends, auto_pad)


def _halves(totals: Sequence[int], *, lower: bool) -> tuple[list[int], list[int]]:
    """Each total in two; the larger half comes first if `lower`."""
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return (large, small) if lower else (small, large)


def _conv(node: Node) -> Var:
    x, weight = node.var(0), node.var(1)
    window = _window(node, static(shape(weight)[2:], "the kernel"), shape(x)[2:])
    bias, fused = _bias(node)
    y = mb.conv(
        x=x, weight=weight, bias=fused, strides=window.strides, dilations=window.dilations,
        groups=node.attribute("group", 1), **window.padding(), **_named(node, bias is None),
    )  # fmt: skip
    return y if bias is None else _with_bias(node, y, bias)


def _bias(node: Node) -> tuple[Var | None, Var | None]:
    """The bias to add afterwards, and the one that the convolution adds, which must be a constant."""
    bias = node.optional(2)
    return (None, bias) if bias is None or bias.val is not None else (bias, None)


def _named(node: Node, last: bool) -> dict[str, str]:  # noqa: FBT001 - one caller's condition
    return {"name": node.output()} if last else {}


def _with_bias(node: Node, y: Var, bias: Var) -> Var:
    return mb.add(x=y, y=mb.reshape(x=bias, shape=[1, -1, *[1] * (y.rank - 2)]), name=node.output())


def _conv_transpose(node: Node) -> Var:
    """Output padding is less cropped at the end; what is then missing is padded: those elements are the bias alone."""
    x, weight = node.var(0), node.var(1)
    kernel, rank = static(shape(weight)[2:], "the kernel"), x.rank - 2
    begins, ends, strides, dilations = _crops(node, kernel, shape(x)[2:])
    missing = [max(-end, 0) for end in ends]
    crops = interleaved(begins, [max(end, 0) for end in ends])
    if min(begins) < 0:
        raise UnsupportedError(f"negative pads {begins}")
    bias, fused = _bias(node)
    if any(missing) and fused is not None:
        bias, fused = fused, None
    padding: dict[str, Any] = {"pad_type": "custom", "pad": crops} if any(crops) else {"pad_type": "valid"}
    last = bias is None and not any(missing)
    y = mb.conv_transpose(
        x=x, weight=weight, bias=fused, strides=strides, dilations=dilations, groups=node.attribute("group", 1),
        **padding, **_named(node, last),
    )  # fmt: skip
    if any(missing):
        y = mb.pad(x=y, pad=interleaved([0] * rank, missing), constant_val=like(y, 0), **_named(node, bias is None))
    return y if bias is None else _with_bias(node, y, bias)


def _crops(node: Node, kernel: list[int], spatial: Sequence[Dim]) -> tuple[list[int], ...]:
    """What is cropped at begins and ends of the full result, negative where an end is padded; strides; dilations."""
    rank = len(kernel)
    strides = list(node.attribute("strides", [1] * rank))
    dilations = list(node.attribute("dilations", [1] * rank))
    extra = list(node.attribute("output_padding", [0] * rank))
    auto_pad, wanted = node.attribute("auto_pad", "NOTSET"), node.attribute("output_shape")
    pads = list(node.attribute("pads", [0] * rank * 2))
    if wanted is None and auto_pad not in _AUTO_PAD:
        pads = [0] * rank * 2 if auto_pad == "VALID" else pads
        return pads[:rank], [end - more for end, more in zip(pads[rank:], extra, strict=True)], strides, dilations
    sizes = static(spatial, "the spatial size of a ConvTranspose with output_shape or auto_pad")
    wanted = list(wanted or (size * stride for size, stride in zip(sizes, strides, strict=True)))[-rank:]
    totals = [
        stride * (size - 1) + more + (width - 1) * dilation + 1 - target
        for size, stride, more, width, dilation, target in zip(
            sizes, strides, extra, kernel, dilations, wanted, strict=True
        )
    ]
    begins, ends = _halves([max(total, 0) for total in totals], lower=auto_pad != "SAME_UPPER")
    ends = [end - more + min(total, 0) for end, more, total in zip(ends, extra, totals, strict=True)]
    return begins, ends, strides, dilations


def _pool(emit: Callable[..., Var], *, average: bool) -> Operator:
    def lower(node: Node) -> Any:
        x = node.var(0)
        if not is_float(x):  # of 8 bits, which float16 holds
            inner = replace(node, operands=(mb.cast(x=x, dtype="fp32"), *node.operands[1:]))
            return mb.cast(x=lower(inner), dtype=spelled_dtype(x), name=node.output())
        window = _window(node, node.attribute("kernel_shape"), shape(x)[2:])
        counts_pads = average and bool(node.attribute("count_include_pad", 0))
        rounds_up = bool(node.attribute("ceil_mode", 0))
        if node.reads(1) or any(dilation != 1 for dilation in window.dilations) or (rounds_up and counts_pads):
            return _averages(node, x, window) if average else _maxima(node, x, window)
        given: dict[str, Any] = {"exclude_padding_from_average": not counts_pads} if average else {}
        if rounds_up:
            window, given["ceil_mode"] = _rounded_up(window, shape(x)[2:], exact=not counts_pads)
        given.update(window.padding())
        return emit(x=x, kernel_sizes=window.sizes, strides=window.strides, **given, name=node.output())

    return lower


def _taps(node: Node, window: Window, x: Var) -> Taps:
    dims = static(shape(x)[2:], "the size of what such a window moves over")
    assert window.begins is not None
    assert window.ends is not None
    counts = []
    for dim, stride, span, begin, end in zip(
        dims, window.strides, window.spans, window.begins, window.ends, strict=True
    ):
        steps = dim + begin + end - span
        count = (-(-steps // stride) if node.attribute("ceil_mode", 0) else steps // stride) + 1
        counts.append(count - 1 if (count - 1) * stride >= dim + begin else count)  # a window must begin inside
    return Taps(window.sizes, window.strides, window.dilations, window.begins, window.ends, counts)


def _maxima(node: Node, x: Var, window: Window) -> list[Any]:
    taps = _taps(node, window, x)
    parts = taps.slices(x, -math.inf)
    y = largest(parts, node.output())
    if not node.reads(1):
        return [y]
    if x.rank > 4 or node.attribute("storage_order", 0):
        raise UnsupportedError("the indices of the maxima of over two axes, or column by column")
    best = mb.reduce_argmax(x=mb.stack(values=parts, axis=0), axis=0, keep_dims=False)
    found = taps.indices(best, static(shape(x), "the size of what has indices"))
    return [y, mb.identity(x=found, name=node.output(1))]


def _max_unpool(node: Node) -> Var:
    """The maxima where they lay, by their indices; zeros elsewhere."""
    x = node.var(0)
    dims = static(shape(x), "the size of what is unpooled")
    window = _window(node, node.attribute("kernel_shape"), dims[2:])
    assert window.begins is not None
    assert window.ends is not None
    reached = dims[:2] + [
        (dim - 1) * stride + width - begin - end
        for dim, stride, width, begin, end in zip(
            dims[2:], window.strides, window.sizes, window.begins, window.ends, strict=True
        )
    ]
    given = node.given(2, "the shape of the output")
    if given is not None and given.tolist() != reached:  # ONNX's reference and ONNX Runtime read the indices otherwise
        raise UnsupportedError(f"an output {given.tolist()} that is not what the windows reach, {reached}")
    values, places = (mb.reshape(x=one, shape=[-1]) for one in (x, node.var(1)))
    zeros = mb.fill(shape=[math.prod(reached)], value=like(x, 0))
    found = mb.scatter_along_axis(data=zeros, indices=places, updates=values, axis=0, mode="update")
    return mb.reshape(x=found, shape=reached, name=node.output())


def _averages(node: Node, x: Var, window: Window) -> Var:
    taps = _taps(node, window, x)
    counted = taps.within(static(shape(x)[2:], "sizes"), pads=bool(node.attribute("count_include_pad", 0)))
    return mb.real_div(x=total(taps.slices(x, 0.0)), y=counted.astype(like(x, 0).dtype), name=node.output())


def _rounded_up(window: Window, spatial: Sequence[Dim], *, exact: bool) -> tuple[Window, bool]:
    """The window with what rounding up needs as pads, where pads change nothing else; else as it is, and ceil_mode."""
    if not exact or any_symbolic(spatial) or window.begins is None or window.ends is None:
        return window, True
    ends = []
    for dim, stride, span, begin, end in zip(
        spatial, window.strides, window.spans, window.begins, window.ends, strict=True
    ):
        count = -(-(dim + begin + end - span) // stride) + 1
        if (count - 1) * stride >= dim + begin:  # a window must begin inside
            count -= 1
        ends.append(max((count - 1) * stride + span - dim - begin, end))
    return Window(window.sizes, window.strides, window.dilations, window.begins, ends, window.auto_pad), False


def _global(emit: Callable[..., Var]) -> Operator:
    def lower(node: Node) -> Var:
        x = node.var(0)
        return emit(x=x, axes=list(range(2, x.rank)), keep_dims=True, name=node.output())

    return lower


def _lp_pool(node: Node) -> Var:
    """`(sum |x|^p)^(1/p)`."""
    x, p = node.var(0), node.attribute("p", 2)
    window = _window(node, node.attribute("kernel_shape"), shape(x)[2:])
    if p == 2 and not node.attribute("ceil_mode", 0) and all(dilation == 1 for dilation in window.dilations):
        sizes, strides = window.sizes, window.strides
        return mb.l2_pool(x=x, kernel_sizes=sizes, strides=strides, **window.padding(), name=node.output())
    parts = _taps(node, window, x).slices(mb.abs(x=x), 0.0)
    if p == 1:
        return total(parts, node.output())
    powers = total([mb.pow(x=one, y=like(x, p)) for one in parts])
    return mb.pow(x=powers, y=like(x, 1 / p), name=node.output())


OPERATORS: Operators = {
    "AveragePool": _pool(mb.avg_pool, average=True),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global(mb.reduce_mean),
    "GlobalMaxPool": _global(mb.reduce_max),
    "LpPool": _lp_pool,
    "MaxPool": _pool(mb.max_pool, average=False),
    "MaxUnpool": _max_unpool,
}
