"""A reading of the MIL operators' documentation in numpy and torch: what a program computes, where no Core ML is.

Operators that Core ML Tools infers values of are left to it; the others stand here, by their documented formulas.
"""

# ruff: noqa: FBT002 - the operators call their parameters so, and these have the same

from __future__ import annotations

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Function, types
from torch.nn import functional


def evaluate(program, feeds):
    """The outputs of `main`, by name."""
    function = program.functions["main"]
    known = {function.inputs[name]: np.asarray(value) for name, value in feeds.items()}
    # Infinite on the way is what a device computes, too: exp(-x) in a sigmoid of a very small x.
    with Function({}, opset_version=function.opset_version), np.errstate(over="ignore"):
        _run(function, known)
    return {output.name: known.get(output, output.val) for output in function.outputs}


def evaluate_package(path, feeds):
    """The outputs of the package in `path`, by name, its weights decoded by Core ML Tools; inputs in order."""
    spec = ct.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    inputs = program.functions["main"].inputs
    return evaluate(program, {name: as_given(x, var) for (name, var), x in zip(inputs.items(), feeds, strict=True)})


def as_given(value, var):
    """A value in the type of an input; a scalar as an array of one element, where that is what the program takes."""
    array = np.asarray(value).astype(types.nptype_from_builtin(var.dtype))
    return array if array.ndim == len(var.shape) else array.reshape(1)


def _run(block, known):
    for op in block.operations:
        if op.op_type == "const":
            continue
        if op.op_type.startswith("constexpr_"):
            known[op.outputs[0]] = _materialized(op.outputs[0])
            continue
        given = {name: _value(var, known) for name, var in op.inputs.items() if var is not None and name not in _BLOCKS}
        if op.op_type in {"while_loop", "cond"}:
            results = _CONTROL[op.op_type](op, given, known)
        elif op.op_type in _OPERATORS:
            results = _OPERATORS[op.op_type](**given)
        else:
            results = _inferred(op.op_type, given)
        results = results if isinstance(results, tuple) else (results,)
        for output, value in zip(op.outputs, results, strict=True):
            kind = types.nptype_from_builtin(output.dtype)
            assert len(output.shape) == np.ndim(value), (op.op_type, output.shape, np.shape(value))
            fixed = [
                (a, b) for a, b in zip(output.shape, np.shape(value), strict=True) if isinstance(a, (int, np.integer))
            ]
            assert all(a == b for a, b in fixed), (op.op_type, op.name, output.shape, np.shape(value))
            known[output] = np.asarray(value).astype(kind)


_BLOCKS = {"_cond", "_body", "_true_fn", "_false_fn"}


def _value(var, known):
    if isinstance(var, (list, tuple)):
        return [_value(one, known) for one in var]
    found = known.get(var, var.val)
    return bool(found) if isinstance(found, np.bool_) else found


def _materialized(var):
    """The value of a constant expression: each operation's own `decompress`, from the inside."""
    if var.val is not None:
        return np.asarray(var.val)
    if not hasattr(type(var.op), "decompress"):  # a cast
        return np.asarray(var.op.materialized_val_inference())
    inputs = {key: None if each is None else _materialized(each) for key, each in var.op.inputs.items()}
    decompress = type(var.op).decompress
    names = decompress.__code__.co_varnames[: decompress.__code__.co_argcount]
    result = decompress(*(inputs.get(name) for name in names))
    return np.asarray(result[var.op.outputs.index(var)] if isinstance(result, tuple) else result)


def _while(op, given, known):
    state = given["loop_vars"]
    condition, body = op.blocks
    while True:
        known.update(zip(condition.inputs, state, strict=True))
        _run(condition, known)
        if not np.all(_value(condition.outputs[0], known)):
            return tuple(state)
        known.update(zip(body.inputs, state, strict=True))
        _run(body, known)
        state = [_value(output, known) for output in body.outputs]


def _cond(op, given, known):
    block = op.blocks[0 if given["pred"] else 1]
    _run(block, known)
    return tuple(_value(output, known) for output in block.outputs)


