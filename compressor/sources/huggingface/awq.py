"""AWQ's `gemm` layout: 4-bit codes along the outputs, eight in a 32-bit word and there in an order of their own.

    value[o, i] = (code[i, o] - zero[i // group, o]) * scale[i // group, o]

    qweight  int32 [in, out / 8]        qzeros  int32 [groups, out / 8]        scales  float [groups, out]

From the lowest bits of a word on stand the codes of the outputs 0, 2, 4, 6, 1, 3, 5, 7.

Source: AutoAWQ's packing, which is the reference of the layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from compressor.arrays import UINT4, MappedArray, NDArray
from compressor.encodings import Dense, Quantized
from compressor.errors import CompressorError
from compressor.sources.huggingface.checkpoint import Checkpoint
from compressor.sources.huggingface.layers import Layer, group_size, layers, report_unknown, unsupported
from compressor.sources.huggingface.layouts import computed, expect, unpack_rows
from compressor.weight import Weight

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in its word the code of each output stands."""
PARTS = ("qweight", "qzeros", "scales")
INT32 = np.dtype(np.int32)
KNOWN = frozenset(
    "quant_method bits w_bit group_size q_group_size zero_point version backend modules_to_not_convert do_fuse "
    "fuse_max_seq_len modules_to_fuse exllama_config format".split()
)


def read(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that are stored in this format.

    Raises:
        CompressorError: tensors contradict each other or the settings.
    """
    said = checkpoint.quantization
    report_unknown(str(checkpoint.path), said, KNOWN)
    layout = str(said.get("version") or said.get("format") or "gemm").lower()
    width = said.get("bits", said.get("w_bit", 4))
    for prefix, tensors in layers(checkpoint.tensors, PARTS):
        if layout != "gemm" or width != 4:
            yield unsupported(prefix, tensors, f"AWQ's layout {layout} of {width} bits (known: gemm of 4)")
        elif not {*PARTS} <= tensors.keys():
            yield unsupported(prefix, tensors, "an AWQ layer without qweight, qzeros and scales")
        else:
            yield Layer(tuple(prefix + part for part in tensors), (_weight(prefix, tensors, said),))


def _weight(prefix: str, tensors: Mapping[str, MappedArray], said: Mapping[str, Any]) -> Weight:
    qweight, scales = tensors["qweight"], tensors["scales"]
    if len(qweight.shape) != 2 or len(scales.shape) != 2:
        raise CompressorError(f"{qweight.path}: {prefix}qweight and scales: expected two matrices.")
    (columns, packed), count = qweight.shape, scales.shape[0]
    out = packed * 8
    where = f"{scales.path}: {prefix}scales"
    size = group_size(where, said, "group_size" if "group_size" in said else "q_group_size", columns, count)
    if size * count != columns:
        raise CompressorError(f"{where} has {count} groups for {columns} inputs, which they do not divide.")
    expect(f"{prefix}qweight", qweight, (columns, packed), INT32)
    expect(f"{prefix}qzeros", tensors["qzeros"], (count, packed), INT32)
    expect(f"{prefix}scales", scales, (count, out))
    return Weight(
        f"{prefix}weight",
        Quantized(
            Dense(computed((out, columns), UINT4, _codes, qweight)),
            computed((out, count), scales.dtype, np.transpose, scales),
            computed((out, count), UINT4, _codes, tensors["qzeros"]),
        ),
    )


def _codes(packed: NDArray) -> NDArray:
    """Words `[rows, outputs / 8]` as codes uint4 `[outputs, rows]`."""
    rows, count = packed.shape
    codes = unpack_rows(packed, 4, count * 8).reshape(rows, count, 8)[:, :, PLACES]
    return np.ascontiguousarray(codes.reshape(rows, count * 8).T).view(UINT4)
