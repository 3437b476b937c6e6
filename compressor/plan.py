"""The plan: which encoding each weight gets on a target, and why every other one was refused. It costs no data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, ArraySpec, Shape
from compressor.detection import Finding
from compressor.encodings import Dense, Encoding, LinearQuantized, Sparse, name, nbytes
from compressor.pipelines import PassPipeline
from compressor.schemes import Candidate
from compressor.targets import Illegal, Target

_DTYPES = {**FLOAT_DTYPES, **CODE_DTYPES}


@dataclass(frozen=True)
class Rejected:
    """An encoding that was not chosen.

    encoding: its name, as `encodings.name` spells it.
    reason: why: larger than another form, not exact, not legal on the target, ...
    """

    encoding: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What a weight becomes.

    name, shape, dtype: of the weight; dtype by name.
    spec: the chosen encoding as array specs, as the schemes encode it.
    legal: the same as the target stores it.
    threshold: magnitudes up to this become zero; 0.0 where only exact zeros are left out.
    evidence: what the weight was recognised by ("16 distinct values"), or why it stays dense.
    dense_nbytes: the bytes of the weight uncompressed on the same target.
    changed: how many values are not the source's, -0.0 aside: zero by the threshold, or moved within the tolerance.
    rejected: the other forms, with reasons.
    declared: whether it is the form that the source has, or dense.
    max_error: how far a value may be from the source's; 0.0 where every value that the threshold leaves is exact.
    """

    name: str
    shape: Shape
    dtype: str
    spec: Encoding
    legal: Encoding
    threshold: float
    evidence: str
    dense_nbytes: int
    changed: int
    rejected: tuple[Rejected, ...]
    declared: bool = False
    max_error: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a model becomes on a target.

    target, pipeline: as they are spelled canonically.
    choices: one for each weight, in the model's order.
    notes: what there is to say of the model as a whole.
    """

    target: str
    pipeline: str
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The bytes of all weights as chosen."""
        return sum(nbytes(choice.legal) for choice in self.choices)

    @property
    def dense_nbytes(self) -> int:
        """The bytes of all weights uncompressed on the same target."""
        return sum(choice.dense_nbytes for choice in self.choices)


def plan(
    findings: Iterable[Finding],
    target: Target,
    pipeline: PassPipeline,
    failed: Mapping[str, Mapping[Encoding, str]] = MappingProxyType({}),
) -> Plan:
    """The smallest legal form of every weight among those that the pipeline's schemes propose.

    A form must save more than its decoding adds to the artefact: the weight's own nodes, and what weights share.

    failed: by the name of a weight, the forms that did not hold it when they were tried, with the reason.
    """
    findings = tuple(findings)
    refused = {name_: dict(forms) for name_, forms in failed.items()}
    choices = {finding.name: choose(finding, target, pipeline, refused.get(finding.name, {})) for finding in findings}
    while unworthy := _unworthy(choices.values(), target):
        for name_, reason in unworthy.items():
            refused.setdefault(name_, {})[choices[name_].spec] = reason
        again = (finding for finding in findings if finding.name in unworthy)
        choices |= {finding.name: choose(finding, target, pipeline, refused[finding.name]) for finding in again}
    return Plan(target.name, pipeline.name, tuple(choices.values()))


def choose(
    finding: Finding, target: Target, pipeline: PassPipeline, refused: Mapping[Encoding, str] = MappingProxyType({})
) -> Choice:
    """The smallest legal form of one weight. Of equally small ones the source's own wins, then the simplest.

    refused: forms that were chosen before and failed, or are not worth their decoding, with the reason.
    """
    dense = Candidate((), Dense(ArraySpec(finding.shape, _DTYPES[finding.dtype])), finding.evidence)
    legal: list[tuple[int, Candidate, Encoding]] = []
    rejected: list[Rejected] = []
    # The first of the smallest wins, so a form must be smaller than dense to be chosen.
    for candidate in sorted(
        (*finding.candidates, dense), key=lambda form: (form.max_error, len(form.schemes), form is dense)
    ):
        reason = refused.get(candidate.spec, "")
        if not pipeline.schemes.issuperset(candidate.schemes):
            reason = f"not part of the pipeline {pipeline.name}"
        elif candidate.threshold > pipeline.threshold:
            changed, threshold = candidate.changed, candidate.threshold
            reason = (
                f"{changed:,} values up to {threshold:g} would become zero: detect.threshold={threshold:g} allows it"
            )
        try:
            spec = target.legalize(candidate.spec)
        except Illegal as refusal:
            reason = reason or refusal.reason
        if reason:
            rejected.append(Rejected(name(candidate.spec), reason))
        else:
            legal.append((nbytes(spec), candidate, spec))
    # A quantized source keeps every code, also where a scale for few of them makes that larger.
    kept = [form for form in legal if form[1] is not dense] if _quantized(finding) else []
    size, chosen, spec = min(kept or legal, key=lambda form: form[0])
    rejected += [
        Rejected(name(other), f"{other_size:,} bytes, {name(spec)} takes {size:,}")
        for other_size, candidate, other in legal
        if candidate is not chosen
    ]
    return Choice(
        finding.name,
        finding.shape,
        finding.dtype,
        chosen.spec,
        spec,
        chosen.threshold,
        chosen.evidence,
        finding.nbytes,
        chosen.changed,
        tuple(rejected),
        declared=not chosen.schemes,
        max_error=chosen.max_error,
    )


def _quantized(finding: Finding) -> bool:
    """Whether the source stores codes; its own form is then the first candidate."""
    declared = next((candidate.spec for candidate in finding.candidates if not candidate.schemes), None)
    return isinstance(declared.values if isinstance(declared, Sparse) else declared, LinearQuantized)


def _unworthy(choices: Iterable[Choice], target: Target) -> dict[str, str]:
    """The weights whose form saves no more than its decoding takes, with the reason.

    What the source declared stays: a quantized source keeps every code, whatever it costs.
    """
    saved: dict[str, int] = {}
    shared: dict[str, int] = {}
    users: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for choice in choices:
        if choice.declared:
            continue
        overhead = dict(target.overhead(choice.name, choice.legal))
        saving, own = choice.dense_nbytes - nbytes(choice.legal), overhead.pop(choice.name, 0)
        if saving <= own:
            reasons[choice.name] = f"saves {saving:,} bytes, decoding it takes {own:,}"
            continue
        saved[choice.name] = saving - own
        shared |= overhead
        for part in overhead:
            users[part].append(choice.name)
    for part, size in shared.items():
        if (saving := sum(saved[user] for user in users[part])) <= size:
            for user in users[part]:
                reasons[user] = f"saves {saving:,} bytes with others of its kind, {part} to decode them takes {size:,}"
    return reasons
