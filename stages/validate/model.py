"""The model as far as it is there: its checkpoint, or what its factory builds; and the graph that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from compressor.errors import CompressorError

from .. import graph
from .checks import Checks

if TYPE_CHECKING:
    from ..groups import Export
    from .checks import Result

CHECKS = {
    "opset": "graph",
    "installed": "graph",
    "declared": "inputs",
    "imports": "factory",
    "checkpoint": "checkpoint",
    "factory": "factory",
    "weights": "checkpoint",
    "inputs": "inputs",
    "graph": "graph",
}
"""The check that a step of an export belongs to."""


@dataclass(frozen=True)
class Graph:
    """What the stages behind the export can be tried on.

    path: where it lies. label: what errors call it.
    """

    path: Path
    label: str


def check(checks: Checks, source: Path | None, settings: Export, folder: Path) -> Graph | None:
    """The graph of the model, written to `folder` where it has none yet; None where there is none to go on with."""
    from compressor import sources

    if _has_graph(source):
        return _own(checks, source)
    if source is None:
        return _fresh(checks, settings, folder, "skipped", "no model is named")
    if not source.exists() and source.suffix and sources.exporter(source) is None:
        _without(checks, source)
        return None
    if not source.exists():
        return _fresh(checks, settings, folder, "skipped", f"{source} is not there yet")
    checks.begun("graph")
    made = _export(source, settings, folder)
    if made.stopped == "checkpoint":
        return _fresh(checks, settings, folder, "failed", str(made.error))
    if made.stopped == "factory":
        checks.add("factory", "failed", str(made.error))
        checks.skip(("checkpoint", "inputs", "graph"), "there is no model without the factory")
        return None
    untried = made.untried("weights")
    if settings.factory is None:
        needed = "" if untried else f", {source} needs none"
        checks.add("factory", "skipped", f"export.factory is not set{needed}")
    else:
        checks.add("factory", "skipped" if untried else "ok", untried or settings.factory)
    checks.add("checkpoint", "skipped" if untried else "ok", untried or str(source))
    return _exported(checks, settings, folder, made, str(source))


def without_export(checks: Checks, source: Path | None, why: str) -> Graph | None:
    """The graph of a model that has one; what it takes to export another is skipped, and why."""
    if _has_graph(source):
        return _own(checks, source)
    checks.skip(("factory", "checkpoint", "inputs", "graph"), why)
    return None


def _has_graph(source: Path | None) -> TypeGuard[Path]:
    from compressor import sources

    return source is not None and source.exists() and sources.exporter(source) is None


def _own(checks: Checks, source: Path) -> Graph | None:
    """The graph that a file has."""
    from compressor import sources

    with checks.look("graph") as told:
        if sources.read(source).graph is None:
            raise CompressorError(f"{source}: holds weights without a graph. Name what the training wrote.")
        told.append(f"{source}; it needs no export")
        return Graph(source, str(source))
    return None


def _without(checks: Checks, source: Path) -> None:
    """A file with a graph of its own that is not there yet."""
    from compressor import sources

    if sources.readable(source):
        checks.add("graph", "skipped", f"{source} is not there yet; it will need no export")
    else:
        checks.add("graph", "failed", str(sources.unknown_kind(source)))


def _fresh(checks: Checks, settings: Export, folder: Path, result: Result, reason: str) -> Graph | None:
    """The graph with the weights that the factory's model starts with, instead of a checkpoint's.

    result, reason: of the check of the checkpoint.
    """
    from compressor.sources import torch

    if settings.factory is None:
        checks.add("factory", "skipped", "export.factory is not set")
        checks.add("checkpoint", result, reason)
        checks.skip(("inputs", "graph"), "there is no model")
        return None
    path = None
    with checks.look("factory") as told:
        path = torch.fresh(folder, settings.factory, settings.args)
        told.append(settings.factory)
    if path is None:
        checks.add("checkpoint", result, reason)
        checks.skip(("inputs", "graph"), "there is no model without the factory")
        return None
    checks.add("checkpoint", result, f"{reason}\nWhat follows is tried with the weights that the factory starts with.")
    checks.begun("graph")
    made = _export(path, settings, folder)
    if made.stopped in {"checkpoint", "factory"}:  # the weights of the model do not fit it
        made = replace(made, stopped="graph")
    return _exported(checks, settings, folder, made, f"the model of {settings.factory}")


@dataclass(frozen=True)
class _Made:
    """What became of an export.

    reached: the steps that were done. error: what ended it. stopped: the check that this belongs to, empty if nothing.
    """

    reached: tuple[str, ...] = ()
    error: CompressorError | None = None
    stopped: str = ""

    def untried(self, step: str) -> str:
        """Why the step was not tried; empty if it was, or failed."""
        tried = self.error is None or step in self.reached
        return "" if tried else f"not tried, {self.stopped} failed first"


def _export(source: Path, settings: Export, folder: Path) -> _Made:
    from compressor import sources

    reached: list[str] = []
    directory = folder / "exported"
    directory.mkdir()
    try:
        graph.write(source, directory, settings, reached.append)
    except CompressorError as error:
        directory.rename(folder / "stopped")
        steps = getattr(sources.exporter(source), "STEPS", ())
        own = [step for step in steps if settings.factory is not None or CHECKS[step] != "factory"]
        return _Made(tuple(reached), error, next((CHECKS[step] for step in own if step not in reached), "graph"))
    return _Made()


def _exported(checks: Checks, settings: Export, folder: Path, made: _Made, label: str) -> Graph | None:
    """The inputs and the graph, as far as the export came."""
    if made.stopped == "inputs":
        checks.add("inputs", "failed", str(made.error))
        checks.skip(("graph",), "not tried, inputs failed first")
        return None
    declared = (
        f"{name} {one.dtype} {list(one.shape)}"
        + "".join(f", axis {axis} is {key}" for axis, key in one.dynamic.items())
        for name, one in settings.inputs.items()
    )
    untried = made.untried("inputs")
    checks.add("inputs", "skipped" if untried else "ok", untried or "; ".join(declared) or "those of the architecture")
    if made.error is not None:
        checks.add("graph", "failed", str(made.error))
        return None
    checks.add("graph", "ok", f"ONNX opset {settings.opset}")
    return Graph(folder / "exported", label)
