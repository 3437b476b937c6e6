"""Targets, data, metric and limits, tried on the graph if there is one: on two samples, uncompressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, plural
from compressor.formats.onnx.writing import MODEL

from .. import graph as graphs
from .. import params
from ..evaluate import core_settings

if TYPE_CHECKING:
    from compressor.evaluation.metrics import Quality
    from compressor.evaluation.samples import Samples
    from compressor.targets.session import Port, Session

    from ..groups import Evaluate, Export
    from .checks import Checks
    from .model import Graph


def check(
    checks: Checks,
    own: params.Settings,
    wrong: Mapping[str, str],
    graph: Graph | None,
    folder: Path,
    made: Callable[[Path], bool],
) -> None:
    """Everything that `compress` and `evaluate` need beside the graph.

    wrong: the groups of the settings that are, and the settings whose functions cannot be imported.
    made: whether a stage of the pipeline makes a file.
    """
    sessions = _targets(checks, own, wrong, graph, folder)
    if "evaluate" in wrong:
        checks.skip(("data", "metric", "limits"), "the group evaluate is wrong")
        return
    asked = own.evaluate
    given = quality = None
    if "evaluate.data" in wrong:
        checks.add("data", "skipped", "its function cannot be imported")
    elif asked.data and not Path(asked.data).exists() and made(Path(asked.data)):
        checks.add("data", "skipped", f"{asked.data} is not there yet, a stage of dvc.yaml makes it")
    else:
        given = _data(checks, asked, sessions, None if "export" in wrong else own.export)
    if "evaluate.metric" in wrong:
        checks.add("metric", "skipped", "its function cannot be imported")
    else:
        quality = _metric(checks, asked, sessions, given)
    _limits(checks, asked, quality)


def _targets(
    checks: Checks, own: params.Settings, wrong: Mapping[str, str], graph: Graph | None, folder: Path
) -> list[Session]:
    """What runs the model as each target has it."""
    import compressor
    from compressor import targets

    if wrong.keys() & {"target", "targets"}:
        checks.add("target", "skipped", "the target is wrong")
        return []
    sessions = []
    for name in own.targets or (own.target,):
        if targets.family(name) in wrong:
            checks.add(name, "skipped", f"the group {targets.family(name)} is wrong")
            continue
        with checks.look(name) as told:
            targets.check_installed(name)
            if graph is None:
                told += ["installed", "there is no graph to try it on"]
                continue
            target, place = params.target(own, name), folder / name
            with _labelled(graph):
                fitted = compressor.write_baseline(graph.path, place, target=target)
                sessions.append(target.session(place, fitted, graph.label))
            told += ["installed", "takes the model"]
    return sessions


@contextmanager
def _labelled(graph: Graph) -> Iterator[None]:
    """A block whose errors call the graph what the user does, wherever it lies."""
    try:
        yield
    except CompressorError as error:
        named = str(error).replace(str(graph.path / MODEL), graph.label).replace(str(graph.path), graph.label)
        raise CompressorError(named) from error


def _data(checks: Checks, asked: Evaluate, sessions: Sequence[Session], export: Export | None) -> Samples | None:
    """The samples, if they fit the model."""
    from compressor.evaluation import compare, samples

    if not asked.data:
        checks.add("data", "skipped", "evaluate.data is not set: only sizes are measured")
        return None
    with checks.look("data") as told:
        given = samples.read(asked.data)
        for session in sessions:
            feeds, labels = compare.fitting(session, given, core_settings(asked))
            told[:] = [
                plural(len(next(iter(feeds.values()))), "sample"),
                f"labels for {', '.join(labels) or 'nothing'}",
            ]
        declared = _ports(export) if not sessions and export is not None else []
        if declared:
            feeds = samples.feeds(given, declared, "the model (export.inputs)")
            told += [plural(len(next(iter(feeds.values()))), "sample"), "labels are not compared: there is no graph"]
        return given
    return None


def _ports(export: Export) -> list[Port]:
    """The inputs as they are declared; none where that is wrong, which the check of the inputs tells."""
    import numpy as np

    from compressor.targets.session import Port

    try:
        return [
            Port(
                name,
                tuple(None if axis in (0, *one.dynamic) else size for axis, size in enumerate(one.shape)),
                np.dtype(one.dtype),
            )
            for name, one in graphs.inputs(export).items()
        ]
    except TypeError:  # of numpy, which has no such dtype
        return []


def _metric(checks: Checks, asked: Evaluate, sessions: Sequence[Session], given: Samples | None) -> Quality | None:
    """What would be measured, if it can be known."""
    from compressor.evaluation import compare, scoring

    quality = None
    with checks.look("metric") as told:
        metric = scoring.metric(asked.metric, asked.metric_args)
        told.append(metric.name)
        if given is not None and sessions:
            quality = compare.rehearse(sessions[0], given, core_settings(asked))
            told.append("works on two samples" if quality.after else "is not computed: there are no labels")
        else:
            told.append("not tried" if asked.data else "not needed: only sizes are measured")
    return quality


def _limits(checks: Checks, asked: Evaluate, quality: Quality | None) -> None:
    """That each limit is of a number that there will be."""
    from compressor.evaluation import metrics

    if not asked.limits:
        checks.add("limits", "skipped", "evaluate.limits has none")
        return
    try:
        name = metrics.key(asked.metric)
    except CompressorError:  # has been told
        checks.add("limits", "skipped", "the metric is not known")
        return
    with checks.look("limits") as told:
        metrics.broken({}, asked.limits, metric=name)
        of_score, of_classes = {name, f"{name}_drop"}, {"agreement"}
        why = "evaluate.data is not set" if not asked.data else "the samples have no labels"
        if not asked.data or (quality is not None and not quality.after):
            _refuse(asked.limits.keys() & of_score, why)
        if not asked.data or (quality is not None and quality.agreement is None):
            _refuse(asked.limits.keys() & of_classes, why if not asked.data else "the outputs are no classes")
        told.append(", ".join(asked.limits))


def _refuse(names: set[str], why: str) -> None:
    if names:
        raise CompressorError(f"{', '.join(sorted(names))} will not be known, so the limit cannot hold: {why}.")
