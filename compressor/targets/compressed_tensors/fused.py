"""Layers that loaders compute as one, which has one scheme: projections side by side, and the experts of a model.

Where theirs differ, the smallest one that holds all of them is found: codes of the most bits, the smallest groups, zero
points where any has some. Where there is none, or it would be no smaller, they stay dense together.

Source: `packed_modules_mapping` of the models of vLLM 0.33 and SGLang 0.5.23, and what both do with it: a fused layer
is dense where all of its shards are ignored, has the scheme of the first one otherwise, and where only some are ignored
it is an error. transformers 5.23 decompresses all experts by the scheme of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from compressor.arrays import CODE_DTYPES, ArraySpec
from compressor.encodings import Dense, Encoding, Quantized, dtype, nbytes, shape
from compressor.formats.compressed_tensors.schemes import FLOATS, NVFP4, PACKED, scheme
from compressor.levelling import spec_of_codes
from compressor.targets import Together
from compressor.targets.compressed_tensors import fit, runtimes

FUSED: tuple[tuple[str, ...], ...] = (
    ("q_proj", "k_proj", "v_proj", "b_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
"""The names of layers of one module that are computed as one."""

_SIGNED = {2: CODE_DTYPES["int2"], 4: CODE_DTYPES["int4"], 8: CODE_DTYPES["int8"]}
_BY_ROWS = ("tensor", "channel", "group")
_LEAST = 16
"""Groups of fewer inputs have no kernel."""

Forms = Mapping[str, Encoding]


def together(forms: Forms, own: frozenset[str]) -> Together:
    """The forms of a folder beside each other.

    forms: specs of all weights. own: the names of those whose source is a folder of the format: they stay as they are.
    """
    misfits: dict[str, str] = {}
    alike: dict[str, tuple[Encoding, str]] = {}
    for names, loaders in groups(forms):
        coded = {name: form for name in names if isinstance(form := forms[name], Quantized)}
        if not coded or own.issuperset(names):
            continue
        if len(coded) < len(names):
            wrong: Sequence[str] = tuple(coded)
            why = "others stay dense"
        else:
            wrong, why = _misfits(coded, experts=fit.is_expert(names[0], shape(forms[names[0]])))
        misfits |= dict.fromkeys(wrong, f"{loaders}, and {why}")
        made = {} if wrong else _joined(coded)
        told = f"stored as the others are: {loaders}"
        alike |= {name: (form, told) for name, form in made.items() if form != forms[name]}
    if misfits:
        return Together(misfits)
    held = {**forms, **{name: form for name, (form, _) in alike.items()}}
    return Together({}, alike, runtimes.notes({name: form for name, form in held.items() if name not in own}))


def groups(forms: Forms) -> Iterator[tuple[tuple[str, ...], str]]:
    """The names of weights that need one scheme, and who says so."""
    experts = tuple(name for name, form in forms.items() if fit.is_expert(name, shape(form)))
    if experts:
        yield experts, "loaders take all experts in one scheme without zero points"
    by_module: dict[str, dict[str, str]] = {}
    for name, form in forms.items():
        if fit.is_layer(name, shape(form)) and name not in experts:
            module, _, layer = name.removesuffix(fit.WEIGHT).rpartition(".")
            by_module.setdefault(module, {})[layer] = name
    for layers in by_module.values():
        for names in FUSED:
            found = [name for name in names if name in layers]
            if len(found) > 1:
                told = f"{', '.join(found[:-1])} and {found[-1]}"
                yield (
                    tuple(layers[name] for name in found),
                    f"vLLM and SGLang compute {told} as one layer",
                )


def _misfits(forms: Mapping[str, Quantized], *, experts: bool) -> tuple[Sequence[str], str]:
    """Those that have no place beside the others, and why; none where there is one scheme for all."""
    hows = {name: scheme(form) for name, form in forms.items()}
    if found := [name for name, how in hows.items() if how.format == NVFP4]:
        return found, "each of these floats of 4 bits has a scale of all of its own"
    if experts and (found := [name for name, how in hows.items() if how.format == FLOATS]):
        return found, "those of 8-bit floats are loaded with quantized activations alone"
    if experts and (found := [name for name, how in hows.items() if not how.symmetric]):
        return found, "it has zero points"
    if len(schemes := set(hows.values())) == 1:
        return (), ""
    told = " and ".join(sorted(map(runtimes.told, schemes)))
    kinds = [how.format for how in hows.values()]
    # What may be floats of 8 bits by one scale is only seen later.
    most = PACKED if PACKED in kinds else max(sorted({*kinds}), key=kinds.count)
    if found := [name for name, how in hows.items() if how.format != most]:
        return found, f"they have {told}"
    made = _joined(forms)
    if not made or sum(map(nbytes, made.values())) >= sum(map(_dense, forms.values())):
        return tuple(forms), f"no scheme that holds {told} is smaller than dense"
    return (), ""


def _joined(forms: Mapping[str, Quantized]) -> Mapping[str, Quantized]:
    """The forms, all in one format, in the coarsest scheme that holds all of them; nothing where there is none."""
    hows = [scheme(form) for form in forms.values()]
    if len(set(hows)) == 1:
        return forms
    if hows[0].format not in {PACKED, FLOATS} or any(how.strategy not in _BY_ROWS for how in hows):
        return {}
    columns = [shape(form)[1] for form in forms.values()]
    size = math.gcd(*(how.group or width for how, width in zip(hows, columns, strict=True)))
    by_channel = all(how.group is None for how in hows)
    if not by_channel and size < _LEAST:
        return {}
    bits, symmetric = max(how.bits for how in hows), all(how.symmetric for how in hows)
    return {name: _spec(form, bits, 0 if by_channel else size, symmetric=symmetric) for name, form in forms.items()}


def _spec(form: Quantized, bits: int, size: int, *, symmetric: bool) -> Quantized:
    """A form with codes of so many bits, and a scale of so many inputs; 0 for all."""
    rows, columns = shape(form)
    counts = (rows, columns // size if size else 1)
    scale = ArraySpec(counts, form.scale.dtype)
    if scheme(form).format == FLOATS:
        return replace(form, scale=scale, block=None)
    data = spec_of_codes(bits, (rows, columns), _SIGNED)
    return Quantized(data, scale, None if symmetric else ArraySpec(counts, dtype(data)))


def _dense(form: Quantized) -> int:
    return nbytes(Dense(ArraySpec(shape(form), dtype(form))))
