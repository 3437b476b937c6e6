"""The plan: which encoding each weight gets on a target, and why every other one was refused. It costs no data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, ArraySpec, Shape
from compressor.compilation.cheapest import Cost, smallest
from compressor.compilation.manifest import WeightFacts
from compressor.compilation.pipelines import PassPipeline
from compressor.encodings import Dense, Encoding, codes_of, name, nbytes, spelled_out
from compressor.recognition.findings import Finding
from compressor.recognition.schemes import Candidate
from compressor.recognition.schemes.linear_quantize import in_fewer_bits
from compressor.reshaping import with_shape
from compressor.targets import Illegal, Target

_LEAST_SAVED = 1 / 16
"""What another form of codes must save: those of the source are read as they are, a table of codes is not."""

_DTYPES = {**FLOAT_DTYPES, **CODE_DTYPES}


@dataclass(frozen=True)
class Rejected:
    """An encoding that was not chosen.

    encoding: its name, as `encodings.spelled_out` has it.
    reason: why: larger than another form, not exact, not legal on the target, ...
    """

    encoding: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What a weight becomes.

    finding: what the weight is.
    form: the one that was chosen of what the finding proposes, or its values.
    legal: the form's spec as the target stores it.
    rejected: the other forms, with reasons.
    rule: the pattern of the rule that held; empty for none.
    alike: why it is stored in another form of the same value; empty where it is not.
    """

    finding: Finding
    form: Candidate
    legal: Encoding
    rejected: tuple[Rejected, ...] = ()
    rule: str = ""
    alike: str = ""

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.finding.name

    @property
    def _ruled(self) -> str:
        return f"by the rule {self.rule!r}" if self.rule else ""

    @property
    def facts(self) -> WeightFacts:
        """The choice in the words of manifests and dry runs."""
        return WeightFacts(
            name=self.finding.name,
            shape=self.finding.shape,
            dtype=self.finding.dtype,
            encoding=name(self.legal),
            nbytes=nbytes(self.legal),
            dense_nbytes=self.finding.nbytes,
            evidence="; ".join(filter(None, (self.form.evidence, self.finding.note, self._ruled, self.alike))),
            exact=not self.form.loss.changed,
            changed=self.form.loss.changed,
            rejected=tuple((one.encoding, one.reason) for one in self.rejected),
            max_error=self.form.loss.max_error,
        )


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
        return sum(choice.finding.nbytes for choice in self.choices)


def plan(
    findings: Iterable[Finding],
    target: Target,
    pipeline: PassPipeline,
    failed: Mapping[str, Mapping[Encoding, str]] = MappingProxyType({}),
    ruled: Mapping[str, PassPipeline] = MappingProxyType({}),
    shapes: Mapping[str, Sequence[Shape]] = MappingProxyType({}),
) -> Plan:
    """The legal forms, among those that the pipeline's schemes propose, that together make the smallest artefact.

    A form takes its bytes, what decoding it adds of its own, and what weights share to be decoded.

    ruled: by the name of a weight, the pipeline that holds for it instead.
    failed: by the name of a weight, the forms that did not hold it when they were tried, with the reason.
    shapes: by the name of a weight, the others that it is read under, in which the target must hold the form as well.
    """
    findings = tuple(findings)
    options = {
        one.name: _options(
            one, target, ruled.get(one.name, pipeline), failed.get(one.name, {}), shapes.get(one.name, ())
        )
        for one in findings
    }
    costs = {name_: [_cost(name_, form, one, target) for form in one.legal] for name_, one in options.items()}
    picked, shared = smallest(costs)
    choices = (_choice(one, options[one.name], costs[one.name], picked[one.name], shared) for one in findings)
    return Plan(target.name, pipeline.name, tuple(choices))


def choose(finding: Finding, target: Target, pipeline: PassPipeline) -> Choice:
    """The smallest legal form of a weight by itself. Of equally small ones the source's own wins, then the simplest."""
    options = _options(finding, target, pipeline, {})
    costs = [Cost(form.nbytes) for form in options.legal]
    return _choice(finding, options, costs, min(range(len(costs)), key=lambda place: costs[place].own), {})


@dataclass(frozen=True)
class _Form:
    candidate: Candidate
    spec: Encoding
    nbytes: int


@dataclass(frozen=True)
class _Options:
    """The legal forms of a weight, the first of equal ones first, and the others."""

    legal: tuple[_Form, ...]
    rejected: tuple[Rejected, ...]
    rule: str


def as_values(finding: Finding) -> Candidate:
    """The form of a weight as its values."""
    dtype = _DTYPES.get(finding.dtype) or np.dtype(finding.dtype)  # counters and masks beside weights have others
    return Candidate((), Dense(ArraySpec(finding.shape, dtype)), finding.evidence)


