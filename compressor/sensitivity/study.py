"""The study: the model runs once for each weight and variant, that weight alone replaced by what it becomes.

A session is made for every trial, in which the weight is the constant that an artefact would have: what an optimizer
folds into it, and how a kernel packs it, is as it will be. A weight that is fed as an input costs no session, but
turns both off, and the numbers are those of no artefact. Nothing is written for a trial: the model lies on disk once,
its weights in a file of their own, and the session is given the values of one before it looks there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compressor.arrays import BFLOAT16, NDArray, Shape
from compressor.compilation.compile import write_baseline
from compressor.encodings import Dense, decode, dtype, name, nbytes, shape, spec
from compressor.errors import CompressorError
from compressor.evaluation import compare, metrics, samples, scoring
from compressor.formats.onnx.writing import DATA, INLINE_BYTES, MODEL
from compressor.model import Model
from compressor.recognition import find
from compressor.recognition.findings import Finding, Settings
from compressor.sensitivity import channels
from compressor.sensitivity.trials import Trial
from compressor.sensitivity.variants import VARIANTS, Variant
from compressor.targets.onnxruntime import OnnxRuntime
from compressor.targets.onnxruntime.session import load
from compressor.targets.session import Session
from compressor.weight import Weight

TARGET = OnnxRuntime("onnxruntime", None, apart=True)

Changes = Mapping[str, NDArray]
"""The values of some weights, by name."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A weight that is tried.

    axis: where its output channels lie.
    nbytes: of the smallest form that it has as it is: what a variant has to beat.
    """

    weight: Weight
    axis: int
    nbytes: int

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def shape(self) -> Shape:
        return shape(self.weight.encoding)

    def changed(self, variant: Variant) -> tuple[NDArray, int, int]:
        """What a variant makes of it, the bytes of that form, and how many values it moves."""
        values = decode(self.weight.encoding)
        encoding = variant.encode(values, self.axis)
        found = decode(encoding).astype(values.dtype, copy=False)
        return found, nbytes(spec(encoding)), int(np.count_nonzero(found != values))


def subjects(model: Model, settings: Settings) -> tuple[tuple[Subject, ...], Mapping[str, str]]:
    """The weights to try, in the model's order, and why not the others.

    settings: of the detection: what that does not look at is not tried either.

    Raises:
        CompressorError: the model has no ONNX graph.
    """
    if model.onnx is None:
        raise CompressorError(
            f"{model.path}: has no ONNX graph, and only ONNX Runtime tries weights. Export the model."
        )
    exact = replace(settings, threshold=0.0, tolerance=0.0)
    found = {weight.name: find.find(weight, exact, sampled=True) for weight in model.weights}
    reasons = {weight.name: found[weight.name].skipped or _skipped(weight) for weight in model.weights}
    tried = [weight for weight in model.weights if not reasons[weight.name]]
    axes = channels.axes(model.onnx.graph, {weight.name: len(shape(weight.encoding)) for weight in tried})
    return (
        tuple(Subject(weight, axes[weight.name], _smallest(found[weight.name])) for weight in tried),
        {weight: reason for weight, reason in reasons.items() if reason},
    )


def _smallest(found: Finding) -> int:
    return min([found.nbytes, *(nbytes(candidate.spec) for candidate in found.candidates)])


def _skipped(weight: Weight) -> str:
    if not isinstance(weight.encoding, Dense):
        return f"stored as {name(spec(weight.encoding))} by the source: compressed already"
    kind = dtype(weight.encoding)
    if kind == BFLOAT16:
        return "bfloat16: its values are not tried"
    if nbytes(spec(weight.encoding)) < INLINE_BYTES:
        return f"less than {INLINE_BYTES:,} bytes"
    if not np.isfinite(np.asarray(weight.encoding.values)).all():
        return "holds values that are not finite"
    return ""


@dataclass(frozen=True)
class Outcome:
    """How a changed model does beside the model as it is; None where that cannot be told.

    score: by the metric. drop: by how much it is worse. agreement: the share of equal predictions.
    error: how far the outputs are from the model's own, as a share of their norm.
    """

    score: float | None
    drop: float | None
    agreement: float | None
    error: float | None


@dataclass(frozen=True, eq=False)
class Bench:
    """A model on its samples, ready for trials.

    path: its file, the weights beside it. label: what errors call it.
    feeds, labels: of the samples that are run, by input and output.
    before: what the model as it is makes of them; outputs: the judged ones, batch by batch.
    """

    path: Path
    label: str
    settings: compare.Settings
    metric: scoring.Metric
    feeds: Mapping[str, NDArray]
    labels: dict[str, NDArray]
    before: compare.Run
    outputs: Sequence[Mapping[str, NDArray]]

    @functools.cached_property
    def score(self) -> float | None:
        """Of the model as it is; None without labels."""
        return _score(self.metric, self.before)

    def judge(self, changes: Changes, label: str) -> Outcome:
        """How the model does with some weights changed. label: what errors call it then.

        Raises:
            CompressorError: it does not run, or gives NaN.
        """
        session, far = load(self.path, label, changes), _Distance(self.outputs)
        after = compare.run(session, self.feeds, self.labels, self.metric, self.settings, seen=far.add)
        before, score = self.score, _score(self.metric, after)
        drop = None
        if before is not None and score is not None:
            drop = (score - before if metrics.minimized(self.metric.name) else before - score) + 0.0
        return Outcome(score, drop, compare.agreement(self.before, after), far.share)

    def copies(self, tried: Iterable[Subject]) -> tuple[Subject, ...]:
        """Weights with the values that lie beside the model here: whoever trains on may replace those of the source."""
        weights = {weight.name: weight for weight in TARGET.read(self.path.parent).weights}
        return tuple(replace(one, weight=replace(one.weight, encoding=weights[one.name].encoding)) for one in tried)

    def key(self) -> dict[str, str]:
        """What the outcome of a trial depends on, each part as a digest or in words."""
        model = hashlib.sha256()
        for file in (self.path, self.path.with_name(DATA)):
            if file.exists():  # a small model has all of its tensors in its own file
                with file.open("rb") as opened:
                    model.update(hashlib.file_digest(opened, "sha256").digest())
        given = hashlib.sha256()
        for port, array in (*self.feeds.items(), *self.labels.items()):
            given.update(f"{port} {array.dtype} {array.shape} ".encode())
            given.update(json.dumps(array.tolist()).encode() if array.dtype == object else array.tobytes())
        asked = {**vars(self.settings), "outputs": list(self.settings.outputs), "data": ""}
        return {"model": model.hexdigest(), "samples": given.hexdigest(), "settings": json.dumps(asked, default=str)}


def bench(model: Model | Path, folder: Path, settings: compare.Settings, most: int | None, label: str) -> Bench:
    """Write the model into `folder`, where it stays for the trials, and run it as it is.

    most: how many samples are run; None for all.

    Raises:
        UsageError: a setting names what does not exist.
        CompressorError: the model does not load or run; the samples do not fit it.
    """
    directory = folder / "model"
    write_baseline(model, directory, target=TARGET)
    path, metric = directory / MODEL, scoring.metric(settings.metric, settings.metric_args)
    session: Session = load(path, label)
    feeds, labels = compare.fitting(session, samples.read(settings.data), settings)
    count = len(next(iter(feeds.values())))
    if most is not None and most < count:
        rows = samples.chosen(count, most)
        feeds, labels = ({port: array[rows] for port, array in arrays.items()} for arrays in (feeds, labels))
    outputs: list[Mapping[str, NDArray]] = []
    before = compare.run(session, feeds, labels, metric, settings, seen=outputs.append)
    return Bench(path, label, settings, metric, feeds, labels, before, outputs)


def trials(
    stand: Bench,
    tried: Sequence[Subject],
    known: Collection[tuple[str, str]] = (),
    names: Sequence[str] = tuple(VARIANTS),
) -> Iterator[Trial]:
    """Every weight in every variant, one by one.

    known: the weights and variants whose trials there are already: these are left out.
    names: of the variants.
    """
    unchanged = Outcome(stand.score, None if stand.score is None else 0.0, 1.0 if stand.before.classes else None, 0.0)
    for subject in tried:
        for variant in (VARIANTS[one] for one in names if (subject.name, one) not in known):
            values, size, moved = subject.changed(variant)
            made = Trial(subject.name, variant.name, size, moved)
            label = f"{stand.label} with {subject.name} as {variant.name}"
            try:
                outcome = stand.judge({subject.name: values}, label) if moved else unchanged
            except CompressorError as error:  # NaN: what the weight alone does to the model
                yield replace(made, failure=str(error))
            else:
                yield replace(made, **vars(outcome))


def _score(metric: scoring.Metric, run: compare.Run) -> float | None:
    scores = scoring.score(metric, run.labels, run.values) if run.labels else {}
    return math.fsum(scores.values()) / len(scores) if scores else None


@dataclass
class _Distance:
    """How far outputs are from others, batch by batch."""

    expected: Sequence[Mapping[str, NDArray]]
    batches: int = 0
    apart: float = 0.0
    whole: float = 0.0
    told: bool = field(default=False)

    def add(self, batch: Mapping[str, NDArray]) -> None:
        for output, before in self.expected[self.batches].items():
            if before.dtype.kind == "f":
                exact = before.astype(np.float64)
                self.apart += float(np.square(batch[output] - exact).sum())
                self.whole += float(np.square(exact).sum())
                self.told = True
        self.batches += 1

    @property
    def share(self) -> float | None:
        """None where no output has numbers to compare, or they are not finite."""
        share = math.sqrt(self.apart / self.whole) if self.whole else float(self.apart > 0)
        return share if self.told and math.isfinite(share) else None
