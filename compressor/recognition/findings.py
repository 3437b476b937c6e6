"""Findings: what each weight is, with the evidence, before any target is named; all of them are a detection."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from compressor import encodings, specs
from compressor.arrays import Shape
from compressor.errors import CompressorError, plural
from compressor.recognition.near_misses import NearMiss
from compressor.recognition.schemes import Candidate, Loss, sparsify


@dataclass(frozen=True)
class Settings:
    """When a weight is worth encoding, and what counts as zero (the `detect` group of params.yaml).

    min_elements: weights of fewer elements stay dense.
    threshold: values up to this magnitude count as zero; None: up to 1e-3 for the pipeline `default_pruning` and
        not at all for any other ...
    max_thresholded: ... where they are at most this share of the values that survive; elsewhere only exact zeros do.
    tolerance: how far a value may be moved to one that can be stored, relative to the weight's largest magnitude.

    Raises:
        ValueError: one of them is below zero, or not a number.
    """

    min_elements: int = 2048
    threshold: float | None = None
    max_thresholded: float = 0.01
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is {value}: expected a number from 0 on")

    @property
    def looked_for(self) -> float:
        """The threshold by which forms are looked for; which of them may be taken is the pipeline's to say."""
        return sparsify.THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True)
class Finding:
    """What a weight is.

    name: of the weight.
    shape: of its values.
    dtype: of its values, by numpy's name.
    nbytes: of its values, in bytes.
    uses: the operator types that read it.
    sparsity: the share of exact zeros, 0 to 1.
    structure: of the zeros: `unstructured`, `2:4 along axis 1`, `blocks of 4 along axis 0`, `channels along axis 0`,
        or an empty string.
    distinct: the number of distinct values, None if there are more than 256.
    palette: the granularity that gives the smallest table, with its length, or an empty string.
    grid: the quantization grid: `int8 grid per channel along axis 0`, ..., or an empty
        string.
    precision: the narrower floats that its values are: `every value is one of float16`, or an empty string.
    skipped: why it was not looked at (too few elements, one dimension, ...), or an empty string.
    near_misses: what it almost is ("257 distinct values").
    candidates: the ways to store it, none if it is plainly dense.
    note: what its source, or what fitted it to a target, says about it.
    parts: what the parts of it are, where they are of different kinds, or an empty string.
    missed: the near misses with what each would save; not written to files, and empty where read from one.
    """

    name: str
    shape: Shape
    dtype: str
    nbytes: int
    uses: tuple[str, ...]
    sparsity: float
    structure: str
    distinct: int | None
    palette: str
    grid: str
    skipped: str
    near_misses: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    note: str = ""
    precision: str = ""
    parts: str = ""
    missed: tuple[NearMiss, ...] = field(default=(), compare=False, repr=False)

    @property
    def source_nbytes(self) -> int:
        """The bytes of the form that the source has."""
        return next((encodings.nbytes(one.spec) for one in self.candidates if not one.schemes), self.nbytes)

    @property
    def evidence(self) -> str:
        """What the weight is, in a line."""
        zeros = f"{self.sparsity:.1%} zeros, {self.structure}".removesuffix(", ") if self.sparsity else ""
        if zeros.startswith("0.0%"):
            zeros = plural(round(self.sparsity * math.prod(self.shape)), "zero")
        parts = (zeros, self.palette, self.grid, self.precision, self.parts, *self.near_misses)
        return self.skipped or "; ".join(filter(None, parts)) or "more than 256 distinct values, no zeros, on no grid"


@dataclass(frozen=True)
class Detection:
    """What `detect` found.

    settings: those that held.
    findings: what each weight is, in the model's order.
    """

    settings: Settings
    findings: tuple[Finding, ...]

    @property
    def compressible(self) -> int:
        """How many weights have a form that takes fewer bytes than the source's own; a target may not hold it."""
        allowed = self.settings.threshold or 0.0
        return sum(
            any(
                one.loss.threshold <= allowed and encodings.nbytes(one.spec) < finding.source_nbytes
                for one in finding.candidates
            )
            for finding in self.findings
        )

    def to_json(self, indent: int | None = 2) -> str:
        """The text of `detection.json`; without an indent in one line, which json writes four times as fast."""
        findings = [
            {**_without_savings(finding), "candidates": [_candidate_to_json(one) for one in finding.candidates]}
            for finding in self.findings
        ]
        # DVC shows the numbers of a metrics file that lie in no list: how much of the model can be stored smaller.
        document = {"compressible": self.compressible, "settings": [vars(self.settings)], "findings": findings}
        return json.dumps(document, indent=indent, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Detection:
        """The inverse of `to_json`.

        Raises:
            CompressorError: the text is not what `to_json` writes.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            findings = tuple(_finding_from_json(finding) for finding in document["findings"])
            return cls(specs.checked(Settings, document["settings"][0]), findings)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CompressorError(f"not a detection: {error!r}. Write it again with `compressor detect`.") from error


def _without_savings(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in vars(finding).items() if name != "missed"}


_LOSS = tuple(field.name for field in dataclasses.fields(Loss))


def _candidate_to_json(candidate: Candidate) -> dict[str, Any]:
    """A candidate as JSON, its loss among its fields."""
    plain = {**vars(candidate), "spec": specs.to_json(candidate.spec), **vars(candidate.loss)}
    del plain["loss"]
    return {**plain, "parts": [_candidate_to_json(one) for one in candidate.parts]}


def _candidate_from_json(plain: dict[str, Any]) -> Candidate:
    own = {key: value for key, value in plain.items() if key not in _LOSS}
    loss = specs.checked(Loss, {key: plain[key] for key in _LOSS})
    parts = tuple(_candidate_from_json(one) for one in own["parts"])
    spec = specs.from_json(own["spec"])
    return specs.checked(
        Candidate, {**own, "schemes": tuple(own["schemes"]), "spec": spec, "loss": loss, "parts": parts}
    )


def _finding_from_json(plain: dict[str, Any]) -> Finding:
    candidates = tuple(_candidate_from_json(entry) for entry in plain["candidates"])
    sequences = {key: tuple(plain[key]) for key in ("shape", "uses", "near_misses")}
    for spec in (candidate.spec for candidate in candidates):
        if (encodings.shape(spec), encodings.dtype(spec).name) != (sequences["shape"], plain["dtype"]):
            raise ValueError(f"{plain['name']}: a spec of {encodings.dtype(spec)}{list(encodings.shape(spec))}")
    return specs.checked(Finding, {**plain, **sequences, "candidates": candidates})