_CONTROL = {"while_loop": _while, "cond": _cond}


def _inferred(operator, given):
    found = getattr(mb, operator)(**given)
    found = found if isinstance(found, (list, tuple)) else [found]
    assert all(one.val is not None for one in found), f"no value inference for {operator}"
    return tuple(one.val for one in found)


def _t(x):
    return torch.from_numpy(np.array(x))


def _pads(pad_type, pad, rank):
    assert pad_type in {"valid", "custom"}, pad_type
    pad = [0] * 2 * rank if pad_type == "valid" else list(map(int, pad))
    return [(pad[2 * i], pad[2 * i + 1]) for i in range(rank)]


def _same(x, weight, strides, dilations):
    """As much as makes the output `ceil(size / stride)` long; one more at the end where it is odd."""
    pads = []
    for size, kernel, stride, dilation in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        pads.append((total // 2, total - total // 2))
    return pads


def _padded(x, pads, value=0.0):
    return functional.pad(x, [int(p) for pair in reversed(pads) for p in pair], value=value)


def _conv(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    rank = x.ndim - 2
    emit = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    pads = _same(x, weight, strides, dilations) if pad_type == "same" else _pads(pad_type, pad, rank)
    x = _padded(_t(x), pads)
    return emit(
        x, _t(weight), None if bias is None else _t(bias), strides.tolist(), 0, dilations.tolist(), int(groups)
    ).numpy()


def _conv_transpose(x, weight, strides, pad_type, pad, dilations, groups, bias=None, output_shape=None):
    """An output shape adds to the end what pads and the formula leave out."""
    rank = x.ndim - 2
    emit = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    y = emit(_t(x), _t(weight), None, strides.tolist(), 0, 0, int(groups), dilations.tolist()).numpy()
    cut = [slice(None)] * 2 + [slice(b, y.shape[2 + i] - e) for i, (b, e) in enumerate(_pads(pad_type, pad, rank))]
    extra = [0] * rank
    if output_shape is not None:
        extra = [int(size) - len(range(y.shape[2 + i])[cut[2 + i]]) for i, size in enumerate(output_shape[-rank:])]
        cut = [slice(None)] * 2 + [slice(one.start, one.stop + extra[i]) for i, one in enumerate(cut[2:])]
    y = y[tuple(cut)]
    return y if bias is None else y + bias.reshape(1, -1, *[1] * rank)


def _windows(x, kernel_sizes, strides, pads, value, ceil_mode):
    rank = x.ndim - 2
    extra = []
    for axis, (begin, end) in enumerate(pads):
        dim, k, s = x.shape[2 + axis] + begin + end, int(kernel_sizes[axis]), int(strides[axis])
        count = -(-(dim - k) // s) + 1
        if (count - 1) * s >= x.shape[2 + axis] + begin:
            count -= 1
        extra.append((begin, end + max((count - 1) * s + k - dim, 0)) if ceil_mode else (begin, end))
    y = _padded(_t(x), extra, value)
    for axis in range(rank):
        y = y.unfold(2 + axis, int(kernel_sizes[axis]), int(strides[axis]))
    return y.flatten(2 + rank)


def _max_pool(x, kernel_sizes, strides, pad_type, pad, ceil_mode=False):
    pads = _pads(pad_type, pad, x.ndim - 2)
    return _windows(x, kernel_sizes, strides, pads, -np.inf, ceil_mode).amax(-1).numpy()


def _avg_pool(x, kernel_sizes, strides, pad_type, pad, exclude_padding_from_average=False, ceil_mode=False):
    pads = _pads(pad_type, pad, x.ndim - 2)
    total = _windows(x, kernel_sizes, strides, pads, 0.0, ceil_mode).sum(-1)
    if exclude_padding_from_average:
        ones = np.ones_like(x)
        count = _windows(ones, kernel_sizes, strides, pads, 0.0, ceil_mode).sum(-1)
    else:  # the pads count, what lies beyond them for ceil_mode does not
        inside = np.ones((*x.shape[:2], *(d + b + e for d, (b, e) in zip(x.shape[2:], pads, strict=True))), np.float32)
        count = _windows(inside, kernel_sizes, strides, [(0, 0)] * len(pads), 0.0, ceil_mode).sum(-1)
    return (total / count).numpy()


def _l2_pool(x, kernel_sizes, strides, pad_type, pad, ceil_mode=False):
    return (
        _windows(x * x, kernel_sizes, strides, _pads(pad_type, pad, x.ndim - 2), 0.0, ceil_mode).sum(-1).sqrt().numpy()
    )


def _by_channel(value, x):
    return np.reshape(value, (1, -1, *[1] * (x.ndim - 2)))


def _batch_norm(x, mean, variance, gamma, beta, epsilon):
    mean, variance, gamma, beta = (_by_channel(one, x) for one in (mean, variance, gamma, beta))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def _instance_norm(x, gamma, beta, epsilon):
    axes = tuple(range(2, x.ndim))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    return normal * _by_channel(gamma, x) + _by_channel(beta, x)


def _local_response_norm(x, size, alpha, beta, k):
    return functional.local_response_norm(_t(x), int(size), float(alpha), float(beta), float(k)).numpy()


def _linear(x, weight, bias):
    return x @ weight.T + bias


def _layer_norm(x, axes, epsilon, gamma=1.0, beta=0.0):
    axes = tuple(int(axis) for axis in axes)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon) * gamma + beta


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm_direction(x, h, c, weight_ih, weight_hh, bias, peephole, activations):
    recurrent, cell, last = activations
    states = []
    for step in x:
        gates = step @ weight_ih.T + h @ weight_hh.T + bias
        i, f, o, z = np.split(gates, 4, axis=1)
        p_i, p_f, p_o = np.split(peephole, 3) if peephole is not None else (0, 0, 0)
        i, f, z = recurrent(i + p_i * c), recurrent(f + p_f * c), cell(z)
        c = f * c + i * z
        h = recurrent(o + p_o * c) * last(c)
        states.append(h)
    return np.stack(states), h, c


_ACTIVATIONS = {"sigmoid": _sigmoid, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}


def _lstm(x, initial_h, initial_c, weight_ih, weight_hh, direction, output_sequence, recurrent_activation,
          cell_activation, activation, bias=0.0, peephole=None, **back):  # fmt: skip
    assert output_sequence
    activations = [_ACTIVATIONS[name] for name in (recurrent_activation, cell_activation, activation)]
    first = (weight_ih, weight_hh, bias, peephole)
    second = (
        back.get("weight_ih_back"),
        back.get("weight_hh_back"),
        back.get("bias_back", 0.0),
        back.get("peephole_back"),
    )
    runs = {"forward": [(first, 1)], "reverse": [(first, -1)], "bidirectional": [(first, 1), (second, -1)]}[
        str(direction)
    ]
    hs, cs = np.split(initial_h, len(runs), 1), np.split(initial_c, len(runs), 1)
    found = []
    for (weights, way), h, c in zip(runs, hs, cs, strict=True):
        states, *last = _lstm_direction(x[::way], h, c, *weights, activations)
        found.append((states[::way], *last))
    return tuple(np.concatenate([one[part] for one in found], -1) for part in range(3))


def _rnn(x, initial_h, weight_ih, weight_hh, direction, output_sequence, activation, bias=0.0):
    assert output_sequence
    assert direction == "forward"
    h, states = initial_h, []
    for step in x:
        h = _ACTIVATIONS[str(activation)](step @ weight_ih.T + h @ weight_hh.T + bias)
        states.append(h)
    return np.stack(states), h


def _points(size, out, mode):
    index = np.arange(out)
    if mode == "STRICT_ALIGN_CORNERS":
        points = index * (size - 1) / (out - 1)
    elif mode == "DEFAULT":
        points = index * (size - size / out) / (out - 1)
    else:
        assert mode == "UNALIGN_CORNERS"
        points = index * size / out + 0.5 * size / out - 0.5
    return np.clip(points, 0, size - 1)


def _resize_bilinear(x, target_size_height, target_size_width, sampling_mode):
    for axis, out in ((x.ndim - 2, int(target_size_height)), (x.ndim - 1, int(target_size_width))):
        points = _points(x.shape[axis], out, str(sampling_mode))
        low = np.floor(points).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (points - low).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def _upsample(x, scale_factor_height, scale_factor_width):
    return x.repeat(int(scale_factor_height), -2).repeat(int(scale_factor_width), -1)


def _upsample_bilinear(x, scale_factor_height, scale_factor_width, align_corners, half_pixel_centers=None):
    assert half_pixel_centers is None or bool(half_pixel_centers) != bool(align_corners)
    factors = float(scale_factor_height), float(scale_factor_width)
    given = {"scale_factor": factors, "mode": "bilinear", "align_corners": bool(align_corners)}
    return functional.interpolate(_t(x), **given, recompute_scale_factor=False).numpy()


def _scatter_along_axis(data, indices, updates, axis, mode, validate_indices=False):
    reduction = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}.get(str(mode))
    data, indices, updates = _t(data.copy()), _t(indices).long(), _t(updates)
    if reduction is None:
        return data.scatter(int(axis), indices, updates).numpy()
    return data.scatter_reduce(int(axis), indices, updates, reduction).numpy()


def _scatter_nd(data, indices, updates, mode, validate_indices=False):
    data, place = data.copy(), tuple(np.moveaxis(indices, -1, 0))
    ways = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
    if mode == "update":
        data[place] = updates
    else:
        ways[str(mode)].at(data, place, updates)
    return data


def _scatter(data, indices, updates, axis, mode, validate_indices=False):
    assert axis == 0
    data = data.copy()
    if mode == "add":
        np.add.at(data, indices, updates)
        return data
    assert mode == "update"
    data[indices] = updates
    return data


def _gelu(x, mode):
    return functional.gelu(_t(x), approximate="tanh" if mode == "TANH_APPROXIMATION" else "none").numpy()


def _upsample_bilinear(x, scale_factor_height, scale_factor_width, align_corners, half_pixel_centers=None):
    assert half_pixel_centers is None or bool(half_pixel_centers) != bool(align_corners)
    factors = float(scale_factor_height), float(scale_factor_width)
    return functional.interpolate(
        _t(x), scale_factor=factors, mode="bilinear", align_corners=bool(align_corners)
    ).numpy()


def _resample(x, coordinates, sampling_mode, padding_mode, align_corners, **others):
    padding = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
    return functional.grid_sample(
        _t(x), _t(coordinates), str(sampling_mode), padding[str(padding_mode)], bool(align_corners)
    ).numpy()


def _crop(x, crop_height, crop_width):
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _cumsum(x, axis, exclusive, reverse):
    x = np.flip(x, int(axis)) if reverse else x
    y = np.cumsum(x, int(axis)) - (x if exclusive else 0)
    return np.flip(y, int(axis)) if reverse else y


def _topk(x, k, axis, ascending, **others):
    order = np.argsort(x if ascending else -x, axis=int(axis), kind="stable")
    order = np.take(order, np.arange(int(k)), int(axis))
    return np.take_along_axis(x, order, int(axis)), order


def _one_hot(indices, one_hot_vector_size, axis, on_value, off_value):
    hot = np.where(np.arange(int(one_hot_vector_size)) == indices[..., None], on_value, off_value)
    return np.moveaxis(hot, -1, int(axis))


def _space_to_depth(x, block_size):
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _depth_to_space(x, block_size):
    n, c, h, w = x.shape
    b = int(block_size)
    return x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _gather_along_axis(x, indices, axis, validate_indices=False):
    return np.take_along_axis(x, indices, int(axis))


def _gather_nd(x, indices, batch_dims=0, validate_indices=False):
    if batch_dims == 0:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    return np.stack([_gather_nd(one, place, batch_dims - 1) for one, place in zip(x, indices, strict=True)])


def _dequantize(input, scale, zero_point, axis=None):  # noqa: A002 - the operator calls it that
    if axis is not None:
        dims = [-1 if place == axis else 1 for place in range(input.ndim)]
        scale, zero_point = scale.reshape(dims), zero_point.reshape(dims)
    return (input.astype(np.float32) - zero_point) * scale


def _overlaps(boxes, one):
    """The intersection of each `[x, y, width, height]` with one of them over their union."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    sides = np.clip(np.minimum(high, high[one]) - np.maximum(low, low[one]), 0, None)
    both, areas = sides.prod(-1), boxes[:, 2:].prod(-1)
    with np.errstate(all="ignore"):
        return np.nan_to_num(both / (areas + areas[one] - both))


def _chosen(boxes, scores, iou_threshold, least):
    left, kept = np.argsort(-scores, kind="stable"), []
    left = left[scores[left] >= least]
    while len(left):
        kept.append(left[0])
        left = left[1:][_overlaps(boxes, left[0])[left[1:]] <= iou_threshold]
    return kept


def _non_maximum_suppression(
    boxes, scores, iou_threshold, max_boxes, score_threshold=None, per_class_suppression=False
):
    """Without a threshold of scores the boxes are the last axis (iOS17), and nothing counts those that are kept."""
    newer = score_threshold is None
    boxes, scores = (one.swapaxes(1, 2) if newer else one for one in (boxes, scores))
    assert scores.shape[2] == 1
    found = [
        _chosen(one, score[:, 0], iou_threshold, -np.inf if newer else score_threshold)[: int(max_boxes)]
        for one, score in zip(boxes, scores, strict=True)
    ]
    padding = -1 if newer else 0
    indices = np.array([[*kept, *[padding] * (int(max_boxes) - len(kept))] for kept in found], np.int32)
    chosen, points = (
        np.take_along_axis(one, indices[..., None] * (indices[..., None] >= 0), 1) for one in (boxes, scores)
    )
    if newer:
        return chosen.swapaxes(1, 2), points.swapaxes(1, 2), indices
    return chosen, points, indices, np.array([len(kept) for kept in found], np.int32)


def _reverse_sequence(x, lengths, seq_axis=0, batch_axis=0):
    y = x.copy()
    rows, source = (
        np.moveaxis(y, (int(batch_axis), int(seq_axis)), (0, 1)),
        np.moveaxis(x, (int(batch_axis), int(seq_axis)), (0, 1)),
    )
    for row, one, length in zip(rows, source, lengths, strict=True):
        row[: int(length)] = one[: int(length)][::-1]
    return y


def _slice_by_size(x, begin, size):
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


_OPERATORS = {
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "crop": _crop,
    "cumsum": _cumsum,
    "depth_to_space": _depth_to_space,
    "dequantize": _dequantize,
    "elu": lambda x, alpha: np.where(x >= 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1)),
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "gelu": _gelu,
    "identity": lambda x: x,
    "instance_norm": _instance_norm,
    "l2_pool": _l2_pool,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "local_response_norm": _local_response_norm,
    "lstm": _lstm,
    "max_pool": _max_pool,
    "non_maximum_suppression": _non_maximum_suppression,
    "one_hot": _one_hot,
    "pixel_unshuffle": lambda x, downscale_factor: functional.pixel_unshuffle(_t(x), int(downscale_factor)).numpy(),
    "pixel_shuffle": lambda x, upscale_factor: functional.pixel_shuffle(_t(x), int(upscale_factor)).numpy(),
    "resample": _resample,
    "resize_bilinear": _resize_bilinear,
    "reverse_sequence": _reverse_sequence,
    "rnn": _rnn,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
    "select": lambda cond, a, b: np.where(cond, a, b),  # noqa: PLW0108 - by name
    "silu": lambda x: x * _sigmoid(x),
    "slice_by_size": _slice_by_size,
    "space_to_depth": _space_to_depth,
    "squeeze": lambda x, axes=None: np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes)),
    "topk": _topk,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample,
}
