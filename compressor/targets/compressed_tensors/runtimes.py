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
_HUMMING = "humming-kernels"


def loads(runtime: str, how: Scheme, *, expert: bool = False, mixed: bool = False) -> bool:
    """Whether a runtime loads layers, or experts, of a scheme. mixed: of a folder that has other formats, too.

    SGLang knows experts of MXFP4 by the format of the whole folder.
    """
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
            return of_vllm or (expert and not mixed)
        case schemes.MXFP8:
            return of_vllm
    return False


def package(runtime: str, how: Scheme) -> str:
    """The package without which a runtime found no kernel for what it loads, on CUDA; empty for none.

    Source: its own code, run on folders of one layer without that package, told of a processor of capability 9.0.
    """
    if runtime != VLLM or how.format != schemes.PACKED:
        return ""
    without = how.bits in {2, 3, 7} or (how.bits, how.group) == (5, 16)
    return _HUMMING if without or (how.bits == 8 and how.group == 32 and not how.symmetric) else ""


def notes(forms: Mapping[str, Encoding]) -> tuple[str, ...]:
    """What runtimes do not load of layers in these forms, by name, or load with a package alone."""
    found: dict[tuple[str, str, str], int] = {}
    coded = {name: form for name, form in forms.items() if isinstance(form, Quantized)}
    mixed = len({scheme(form).format for form in coded.values()}) > 1
    for name, form in coded.items():
        how, expert = scheme(form), fit.is_expert(name, shape(form))
        for runtime in (VLLM, SGLANG):
            loaded, needed = loads(runtime, how, expert=expert, mixed=mixed), package(runtime, how)
            if not loaded or needed:
                what = f"{'experts' if expert else 'layers'} of {told(how)}"
                key = (runtime, what, needed if loaded else "")
                found[key] = found.get(key, 0) + 1
    return tuple(_note(*key, count) for key, count in found.items())


def _note(runtime: str, what: str, needed: str, count: int) -> str:
    if needed:
        return f"{runtime} loads {what}, {count} here, with {needed} alone, on CUDA"
    return f"{runtime} does not load {what}, {count} here: a rule keeps them dense"


def told(how: Scheme) -> str:
    """A scheme in a few words."""
    size = f" of {how.group}" if how.group else f" of {how.block[0]} x {how.block[1]}" if how.block else ""
    kind = {FLOATS: "8-bit floats", MXFP4: "MXFP4", MXFP6: "MXFP6", MXFP8: "MXFP8", NVFP4: "NVFP4"}.get(how.format)
    zero = "" if how.symmetric else " with zero points"
    return f"{kind or f'{how.bits} bits'} by {how.strategy.replace('_', ' ')}{size}{zero}"
