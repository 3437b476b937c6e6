"""Operators of MIL that move elements, by their documented formulas: resizing, gathering, scattering, sorting."""

# ruff: noqa: FBT002 - the operators call their parameters so, and these have the same

from __future__ import annotations

import numpy as np
from torch.nn import functional

from tests.targets.coreml.mil_layers import as_tensor


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
    return functional.interpolate(
        as_tensor(x), scale_factor=factors, mode="bilinear", align_corners=bool(align_corners)
    ).numpy()


def _scatter_along_axis(data, indices, updates, axis, mode, validate_indices=False):
    reduction = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}.get(str(mode))
    data, indices, updates = as_tensor(data.copy()), as_tensor(indices).long(), as_tensor(updates)
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


def _resample(x, coordinates, sampling_mode, padding_mode, align_corners, **others):
    padding = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
    return functional.grid_sample(
        as_tensor(x), as_tensor(coordinates), str(sampling_mode), padding[str(padding_mode)], bool(align_corners)
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


def _dequantize(input, scale, zero_point=None, axis=None):  # noqa: A002 - the operator calls it that
    zero_point = np.zeros_like(scale) if zero_point is None else zero_point
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


OPERATORS = {
    "crop": _crop,
    "cumsum": _cumsum,
    "depth_to_space": _depth_to_space,
    "dequantize": _dequantize,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "identity": lambda x: x,
    "non_maximum_suppression": _non_maximum_suppression,
    "one_hot": _one_hot,
    "pixel_unshuffle": lambda x, downscale_factor: functional.pixel_unshuffle(
        as_tensor(x), int(downscale_factor)
    ).numpy(),
    "pixel_shuffle": lambda x, upscale_factor: functional.pixel_shuffle(as_tensor(x), int(upscale_factor)).numpy(),
    "resample": _resample,
    "resize_bilinear": _resize_bilinear,
    "reverse_sequence": _reverse_sequence,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
    "slice_by_size": _slice_by_size,
    "space_to_depth": _space_to_depth,
    "squeeze": lambda x, axes=None: np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes)),
    "topk": _topk,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample,
}