def _options(
    finding: Finding,
    target: Target,
    pipeline: PassPipeline,
    refused: Mapping[Encoding, str],
    shapes: Sequence[Shape] = (),
) -> _Options:
    dense = as_values(finding)
    fewer = map(in_fewer_bits, finding.candidates)
    legal: list[_Form] = []
    rejected: list[Rejected] = []
    # The first of the smallest wins, so a form must be smaller than dense to be chosen.
    for candidate in sorted(
        (*finding.candidates, *filter(None, fewer), dense),
        key=lambda form: (form.loss.max_error, len(form.schemes), form is dense),
    ):
        reason = refused.get(candidate.spec, "")
        if not pipeline.schemes.issuperset(candidate.schemes):
            reason = f"not part of {_called(pipeline)}"
        elif candidate.loss.threshold > pipeline.threshold:
            changed, threshold = candidate.loss.changed, candidate.loss.threshold
            allows = f"{_called(pipeline)} with threshold: " if pipeline.rule else "detect.threshold="
            reason = f"{changed:,} values up to {threshold:g} would become zero: {allows}{threshold:g} allows it"
        try:
            spec = target.legalize(candidate.spec)
        except Illegal as refusal:
            if refusal.instead is None or reason:
                reason = reason or refusal.reason
            else:
                rejected.append(Rejected(spelled_out(candidate.spec), refusal.reason))
                spec = refusal.instead
        reason = reason or _not_under(shapes, spec, target)
        if reason:
            rejected.append(Rejected(spelled_out(candidate.spec), reason))
        else:
            legal.append(_Form(candidate, spec, nbytes(spec)))
    if not legal:  # a counter, a mask, ids beside the weights of a file without a graph: nothing of a target's
        legal = [_Form(dense, dense.spec, nbytes(dense.spec))]
    # A quantized source keeps every code, also where a scale for few of them makes that larger.
    kept = [form for form in legal if form.candidate is not dense] if _quantized(finding) else []
    if kept:
        told = f"it is stored as {spelled_out(kept[0].spec)} by the source, which keeps every code"
        rejected += [Rejected(spelled_out(form.spec), told) for form in legal if form.candidate is dense]
        little = [form for form in kept if 0 < kept[0].nbytes - form.nbytes < kept[0].nbytes * _LEAST_SAVED]
        told = f"saves less than {_LEAST_SAVED:.0%} of the source's {kept[0].nbytes:,} bytes: not worth a slower load"
        rejected += [Rejected(spelled_out(form.spec), told) for form in little]
        kept = [form for form in kept if form not in little]
    return _Options(tuple(kept or legal), tuple(rejected), pipeline.rule)


def _not_under(shapes: Sequence[Shape], spec: Encoding, target: Target) -> str:
    """Why a form is none under the other shapes of a weight; empty where it is one."""
    for dims in shapes:
        made = with_shape(spec, dims)
        try:
            if made is not None and target.legalize(made) == made:
                continue
            reason = "it has other blocks"
        except Illegal as refusal:
            reason = refusal.reason
        return f"a copy of the weight is read as {list(dims)}, where {reason}"
    return ""


def _called(pipeline: PassPipeline) -> str:
    return f"the rule {pipeline.rule!r}" if pipeline.rule else f"the pipeline {pipeline.name}"


def _cost(weight: str, form: _Form, options: _Options, target: Target) -> Cost:
    """What a form takes; decoding is not asked for where there is no choice."""
    if len(options.legal) == 1:
        return Cost(form.nbytes)
    overhead = dict(target.overhead(weight, form.spec))
    return Cost(form.nbytes + overhead.pop(weight, 0), overhead)


def _choice(
    finding: Finding, options: _Options, costs: Sequence[Cost], place: int, shared: Mapping[str, tuple[int, int]]
) -> Choice:
    """The choice of the form at `place`, with a reason for every other one.

    shared: of what would decode several weights and was not worth it, what it would save and what it takes.
    """
    chosen = options.legal[place]
    mine = spelled_out(chosen.spec), chosen.nbytes  # the source's own may have been found again
    others = (
        Rejected(spelled_out(form.spec), _reason(form, cost, chosen, costs[place], shared))
        for form, cost in zip(options.legal, costs, strict=True)
        if (spelled_out(form.spec), form.nbytes) != mine
    )
    rejected = tuple(dict.fromkeys((*options.rejected, *others)))
    return Choice(finding, chosen.candidate, chosen.spec, rejected, options.rule)


def _reason(form: _Form, cost: Cost, chosen: _Form, best: Cost, shared: Mapping[str, tuple[int, int]]) -> str:
    saving = chosen.nbytes - form.nbytes
    if saving <= 0:
        return f"{form.nbytes:,} bytes, {spelled_out(chosen.spec)} takes {chosen.nbytes:,}"
    if cost.own >= best.own:
        return f"saves {saving:,} bytes, decoding it takes {saving + cost.own - best.own:,}"
    part = next((part for part in cost.shared if part in shared), None)
    if part is None:
        return f"saves {saving:,} bytes, {' and '.join(cost.shared)} to decode it take {sum(cost.shared.values()):,}"
    saved, size = shared[part]
    return f"saves {saved:,} bytes with others of its kind, {part} to decode them takes {size:,}"


def _quantized(finding: Finding) -> bool:
    """Whether the source stores codes; its own form is then the first candidate."""
    declared = next((candidate.spec for candidate in finding.candidates if not candidate.schemes), None)
    return declared is not None and codes_of(declared) is not None
