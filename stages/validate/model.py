"""The model as far as it is there: its checkpoint, or what its factory builds; and the graph that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError

from .. import graph
from .checks import Checks

if TYPE_CHECKING:
    from ..groups import Export
    from .checks import Result

CHECKS = {
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


def check(checks: Checks, source: Path | None, settings: Export | None, folder: Path) -> Graph | None:
    """The graph of the model, written to `folder` where it has none yet; None where there is none to go on with.

    settings: None where they are wrong.
    """
    from compressor import sources

    if source is not None and source.exists() and sources.exporter(source) is None:
        return _own(checks, source)
    if settings is None:
        checks.skip(("factory", "checkpoint", "inputs", "graph"), "the group export is wrong")
        return None
    if source is None or not source.exists():
        missing = "no model is named" if source is None else f"{source} is not there yet"
        return _fresh(checks, settings, folder, "skipped", missing)
    reached, error = _export(source, settings, folder)
    stopped = _stopped(source, reached, settings) if error else ""
    if stopped == "checkpoint":
        return _fresh(checks, settings, folder, "failed", str(error))
    if settings.factory is None:
        checks.add("factory", "skipped", f"export.factory is not set, {source} needs none")
    elif stopped == "factory":
        checks.add("factory", "failed", str(error))
        checks.skip(("checkpoint", "inputs", "graph"), "there is no model without the factory")
        return None
    else:
        checks.add("factory", "ok", settings.factory)
    checks.add("checkpoint", "ok", str(source))
    return _exported(checks, settings, folder, str(source), stopped, error)


def _own(checks: Checks, source: Path) -> Graph | None:
    """The graph that a file has."""
    from compressor import sources

    with checks.look("graph") as told:
        if sources.read(source).graph is None:
            raise CompressorError(f"{source}: holds weights without a graph. Name what the training wrote.")
        told.append(f"{source}; it needs no export")
        return Graph(source, str(source))
    return None


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
    reached, error = _export(path, settings, folder)
    stopped = _stopped(path, reached, settings) if error else ""
    if stopped in {"checkpoint", "factory"}:
        stopped = "graph"  # its own weights do not fit it
    return _exported(checks, settings, folder, f"the model of {settings.factory}", stopped, error)


def _export(source: Path, settings: Export, folder: Path) -> tuple[list[str], CompressorError | None]:
    """The steps that were done, and what stopped it."""
    reached: list[str] = []
    directory = folder / "exported"
    directory.mkdir()
    try:
        graph.write(source, directory, settings, reached.append)
    except CompressorError as error:
        directory.rename(folder / "stopped")
        return reached, error
    return reached, None


def _stopped(source: Path, reached: list[str], settings: Export) -> str:
    """The check that the first step belongs to that was not done."""
    from compressor import sources

    steps = getattr(sources.exporter(source), "STEPS", ("graph",))
    own = [step for step in steps if settings.factory is not None or CHECKS[step] != "factory"]
    return next((CHECKS[step] for step in own if step not in reached), "graph")


def _exported(
    checks: Checks, settings: Export, folder: Path, label: str, stopped: str, error: CompressorError | None
) -> Graph | None:
    """What the export made of the inputs and the graph; `stopped` is the check that failed, if one did."""
    if stopped == "inputs":
        checks.add("inputs", "failed", str(error))
        checks.skip(("graph",), "the model does not take the inputs")
        return None
    declared = (
        f"{name} {one.dtype} {list(one.shape)}"
        + "".join(f", axis {axis} is {key}" for axis, key in one.dynamic.items())
        for name, one in settings.inputs.items()
    )
    checks.add("inputs", "ok", "; ".join(declared) or "those of the architecture")
    if error is not None:
        checks.add("graph", "failed", str(error))
        return None
    checks.add("graph", "ok", f"ONNX opset {settings.opset}")
    return Graph(folder / "exported", label)
