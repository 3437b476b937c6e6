"""What a quantization format makes of the tensors of a layer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from compressor.arrays import Array, DType, MappedArray, NDArray, is_float
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.sources.huggingface.layouts import as_bytes, computed, values
from compressor.weight import Weight

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layer:
    """Tensors of one layer. weights: what they are. parts: the names of all tensors that are read by this."""

    parts: tuple[str, ...]
    weights: tuple[Weight, ...] = field(default=())


def layers(tensors: Mapping[str, MappedArray], names: Iterable[str]) -> Iterator[tuple[str, dict[str, MappedArray]]]:
    """The layers that have a tensor of one of the `names`: the prefix with its dot, and these tensors by name."""
    found: dict[str, dict[str, MappedArray]] = {}
    known = frozenset(names)
    for full, tensor in tensors.items():
        prefix, dot, name = full.rpartition(".")
        if name in known:
            found.setdefault(prefix + dot, {})[name] = tensor
    return iter(found.items())


def unsupported(prefix: str, tensors: Mapping[str, MappedArray], reason: str) -> Layer:
    """A layer that no encoding expresses: its tensors stay as their bytes."""
    text = f"{reason}: not supported, kept as its bytes"
    kept = {name: tensor if is_float(tensor.dtype) else as_bytes(tensor) for name, tensor in tensors.items()}
    weights = tuple(Weight(prefix + name, Dense(tensor), pinned=text) for name, tensor in kept.items())
    return Layer(tuple(prefix + name for name in tensors), weights)


def groups(prefix: str, g_idx: MappedArray, columns: int, count: int, size: int) -> NDArray | None:
    """The group of each input, int64 `[columns]`; None where they are blocks of so many in order, the last cut off.

    Raises:
        CompressorError: it is not a group for each input.
    """
    found = np.asarray(g_idx)
    integral = found.dtype.kind in "iu" and found.shape == (columns,)
    if not integral or not found.size or int(found.min()) < 0 or int(found.max()) >= count:
        raise CompressorError(
            f"{g_idx.path}: {prefix}{'g_idx'} is {g_idx.dtype}{list(g_idx.shape)}, expected the numbers 0 to "
            f"{count - 1} of a group for each of {columns} inputs. Save or download the folder again."
        )
    in_order = np.array_equal(found, np.arange(columns) // size)
    return None if in_order else found.astype(np.int64)


def group_size(where: str, said: Mapping[str, Any], key: str, columns: int, count: int) -> int:
    """The inputs of a group, as the settings say it, else as `count` groups make it.

    Raises:
        CompressorError: the tensors have another number of groups than the settings say.
    """
    size = said.get(key)
    if size is None or said.get("dynamic"):  # layers may have settings of their own
        return -(-columns // max(1, count))
    size = columns if size == -1 else size
    if type(size) is not int or size < 1 or -(-columns // size) != count:
        raise CompressorError(
            f"{where} has {count} groups for {columns} inputs: quantization_config.{key} says {said[key]}. "
            "Is config.json of another model?"
        )
    return size


def reordered(name: str, codes: Array, scale: Array, zero_point: Array | None, order: NDArray) -> Weight:
    """A weight whose groups are not blocks of neighbours.

    codes `[out, in]`, scale and zero_point `[out, groups]`, order: the group of each input.
    """
    note = "its groups are in the order of the activations (g_idx), no blocks: not supported as codes, kept as values"
    return as_values(name, codes, scale, zero_point, {1: order}, note)


def as_values(
    name: str, codes: Array, scale: Array, zero_point: Array | None, order: Mapping[int, NDArray], note: str
) -> Weight:
    """The values of a weight whose codes no encoding can have.

    order: by axis, which of the parameters each place there has; where an axis is not named, all have one, or each its
    own.
    """
    parts = [codes, scale] if zero_point is None else [codes, scale, zero_point]
    dense = computed(tuple(codes.shape), scale.dtype, partial(_values, scale.dtype, order), *parts)
    return Weight(name, Dense(dense), note=note)


def _values(dtype: DType, order: Mapping[int, NDArray], codes: NDArray, *parameters: NDArray) -> NDArray:
    """The values, where codes and parameters have been read.

    >>> _values(np.dtype(np.float32), {1: np.array([0, 0, 1])}, np.array([[1, 2, 3]]), np.float32([[1, 10]])).tolist()
    [[1.0, 2.0, 30.0]]
    """
    for axis, places in order.items():
        parameters = tuple(parameter.take(places, axis) for parameter in parameters)
    return values(dtype, codes, *parameters)


def report_unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Name the settings that have no meaning here; those that are off are not worth a word."""
    for key in sorted(key for key, value in given.items() if value and key not in known):
        log.warning("%s: the unknown key %r is ignored: the tensors say how the weights are stored.", where, key)


def foreign(name: str, names: Collection[str]) -> str:
    """What there is to say of a tensor that holds codes of a library whose layers are not read; empty for any other.

    >>> foreign("fc.W_q", {"fc.W_q", "fc.scale", "fc.zero"})
    'codes of HQQ, not read: save what `dequantize()` of each HQQLinear returns as the weight of that layer'

    Source: optimum-quanto 0.2.7, `QTensor.save_to_state_dict`, `QTensor.dequantize`; hqq 0.2.8, `HQQLinear.state_dict`,
    `HQQLinear.dequantize`.
    """
    stem = name.removesuffix("._data").removesuffix("._data")  # twice where they are packed
    layer = name.removesuffix("W_q")
    found = "quanto" if stem != name and f"{stem}._scale" in names else ""
    if layer != name and f"{layer}scale" in names and f"{layer}zero" in names:
        found = "HQQ"
    return f"codes of {found}, not read: save {_DENSE[found]} as the weight of that layer" if found else ""


_DENSE = {
    "quanto": "what `weight.dequantize()` of each frozen layer returns",
    "HQQ": "what `dequantize()` of each HQQLinear returns",
}
