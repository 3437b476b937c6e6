"""What runtimes have no kernel for, of all that the format holds and its library gives back.

Source: vLLM 0.33.0, `compressed_tensors.py` (`_get_scheme_from_parts`) and `compressed_tensors_moe.py`
(`get_moe_method`); SGLang 0.5.23, its `compressed_tensors.py` (`_get_scheme_from_parts`, `get_moe_scheme`). Both, as of
weights whose activations are not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping

from compressor.encodings import Encoding, Quantized, shape
from compressor.formats.compressed_tensors import schemes
from compressor.formats.compressed_tensors.schemes import FLOATS, MXFP4, MXFP6, MXFP8, NVFP4, Scheme, scheme
from compressor.targets.compressed_tensors import fit

VLLM, SGLANG = "vLLM 0.33", "SGLang 0.5.23"
_VLLM_BLOCK = (128, 128)


def loads(runtime: str, how: Scheme, *, expert: bool = False) -> bool:
    """Whether a runtime loads layers, or experts, of a scheme."""
    of_vllm = runtime == VLLM
    match how.format:
        case schemes.PACKED:
            return how.strategy in {"channel", "group"} and (of_vllm or how.bits in {4, 8})
        case schemes.FLOATS:
            by_rows = how.strategy in {"tensor", "channel"}
            return not expert and (by_rows or (of_vllm and how.block == _VLLM_BLOCK))
        case schemes.NVFP4:
            return True
        case schemes.MXFP4:
            return of_vllm or expert
        case schemes.MXFP8:
            return of_vllm
    return False


def notes(forms: Mapping[str, Encoding]) -> tuple[str, ...]:
    """What runtimes do not load of layers in these forms, by name."""
    found: dict[tuple[str, str], int] = {}
    coded = {name: form for name, form in forms.items() if isinstance(form, Quantized)}
    for name, form in coded.items():
        how, expert = scheme(form), fit.is_expert(name, shape(form))
        for runtime in (VLLM, SGLANG):
            if not loads(runtime, how, expert=expert):
                key = runtime, f"{'experts' if expert else 'layers'} of {told(how)}"
                found[key] = found.get(key, 0) + 1
    return tuple(
        f"{runtime} does not load {what}, {count} here: a rule keeps them dense"
        for (runtime, what), count in found.items()
    )


def told(how: Scheme) -> str:
    """A scheme in a few words."""
    size = f" of {how.group}" if how.group else f" of {how.block[0]} x {how.block[1]}" if how.block else ""
    kind = {FLOATS: "8-bit floats", MXFP4: "MXFP4", MXFP6: "MXFP6", MXFP8: "MXFP8", NVFP4: "NVFP4"}.get(how.format)
    zero = "" if how.symmetric else " with zero points"
    return f"{kind or f'{how.bits} bits'} by {how.strategy.replace('_', ' ')}{size}{zero}"
