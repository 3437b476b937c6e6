"""FP8 of transformers (DeepSeek, Qwen): floats of 8 bits in blocks of 128 × 128, with a scale each.

    X               float8 [..., out, in]
    X_scale_inv     float [..., out / 128, in / 128], or uint8: exponents of two, counted from -127

The last block of an axis may be shorter. Source: transformers' integrations/finegrained_fp8.py, and the modelling code
of DeepSeek-V3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressor.arrays import BFLOAT16, UINT8, MappedArray, is_float
from compressor.errors import CompressorError
from compressor.formats.narrow_floats import E8M0
from compressor.sources.huggingface import floats
from compressor.sources.huggingface.checkpoint import CONFIG, Checkpoint
from compressor.sources.huggingface.layers import Layer, report_unknown, unsupported
from compressor.sources.huggingface.layouts import FLOAT8
from compressor.sources.huggingface.parts import QuantizedParts
from compressor.sources.huggingface.schemes import LayerScheme

_KNOWN = frozenset(
    "quant_method fmt weight_block_size activation_scheme modules_to_not_convert dequantize scale_fmt".split()
)
_SCALE = "_scale_inv"
_INPUTS = (".activation_scale", ".input_scale")


def read(checkpoint: Checkpoint) -> Iterator[Layer]:
    """The layers that are stored in this format.

    Raises:
        CompressorError: codes and scales contradict each other or the settings.
    """
    report_unknown(str(checkpoint.path), checkpoint.quantization, _KNOWN)
    block = _block(checkpoint)
    for name, codes in checkpoint.tensors.items():
        scale = checkpoint.tensors.get(name + _SCALE)
        if name.endswith(_INPUTS):
            yield Layer((name,))
        elif scale is not None:
            yield _layer(name, codes, scale, block)


def _layer(name: str, codes: MappedArray, scale: MappedArray, block: tuple[int, ...]) -> Layer:
    of_two = scale.dtype in (UINT8, E8M0)
    if codes.dtype.name not in FLOAT8 or not (of_two or is_float(scale.dtype)) or not codes.shape:
        return unsupported(name, {"": codes, _SCALE: scale}, f"{codes.dtype} with scales {scale.dtype}")
    stored = floats.powers(scale, scale.shape, BFLOAT16) if of_two else scale
    experts = len(codes.shape) - len(block)  # axes before those of a block
    scheme = LayerScheme(strategy="block", block=(*(1,) * experts, *block) if block and experts >= 0 else ())
    weight = QuantizedParts(name, codes.path, codes, stored, scheme).weight(None)
    return Layer((name, name + _SCALE), (weight,))


def _block(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The outputs and inputs of a block, as the settings say it; empty where they do not.

    Raises:
        CompressorError: they say what is none.
    """
    said: Any = checkpoint.quantization.get("weight_block_size") or ()
    if not isinstance(said, list | tuple) or any(type(each) is not int or each < 1 for each in said):
        raise CompressorError(f"{checkpoint.path}: {CONFIG}: weight_block_size is {str(said)[:80]}, expected sizes.")
    return tuple(said)
