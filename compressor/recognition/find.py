"""Looking at a weight: what it is, and the ways to store it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from compressor import encodings
from compressor.arrays import CODE_DTYPES, ArraySpec, NDArray, is_float, stored_type
from compressor.encodings import (
    Concatenated,
    Dense,
    Encoding,
    Palettized,
    Quantized,
    Sparse,
    codes_of,
    is_encoded,
)
from compressor.patterns import distance, has_minus_zero, largest
from compressor.recognition import parts, slices
from compressor.recognition.findings import Finding, Settings
from compressor.recognition.near_misses import near_misses
from compressor.recognition.scan import Scan, scan
from compressor.recognition.schemes import (
    EXACT,
    Candidate,
    Loss,
    describing,
    linear_quantize,
    narrow,
    palettize,
    scaled_table,
    sparsify,
)
from compressor.recognition.tables import ENTRIES
from compressor.weight import Weight

_MASKED = 1.05
"""Forms with a mask that take so many times as much of some of a weight are not the smallest of all of it."""


def find(weight: Weight, settings: Settings, *, sampled: bool = False) -> Finding:
    """What one weight is, and the ways to store it.

    sampled: distinct values are taken from a sample: a hypothesis for whoever compares every value afterwards; and
        what the weight almost is, is not looked for.
    """
    settings = replace(settings, threshold=0.0) if weight.scaled else settings
    known = unlooked(weight, skipped(weight, settings))
    if known.skipped:
        return known
    if sampled and (told := _by_slices(weight.encoding, settings)) is not None:
        facts = _facts(*told, settings.threshold or 0.0)
        return replace(known, **facts, candidates=(*known.candidates, *told[1]))
    values, scanned, candidates = _candidates(weight.encoding, settings, sampled=sampled)
    source = encodings.nbytes(weight.encoding)
    near = () if sampled else tuple(near_misses(values, scanned, candidates, source, settings.threshold))
    facts = _facts(scanned, candidates, settings.threshold or 0.0)
    texts = tuple(one.text for one in near)
    return replace(known, **facts, near_misses=texts, missed=near, candidates=(*known.candidates, *candidates))


def unlooked(weight: Weight, skipped: str = "") -> Finding:
    """What is known of a weight without a look at its values. skipped: why there is none."""
    shape, dtype = encodings.shape(weight.encoding), encodings.dtype(weight.encoding)
    return Finding(
        name=weight.name,
        shape=shape,
        dtype=dtype.name,
        nbytes=encodings.nbytes(Dense(ArraySpec(shape, dtype))),
        uses=weight.uses,
        sparsity=0.0,
        structure="",
        distinct=None,
        palette="",
        grid="",
        skipped=skipped,
        near_misses=(),
        candidates=(as_declared(weight),) if is_encoded(weight.encoding) else (),
        note=weight.note,
    )


def skipped(weight: Weight, settings: Settings) -> str:
    """Why a weight is not looked at, or an empty string."""
    dtype, shape = encodings.dtype(weight.encoding), encodings.shape(weight.encoding)
    if weight.pinned:
        return weight.pinned
    if not is_float(dtype) and dtype not in CODE_DTYPES.values():
        return f"{dtype.name} is no type that is compressed"
    if weight.n_bits is not None:
        return "MatMulNBits multiplies by its codes: they stay as they are"
    if len(shape) < 2:
        return "a scalar" if not shape else "one dimension: a bias or a scale"
    if (size := math.prod(shape)) < max(1, settings.min_elements):
        return f"{size:,} elements: fewer than min_elements ({settings.min_elements:,})"
    if weight.signed and is_float(dtype) and has_minus_zero(encodings.decode(weight.encoding)):
        return f"it holds -0.0, which {weight.signed} tells from 0.0: smaller forms have one zero"
    return ""


def as_declared(weight: Weight) -> Candidate:
    """The form that the source has."""
    spec = encodings.spec(weight.encoding)
    return Candidate((), spec, weight.evidence or f"stored as {encodings.name(spec)} by the source")


def _candidates(encoding: Encoding, settings: Settings, *, sampled: bool) -> tuple[NDArray, Scan, list[Candidate]]:
    """The values of a weight, the facts of them, and the ways to store it beside the one that it has.

    A quantized source keeps every code: its codes take the place of values, and its scales stay.
    """
    if isinstance(encoding, Quantized) and codes_of(encoding):
        return _code_candidates(encoding)
    values = np.asarray(encoding.values) if isinstance(encoding, Dense) else encodings.decode(encoding)
    facts = scan(values, settings.looked_for, sampled=sampled)
    if codes_of(encoding):
        return values, facts, []
    found = _forms(values, facts, settings, sampled=sampled)
    if is_float(values.dtype) and settings.tolerance:
        found += _near_candidates(values, settings.tolerance)
    return values, facts, found[1:]


def _forms(values: NDArray, facts: Scan, settings: Settings, *, sampled: bool) -> list[Candidate]:
    """The ways to store all values, in one form or in parts; as they are first."""
    found = _of_one_kind(values, facts, settings.max_thresholded, settings.looked_for)
    if is_float(values.dtype):
        smallest = min((one.spec for one in found if one.loss == EXACT), key=encodings.nbytes)
        best, codes = encodings.nbytes(smallest), parts.codes_nbytes(smallest)
        describe = partial(of_part, settings=settings, sampled=sampled)
        found += parts.detect(values, best, describe, codes=codes, zeros=facts.zeros)
    return found


def of_part(values: NDArray, settings: Settings, *, sampled: bool) -> list[Candidate]:
    """The ways to store a part of a weight exactly, as its values first."""
    values = np.ascontiguousarray(values)
    return _of_one_kind(values, scan(values, 0.0, sampled=sampled), settings.max_thresholded, 0.0)


def _by_slices(encoding: Encoding, settings: Settings) -> tuple[Scan, list[Candidate]] | None:
    """What some of a large weight says of all of it; None where that is not enough.

    It is in parts of one kind: all values in one table, on one grid or one for each row, of a narrower type, or dense;
    zeros, if there are any, are too few for a mask, and values that recur as under a scale are on a grid.
    """
    few = slices.read(encoding.values) if isinstance(encoding, Dense) and not settings.tolerance else None
    if few is None or not is_float(few.runs.dtype):
        return None
    facts = scan(few.runs, settings.looked_for)
    if palettize.has_more_tables(few.runs, facts):
        return None
    found, masked = _apart(_forms(few.runs, facts, settings, sampled=False))
    whole = [slices.of_whole(one.spec, few, encodings.shape(encoding)) for one in found]
    if masked or not all(whole):
        return None
    made = [replace(one, spec=spec) for one, spec in zip(found, whole, strict=True) if spec is not None]
    if all(isinstance(one.spec, Dense) for one in made) and scaled_table.recurs(few.runs):
        return None
    if not few.are_alike() and not _is_one_grid(made, few, facts):
        return None
    return facts, made[1:]


def _apart(found: list[Candidate]) -> tuple[list[Candidate], bool]:
    """The forms without a mask, and whether one with a mask is about as small."""
    plain = [one for one in found if not isinstance(one.spec, Sparse)]
    least = min(encodings.nbytes(one.spec) for one in plain)
    return plain, any(encodings.nbytes(one.spec) < least * _MASKED for one in found if isinstance(one.spec, Sparse))


def _is_one_grid(found: list[Candidate], few: slices.Slices, facts: Scan) -> bool:
    """Whether the smallest form has scales for each row, and there are no parts.

    Of what kind a row is, is chance where it has some codes of some scales.
    """
    smallest = min((one.spec for one in found), key=encodings.nbytes)
    size = math.prod(encodings.shape(smallest))
    zeros = max(facts.zeros / facts.size, float(np.mean(few.spread == 0)))
    best, codes = encodings.nbytes(smallest), parts.codes_nbytes(smallest)
    return (
        isinstance(smallest, Quantized)
        and smallest.scale.size > 1
        and few.spread.ndim == 2
        and bool(few.spread.any(axis=1).all())
        and not parts.are_seen(few.spread, size, best, codes, int(zeros * size))
    )


def _of_one_kind(values: NDArray, facts: Scan, max_thresholded: float, threshold: float) -> list[Candidate]:
    """The ways to store all values in one form: as they are first, described by the schemes, and under a mask."""
    described = [Candidate((), Dense(ArraySpec(values.shape, values.dtype)), ""), *described_by(values, facts)]
    return [*described, *sparsify.detect(values, facts, described, max_thresholded, threshold)]


def described_by(values: NDArray, facts: Scan) -> list[Candidate]:
    """The ways to store all values of a weight exactly, each scheme's own; tables as narrow as the values are."""
    described: list[Candidate] = []
    best = min(values.nbytes, values.size / 8 + (values.size - facts.zeros) * values.dtype.itemsize)
    for scheme in describing():
        found = [*scheme.detect(values, facts, best)]
        best = min([best, *(_least_nbytes(one.spec, facts) for one in found)])
        described += found
    stored = next((stored_type(one.spec.values) for one in described if isinstance(one.spec, Dense)), None)
    return described if stored is None else [narrow.with_narrow_tables(one, stored) for one in described]


