"""What the weights of a model are taken for: the plan is made of it, and made anew where a form fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from compressor import encodings
from compressor.arrays import FLOAT_DTYPES, ComputedArray
from compressor.compilation.encode import encode
from compressor.compilation.pipelines import PassPipeline
from compressor.compilation.plan import Choice, Plan, Rejected, choose, plan
from compressor.compilation.stream import InexactError, stream
from compressor.encodings import Dense, Encoding, LinearQuantized
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.patterns import eps
from compressor.recognition.findings import Finding, Settings, find
from compressor.recognition.schemes import Candidate, linear_quantize, palettize
from compressor.targets import Target
from compressor.weight import Weight

_LITTLE = 1.01
"""A table that takes so much more than a scale is not worth rounding the scale."""

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""(phase: `detect`, `compress` or `verify`; dense bytes done; dense bytes in all)."""


def look(model: Model, settings: Settings, progress: Progress | None, *, sampled: bool) -> Iterator[Finding]:
    """What each weight is; by a sample of its values if `sampled`."""
    # A look at a sample is many short calls that hold the interpreter's lock: threads would wait for each other.
    executor = map if sampled else stream
    findings = executor(lambda weight: find(weight, settings, sampled=sampled), model.weights)
    return watched(findings, model.weights, "detect", progress)


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    given: whether a detection came with it.
    """

    target: Target
    pipeline: PassPipeline
    settings: Settings
    progress: Progress | None
    given: bool


@dataclass(frozen=True)
class Prepared:
    """What a plan is made of, and made of anew where a form fails.

    model: as the target has it.
    findings: what each weight is taken for, by name, in the model's order.
    unsure: the names of those of which only a sample was looked at, or that a detection which was given tells about.
    recovered: by name, the grid of a weight that became codes.
    failed: by name, the forms that did not hold a weight, with the reason.
    """

    model: Model
    findings: Mapping[str, Finding]
    unsure: frozenset[str]
    recovered: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, Mapping[Encoding, str]] = field(default_factory=dict)


def prepare(model: Model, findings: Iterable[Finding], asked: Request, *, sampled: bool) -> Prepared:
    """The model as the target has it, and what its weights are.

    A target that rounds weights gets the codes of those that lie on a grid, which rounded values do not show, and what
    it has made of the weights is looked at anew.
    """
    target, recovered = asked.target, dict[str, str]()
    if not target.precision:
        by_name = {finding.name: finding for finding in findings}
        unsure = frozenset(by_name if sampled or asked.given else ())
        return Prepared(target.prepare(model, lambda _: 0), by_name, unsure)

    def smallest(weight: Weight) -> int:
        return encodings.nbytes(choose(find(weight, asked.settings, sampled=True), target, asked.pipeline).legal)

    if linear_quantize.NAME in asked.pipeline.schemes:
        weights = []
        for weight, finding in zip(model.weights, findings, strict=True):
            made, grid = _recovered(weight, finding, asked, unsure=sampled or asked.given)
            weights.append(made)
            recovered |= {weight.name: grid} if grid else {}
        model = replace(model, weights=weights)
    model = target.prepare(model, smallest)
    again = look(model, asked.settings, asked.progress, sampled=sampled)
    by_name = {finding.name: finding for finding in again}
    return Prepared(model, by_name, frozenset(by_name if sampled else ()), recovered)


def planned(prepared: Prepared, asked: Request) -> Plan:
    """What the weights become."""
    made = plan(prepared.findings.values(), asked.target, asked.pipeline, prepared.failed)
    if not asked.target.precision:
        return made
    recovered, notes = prepared.recovered, {weight.name: weight.note for weight in prepared.model.weights}
    choices = (
        replace(choice, evidence=recovered[choice.name]) if choice.declared and choice.name in recovered else choice
        for choice in made.choices
    )
    told = (replace(one, evidence="; ".join(filter(None, (one.evidence, notes[one.name])))) for one in choices)
    return replace(made, choices=tuple(told), notes=prepared.model.notes)


def _grid(weight: Weight, finding: Finding, precision: str) -> Candidate | None:
    """The grid that a dense weight lies on, unless a palette, which rounds to itself, takes no more.

    None too where the weight's type is coarser than the `precision` that its codes would be multiplied in: the products
    would lie beside its values.
    """
    exact = [one for one in finding.candidates if not one.max_error]
    grids = [one for one in exact if one.schemes == (linear_quantize.NAME,)]
    tables = [encodings.nbytes(one.spec) for one in exact if one.schemes == (palettize.NAME,)]
    if not grids or not isinstance(weight.encoding, Dense):
        return None
    if eps(encodings.dtype(weight.encoding)) > eps(FLOAT_DTYPES[precision]):
        return None
    grid = min(grids, key=lambda one: encodings.nbytes(one.spec))
    return None if any(table <= encodings.nbytes(grid.spec) * _LITTLE for table in tables) else grid


def _recovered(weight: Weight, finding: Finding, asked: Request, *, unsure: bool) -> tuple[Weight, str]:
    """A weight that lies on a grid as the codes that it was trained with, and the grid; any other as it is."""
    grid = _grid(weight, finding, asked.target.precision)
    if grid is None:
        return weight, ""
    try:
        return _as_codes(weight, grid.spec), grid.evidence
    except InexactError as failure:
        if unsure:
            return _recovered(weight, _again(weight, finding, failure, asked), asked, unsure=False)
        return replace(weight, note="; ".join(filter(None, (weight.note, f"kept as values: {failure.reason}")))), ""


def _as_codes(weight: Weight, spec: Encoding) -> Weight:
    """A weight as its codes, which are computed whenever they are read: all of them together would fill the memory."""

    def encoded() -> LinearQuantized:
        made = encode({weight.name: spec}, {}, {})(weight).encoding
        assert isinstance(made, LinearQuantized)
        return made

    found = encoded()
    codes = ComputedArray(encodings.shape(found), encodings.dtype(found.data), lambda: encodings.decode(encoded().data))
    assert isinstance(weight.encoding, Dense)
    return replace(
        weight,
        encoding=LinearQuantized(Dense(codes), found.scale, found.zero_point),
        values=weight.encoding.values,
    )


def _again(weight: Weight, finding: Finding, failure: InexactError, asked: Request) -> Finding:
    """What a weight is whose form failed, from all of its values.

    Raises:
        CompressorError: a detection that was given says something else.
    """
    found = find(weight, asked.settings)
    if asked.given and found.candidates != finding.candidates:
        raise CompressorError(f"the detection is of another model: {failure}. Run `compressor detect` again.")
    return found


def mended(prepared: Prepared, chosen: Plan, failures: Iterable[InexactError], asked: Request) -> Prepared:
    """What a plan is made of once some of its forms have failed: their weights get the next best ones.

    Raises:
        CompressorError: a weight cannot be stored otherwise, or a detection that was given is of another model.
    """
    weights = {weight.name: weight for weight in prepared.model.weights}
    specs = {choice.name: choice.spec for choice in chosen.choices}
    findings, unsure, failed = dict(prepared.findings), set(prepared.unsure), dict(prepared.failed)
    for failure in failures:
        name, before = failure.name, prepared.findings[failure.name]
        if name in unsure:
            findings[name] = _again(weights[name], before, failure, asked)
            unsure.remove(name)
            if findings[name].candidates != before.candidates:
                continue
        if weights[name].pinned or isinstance(specs[name], Dense):
            raise CompressorError(f"{failure}. Nothing was published.") from failure
        failed[name] = {**failed.get(name, {}), specs[name]: failure.reason}
    return replace(prepared, findings=findings, unsure=frozenset(unsure), failed=failed)


def as_it_was(model: Model, chosen: Plan, why: str) -> Plan:
    """The plan of a source that is written as it was, and `why`."""
    choices = (_kept(weight, choice, why) for weight, choice in zip(model.weights, chosen.choices, strict=True))
    return replace(chosen, choices=tuple(choices), notes=(*chosen.notes, f"written as it was: {why}"))


def _kept(weight: Weight, choice: Choice, why: str) -> Choice:
    """A weight in the form that its source has."""
    spec = encodings.spec(weight.encoding)
    if choice.legal == spec:
        return choice
    form, own = encodings.name(choice.legal), encodings.name(spec)
    rejected = (*(one for one in choice.rejected if one.encoding != own), Rejected(form, why))
    evidence = f"stored as {own} by the source; not {form}: {why}"
    return Choice(choice.name, choice.shape, choice.dtype, spec, spec, 0.0, evidence, choice.dense_nbytes, 0, rejected)


def matching(findings: Sequence[Finding], model: Model) -> Iterator[Finding]:
    """The findings in the model's order, each of a weight that has the name, shape and dtype that was looked at."""
    by_name = {finding.name: finding for finding in findings}
    for weight in model.weights:
        finding = by_name.get(weight.name)
        have = (encodings.dtype(weight.encoding).name, encodings.shape(weight.encoding))
        if finding is None or (finding.dtype, finding.shape) != have:
            found = "nothing" if finding is None else f"{finding.dtype}{list(finding.shape)}"
            raise CompressorError(
                f"the detection is of another model: weight {weight.name} is {have[0]}{list(have[1])}, "
                f"the detection has {found}. Run `compressor detect` again."
            )
        yield finding


def watched(items: Iterable[T], weights: Sequence[Weight], phase: str, progress: Progress | None) -> Iterator[T]:
    """The items, one for each weight, with the dense bytes behind them reported on the way."""
    sizes = [encodings.nbytes(weight.encoding) for weight in weights]
    done, total = 0, sum(sizes)
    for item, size in zip(items, sizes, strict=True):
        yield item
        done += size
        if progress is not None:
            progress(phase, done, total)
