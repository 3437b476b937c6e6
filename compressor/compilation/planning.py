"""What is asked of a model, and what its weights are taken for: the plan is made of it, and anew where a form fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from compressor import encodings
from compressor.compilation.encode import stored
from compressor.compilation.journal import Journal
from compressor.compilation.pipelines import PassPipeline
from compressor.compilation.plan import Choice, Plan, Rejected, choose, plan
from compressor.compilation.rules import NONE, Rules
from compressor.compilation.stream import InexactError, Run, failure, named, stream
from compressor.compilation.verify import verify
from compressor.encodings import Encoding
from compressor.errors import CompressorError
from compressor.model import Model
from compressor.recognition.find import as_declared, find
from compressor.recognition.findings import Detection, Finding, Settings
from compressor.targets import Fitted, Target
from compressor.weight import Weight

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""(phase: `detect`, `compress` or `verify`; dense bytes done; dense bytes in all)."""


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    detection: what was found before, if anything was: it brings its settings.
    sampled: whether a sample of each weight tells what it is, as a hypothesis: for whoever compares every value later.
    rules: what holds for some weights instead.
    run: what maps functions over weights; None for threads.
    kept: what a run before has found out, where this one notes it too; None where it does not.
    """

    target: Target
    pipeline: PassPipeline
    settings: Settings
    progress: Progress | None = None
    detection: Detection | None = None
    sampled: bool = False
    rules: Rules = NONE
    run: Run | None = None
    kept: Journal | None = None

    def settings_of(self, weight: Weight) -> Settings:
        """Those of a look at a weight."""
        return self.rules.settings(weight, self.settings)

    def schemes(self, weight: Weight) -> frozenset[str]:
        """Those that may take part in storing a weight."""
        return self.rules.pipeline(weight, self.pipeline).schemes

    def smallest(self, weight: Weight) -> Encoding:
        """The smallest form of a weight on the target, by a sample of its values: a spec."""
        found = find(weight, self.settings_of(weight), sampled=True)
        return choose(found, self.target, self.rules.pipeline(weight, self.pipeline)).legal


@dataclass(frozen=True)
class Taken:
    """What a plan is made of, and made of anew where a form fails.

    fitted: the model as the target has it.
    findings: what each weight is taken for, by name, in the model's order.
    unsure: the names of those of which only a sample was looked at, or that a detection which was given tells about.
    told: the names of the latter.
    failed: by name, the forms that did not hold a weight, with the reason.
    """

    fitted: Fitted
    findings: Mapping[str, Finding]
    unsure: frozenset[str]
    told: frozenset[str] = frozenset()
    failed: Mapping[str, Mapping[Encoding, str]] = field(default_factory=dict)


def look(
    model: Model,
    settings: Callable[[Weight], Settings],
    progress: Progress | None,
    *,
    sampled: bool = False,
    known: Mapping[Weight, Finding] = MappingProxyType({}),
    run: Run | None = None,
) -> Iterator[Finding]:
    """What each weight is; by a sample of its values if `sampled`. known: what needs no look. run: see `Request`."""
    unknown = [weight for weight in model.weights if weight not in known]
    # A look at a sample is many short calls that hold the interpreter's lock: threads would wait for each other.
    each = run or (map if sampled else stream)
    function = partial(find, sampled=sampled)
    function = partial(named, function) if each is map else function
    found = iter(each(function, unknown, [settings(weight) for weight in unknown]))
    findings = (known[weight] if weight in known else next(found) for weight in model.weights)
    return watched(findings, model.weights, "detect", progress)


def given(model: Model, asked: Request) -> dict[Weight, Finding]:
    """What the detection that was given, if one was, tells about the weights that were looked at as is asked now."""
    findings = () if asked.detection is None else matching(asked.detection.findings, model)
    told = zip(model.weights, findings, strict=asked.detection is not None)
    return {weight: finding for weight, finding in told if asked.settings_of(weight) == asked.settings}


def take(model: Model, asked: Request) -> Taken:
    """A model fitted to the target, and what its weights are: those that a detection tells about are not looked at.

    What fitting has made of a weight is another weight, of which no detection tells.
    """
    known = given(model, asked)
    # Of weights alone it is not known what a target would make of them in a graph.
    graphless = model.graph is None and asked.target.needs_graph
    fitted = Fitted(asked.target, model) if graphless else asked.target.fit(model, asked)
    told = frozenset(weight.name for weight in fitted.model.weights if weight in known)
    noted = {} if asked.kept is None else dict(asked.kept.findings)
    known |= {one: noted[one.name] for one in fitted.model.weights if one.name in noted and one not in known}
    by_name: dict[str, Finding] = {}
    for one in look(fitted.model, asked.settings_of, asked.progress, sampled=asked.sampled, known=known, run=asked.run):
        by_name[one.name] = one
        if asked.kept is not None:
            asked.kept.look(one, asked.settings)
    return Taken(fitted, by_name, frozenset(by_name) if asked.sampled else told, told)


def planned(taken: Taken, asked: Request) -> Plan:
    """What the weights become."""
    weights = (weight for weight in taken.fitted.model.weights if asked.rules.of(weight) is not None)
    ruled = {weight.name: asked.rules.pipeline(weight, asked.pipeline) for weight in weights}
    shapes = {weight.name: weight.shapes for weight in taken.fitted.model.weights}
    failed, target = dict(taken.failed), taken.fitted.target
    while True:
        made = plan(taken.findings.values(), target, asked.pipeline, failed, ruled, shapes)
        found = target.together({choice.name: choice.legal for choice in made.choices})
        if not found.misfits:
            choices = tuple(_alike(choice, *found.alike.get(choice.name, ())) for choice in made.choices)
            return replace(made, choices=choices, notes=(*taken.fitted.model.notes, *found.notes))
        for choice in made.choices:  # each time, some weight has a form less
            if choice.name in found.misfits:
                failed[choice.name] = {**failed.get(choice.name, {}), choice.form.spec: found.misfits[choice.name]}


def _alike(choice: Choice, form: Encoding | None = None, why: str = "") -> Choice:
    """The choice, stored in another form, if there is one, to be like others."""
    return choice if form is None else replace(choice, legal=form, alike=why)


def _again(taken: Taken, failures: Mapping[str, InexactError], asked: Request) -> dict[str, Finding]:
    """What those weights are whose forms failed, and that were not looked at as a whole: from all of their values.

    failures: by the names of the weights.

    Raises:
        CompressorError: a detection that was given says something else.
    """
    weights = [weight for weight in taken.fitted.model.weights if weight.name in failures.keys() & taken.unsure]
    again = (asked.run or stream)(find, weights, [asked.settings_of(weight) for weight in weights])
    found = {one.name: one for one in again}
    for name in found.keys() & taken.told:
        if found[name].candidates != taken.findings[name].candidates:
            said = failures[name]
            raise CompressorError(f"the detection is of another model: {said}. Run `compressor detect` again.")
    return found


def _check_workers(weight: Weight, choice: Choice, target: Target) -> None:
    """A form that failed elsewhere, tried here.

    Raises:
        CompressorError: it holds the weight: whoever wrote it, or read it back, is not sound.
    """
    if failure(_held, target, weight, choice) is None:
        raise CompressorError(
            f"weight {weight.name}: what workers wrote of it is damaged, and is right where it is made here: a worker, "
            "or what they share, is not sound. Nothing was published."
        )


def _held(target: Target, weight: Weight, choice: Choice) -> None:
    verify(weight, stored(target.legalize, weight, choice).encoding, choice.form.loss)


def mended(taken: Taken, chosen: Plan, failures: Iterable[InexactError], asked: Request) -> Taken:
    """What a plan is made of once some of its forms have failed: their weights get the next best ones.

    Raises:
        CompressorError: a weight cannot be stored otherwise, or a detection that was given is of another model.
    """
    weights = {weight.name: weight for weight in taken.fitted.model.weights}
    choices = {choice.name: choice for choice in chosen.choices}
    failing = {each.name: each for each in failures}
    again, failed = _again(taken, failing, asked), dict(taken.failed)
    for name, why in failing.items():
        if name in again and again[name].candidates != taken.findings[name].candidates:
            continue
        spec = choices[name].form.spec
        if asked.run is not None:
            _check_workers(weights[name], choices[name], taken.fitted.target)
        if weights[name].pinned or not encodings.is_encoded(spec):
            raise CompressorError(f"{why}. Nothing was published.") from why
        failed[name] = {**failed.get(name, {}), spec: why.reason}
    return replace(taken, findings={**taken.findings, **again}, unsure=taken.unsure - again.keys(), failed=failed)


def as_it_was(model: Model, chosen: Plan, why: str) -> Plan:
    """The plan of a source that is written as it was, and `why`."""
    choices = (_kept(weight, choice, why) for weight, choice in zip(model.weights, chosen.choices, strict=True))
    return replace(chosen, choices=tuple(choices), notes=(*chosen.notes, f"written as it was: {why}"))


def _kept(weight: Weight, choice: Choice, why: str) -> Choice:
    """A weight in the form that its source has."""
    own = as_declared(weight)
    if choice.legal == own.spec:
        return choice
    form = encodings.spelled_out(choice.legal)
    rejected = tuple(one for one in choice.rejected if one.encoding != encodings.spelled_out(own.spec))
    told = replace(own, evidence=f"{own.evidence}; not {form}: {why}")
    return Choice(choice.finding, told, own.spec, (*rejected, Rejected(form, why)))


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