def _least_nbytes(spec: Encoding, facts: Scan) -> float:
    """The bytes of a form of all values, or of the same under a mask: whichever is fewer."""
    whole = encodings.nbytes(spec)
    match spec:
        case Palettized(_, lut, None):
            width = max(1, (lut.shape[-2] - (facts.zeros > 0) - 1).bit_length())
            return min(whole, facts.size / 8 + (facts.size - facts.zeros) * width / 8 + lut.nbytes)
        case Quantized(Dense(codes)):
            return min(whole, facts.size / 8 + whole - codes.nbytes * facts.zeros / facts.size)
        case _:
            return whole


def _near_candidates(values: NDArray, tolerance: float) -> Iterator[Candidate]:
    """The ways to store the nearest weights that are a palette or lie on a grid, each scheme's own."""
    allowed = tolerance * largest(values)
    for scheme in describing():
        near = scheme.nearest(values, allowed)
        changed, max_error = (0, 0.0) if near is None else distance(values, near)
        if near is None or not changed:
            continue
        facts = scan(near, 0.0)
        described = [*scheme.detect(near, facts, near.nbytes)]
        for candidate in (*described, *sparsify.detect(near, facts, described, 0.0, 0.0)):
            # What is sparse or vectors beside this scheme's own form is found without it.
            if candidate.schemes[-1] == scheme.NAME:
                told = f"{candidate.evidence}, within {max_error / largest(values):.1e} of the largest magnitude"
                yield replace(candidate, evidence=told, loss=Loss(changed=changed, max_error=max_error))


