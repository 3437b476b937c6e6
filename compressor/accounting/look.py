"""What the weights of a model are, and what they would become: what advice on them is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from compressor import encodings, sources, targets
from compressor.accounting import torch
from compressor.compilation import pipelines
from compressor.compilation.plan import Plan
from compressor.compilation.planning import Progress, Request, Taken, planned, take
from compressor.errors import CompressorError
from compressor.formats.coreml.skeleton import Skeleton
from compressor.model import Model, stamps, unchanged
from compressor.recognition.findings import Finding, Settings
from compressor.targets import Target
from compressor.weight import Weight

_SPECIFICATIONS = {10: "iOS26", 9: "iOS18", 8: "iOS17"}
"""The target of a package by its specification, from which on it holds."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    path: the model.
    weights, findings: what each weight is, as the target has it; by name, in the order of the model.
    target, pipeline, settings: what was asked for; the target as it is fitted to the model.
    plan: what becomes of the weights then.
    nbytes: of the weights as the model stores them.
    turned: the bytes of constants that hold what a weight does, with its axes in another order, by name.
    alone: whether they lie in a file that no graph can be made of.
    asked, taken: what else a plan is made of.
    """

    path: Path
    weights: Mapping[str, Weight]
    findings: Mapping[str, Finding]
    target: Target
    pipeline: str
    settings: Settings
    plan: Plan
    nbytes: int
    turned: Mapping[str, int]
    alone: bool
    asked: Request
    taken: Taken

    def by(self, pipeline: str) -> Plan:
        """What becomes of the weights by another pipeline."""
        return planned(self.taken, replace(self.asked, pipeline=pipelines.get(pipeline, self.settings.threshold)))


def taken(
    path: Path, target: Target | None, pipeline: str, settings: Settings, progress: Progress | None = None
) -> Look:
    """A look at all values of all weights.

    target: what it would be made for; None for what it was made for, or what runs files of its format.

    Raises:
        UsageError: there is no such pipeline, or the target's options do not fit the model.
        CompressorError: the model cannot be read, or the target does not have what it consists of.
    """
    model = _read(path)
    made_for = target or targets.get(_own(model))
    asked = Request(made_for, pipelines.get(pipeline, settings.threshold), settings, progress)
    with unchanged(model.stamps):
        found = take(model, asked)
        chosen = planned(found, asked)
    fitted = found.fitted
    stored = sum(encodings.nbytes(weight.as_stored) for weight in model.weights)
    by_name = {one.name: one for one in fitted.model.weights}
    alone = model.graph is None and sources.readable(path) and sources.exporter(path) is None
    seen = (path, by_name, found.findings, fitted.target, pipeline, settings, chosen, stored, _turned(model), alone)
    return Look(*seen, asked, found)


def _turned(model: Model) -> dict[str, int]:
    sizes = {weight.name: encodings.nbytes(weight.as_stored) for weight in model.weights}
    return {name: sizes[copy.weight] for name, copy in model.copies.items() if copy.order}


def _read(path: Path) -> Model:
    """A model, or the weights of a checkpoint whose graph only its training knows."""
    if path.is_file() and path.suffix.lower() in torch.SUFFIXES and not sources.readable(path):
        before = stamps((path,))
        if weights := torch.weights(path):
            return Model(path, weights, None, stamps=before)
        raise CompressorError(f"{path}: its weights are looked at in a graph: first run compressor export.")
    return sources.read(path)


def _own(model: Model) -> str:
    """What a model was made for."""
    told = model.metadata.get("compressor.target", "")
    if told in targets.names():
        return told
    if isinstance(model.graph, Skeleton):
        version = int(model.graph.model.specificationVersion)
        return next((name for since, name in _SPECIFICATIONS.items() if version >= since), "iOS16")
    return targets.DEFAULT
