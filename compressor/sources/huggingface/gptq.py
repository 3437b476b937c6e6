"""GPTQ: codes of 2, 3, 4 or 8 bits in 32-bit words along the inputs, a scale and a zero point for each group of inputs.

    value[o, i] = (code[i, o] - zero[g[i], o]) * scale[g[i], o]

    qweight  int32 [in * bits / 32, out]        qzeros  int32 [groups, out * bits / 32]
    scales   float [groups, out]                g_idx   int32 [in], optional

The first format (`gptq`) stores zero - 1, modulo 2 ** bits; the second (`gptq_v2`) stores the zero.

Source: AutoGPTQ's and GPTQModel's torch kernels, which are the reference of the layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from compressor.arrays import MappedArray, NDArray, bits
from compressor.encodings import Dense, Quantized
from compressor.errors import CompressorError
from compressor.sources.huggingface.checkpoint import Checkpoint
from compressor.sources.huggingface.layers import (
    Layer,
    group_size,
    groups,
    layers,
    reordered,
    report_unknown,
    unsupported,
)
from compressor.sources.huggingface.layouts import code_dtype, computed, expect, unpack_columns, unpack_rows, words
from compressor.weight import Weight

OFFSETS: Mapping[str, int] = {"gptq": 1, "gptq_v2": 0}
"""What is added to a stored zero point, by format."""
BITS = (2, 3, 4, 8)
PARTS = ("qweight", "qzeros", "scales", "g_idx")
INT32 = np.dtype(np.int32)
KNOWN = frozenset(
    "quant_method method bits group_size desc_act sym lm_head true_sequential damp_percent damp_auto_increment dataset "
    "static_groups model_name_or_path model_file_base_name is_marlin_format checkpoint_format format pack_dtype meta "
    "dynamic backend tokenizer use_cuda_fp16 model_seqlen block_name_to_quantize module_name_preceding_first_block "
    "batch_size pad_token_id disable_exllama max_input_length cache_block_outputs modules_in_block_to_quantize "
    "exllama_config use_exllama hyb_act quantizer modules_to_not_convert mse".split()
)


def read(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that are stored in this format.

    Raises:
        CompressorError: tensors contradict each other or the settings.
    """
    said = checkpoint.quantization
    report_unknown(str(checkpoint.path), said, KNOWN)
    form = str(said.get("checkpoint_format") or said.get("format") or "gptq")
    for prefix, tensors in layers(checkpoint.tensors, PARTS):
        if form not in OFFSETS or said.get("is_marlin_format"):
            yield unsupported(prefix, tensors, f"the format {form} of GPTQ (known: {', '.join(OFFSETS)})")
        elif not {"qweight", "qzeros", "scales"} <= tensors.keys():
            yield unsupported(prefix, tensors, "a GPTQ layer without qweight, qzeros and scales")
        else:
            yield Layer(tuple(prefix + part for part in tensors), (_weight(prefix, tensors, said, OFFSETS[form]),))


def _weight(prefix: str, tensors: Mapping[str, MappedArray], said: Mapping[str, Any], offset: int) -> Weight:
    qweight, scales = tensors["qweight"], tensors["scales"]
    if len(qweight.shape) != 2 or len(scales.shape) != 2 or 0 in (*qweight.shape, *scales.shape):
        raise CompressorError(f"{qweight.path}: {prefix}qweight and scales: expected two matrices.")
    (rows, out), count = qweight.shape, scales.shape[0]
    width = _width(prefix, tensors, said)
    columns = rows * 32 // width
    if "g_idx" in tensors:
        # The last word may have room for more codes than there are inputs.
        named = tensors["g_idx"].size
        columns = named if words(named, width) == rows else columns
    size = group_size(f"{scales.path}: {prefix}scales", said, "group_size", columns, count)
    order = groups(prefix, tensors["g_idx"], columns, count, size) if "g_idx" in tensors else None
    expect(f"{prefix}qweight", qweight, (words(columns, width), out), INT32)
    expect(f"{prefix}qzeros", tensors["qzeros"], (count, words(out, width)), INT32)
    expect(f"{prefix}scales", scales, (count, out))
    code = code_dtype(width, signed=False)
    codes = computed((out, columns), code, partial(_codes, code, width, columns), qweight)
    scale = computed((out, count), scales.dtype, np.transpose, scales)
    zero_point = computed((out, count), code, partial(_zeros, code, width, out, offset), tensors["qzeros"])
    if order is not None:
        return reordered(f"{prefix}weight", codes, scale, zero_point, order)
    block = None if columns % size == 0 else (1, size)
    encoding = Quantized(Dense(codes), scale, zero_point, block)
    return Weight(f"{prefix}weight", encoding, width=0 if width == bits(code) else width)


def _width(prefix: str, tensors: Mapping[str, MappedArray], said: Mapping[str, Any]) -> int:
    """The bits of a code: those of the settings, or those of the tensors where layers have settings of their own.

    Raises:
        CompressorError: the tensors have another width than the settings say.
    """
    out, (count, stored) = tensors["qweight"].shape[1], (*tensors["qzeros"].shape, 0, 0)[:2]
    fitting = [width for width in BITS if words(out, width) == stored and tensors["qweight"].shape[0] * 32 % width == 0]
    asked = said.get("bits")
    if asked in fitting:
        return int(asked)
    if fitting and (asked is None or said.get("dynamic")):
        return fitting[0]
    raise CompressorError(
        f"{tensors['qzeros'].path}: {prefix}qzeros is [{count}, {stored}] for {out} outputs: expected "
        f"{words(out, asked) if asked in BITS else '?'} words of {asked} bits, as quantization_config.bits says "
        f"(known: {', '.join(map(str, BITS))}). Is config.json of another model?"
    )


def _codes(code: Any, width: int, columns: int, qweight: NDArray) -> NDArray:
    return unpack_columns(qweight, width, columns).view(code)


def _zeros(code: Any, width: int, out: int, offset: int, qzeros: NDArray) -> NDArray:
    stored = unpack_rows(qzeros, width, out)
    return np.ascontiguousarray(((stored + offset) & ((1 << width) - 1)).astype(np.uint8).T).view(code)