def _code_candidates(encoding: Quantized) -> tuple[NDArray, Scan, list[Candidate]]:
    centred = linear_quantize.centred(encoding)
    facts = scan(centred, 0.0)
    spec, code = encodings.spec(encoding), encodings.dtype(encoding.data)
    inner = [Candidate((), replace(spec, data=Dense(ArraySpec(centred.shape, code))), "codes of the source")]
    # Under one zero point, codes are as many as centred ones.
    if encoding.zero_point is None or len(np.unique(np.asarray(encoding.zero_point).astype(np.int16))) == 1:
        for candidate in palettize.detect(centred, facts, 0):
            if isinstance(candidate.spec, Palettized) and candidate.spec.lut.size == candidate.spec.lut.shape[-2]:
                lut = replace(candidate.spec, lut=ArraySpec(candidate.spec.lut.shape, code))
                inner.append(replace(candidate, spec=replace(spec, data=lut)))
    if not np.isfinite(np.asarray(encoding.scale)).all():  # zero times infinity is no zero
        return centred, facts, inner[1:]
    return centred, facts, [*inner[1:], *sparsify.detect(centred, facts, inner, 0.0, 0.0)]


def _facts(scanned: Scan, candidates: list[Candidate], threshold: float) -> dict[str, Any]:
    """The fields of a finding that follow from what was found; the structure is that of the zeros by the threshold."""
    exact = [candidate for candidate in candidates if not candidate.loss.max_error]
    palettes = [c for c in exact if _has_table(c.spec)]
    grids = [c for c in exact if isinstance(c.spec, Quantized) and not _has_table(c.spec)]
    narrower = [c for c in exact if isinstance(c.spec, Dense)]
    concatenated = [c for c in exact if isinstance(c.spec, Concatenated)]
    sparse = [
        c
        for c in exact
        if isinstance(c.spec, Sparse) and c.schemes[:1] == (sparsify.NAME,) and c.loss.threshold <= threshold
    ]
    sparse.sort(key=lambda c: -c.loss.threshold)
    count = None if scanned.table is None else scanned.table.entries.size
    return {
        "sparsity": scanned.zeros / scanned.size,
        "structure": sparse[0].structure if sparse and scanned.zeros else "",
        "distinct": count if count is not None and count <= ENTRIES else None,
        "palette": min(palettes, key=lambda c: encodings.nbytes(c.spec)).evidence if palettes else "",
        "grid": grids[0].evidence if grids else "",
        "precision": narrower[0].evidence if narrower and not palettes and not grids else "",
        "parts": concatenated[0].evidence if concatenated else "",
    }


def _has_table(spec: Encoding) -> bool:
    """Whether a form of all values has a table of them, or of their codes."""
    return isinstance(spec.data if isinstance(spec, Quantized) else spec, Palettized)
