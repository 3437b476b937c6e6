"""`compressor compress`: the smallest artefact with exactly these weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import completion
from .options import AsJson, ModelPath, Overrides, ParamsFile, Plots, Strict, TargetName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressor.compilation.manifest import Manifest
    from compressor.compilation.plan import Plan
    from compressor.recognition.findings import Detection, Settings
    from compressor.targets import Target

    from .given import Given
    from .groups import Export


OutDir = Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Where to write the artefact.", show_default=False)]
PipelineName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="auto, default_pruning, default_palettization, ...",
        show_default=False,
        autocompletion=completion.pipelines,
    ),
]
Found = Annotated[Path | None, typer.Option(metavar="FILE", help="What compressor detect found.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan with every refusal; write nothing.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run into OUT_DIR was ended; keep what is done if this one is.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="local|tcp://HOST:PORT",
        help="Have Dask's workers do it: here, or those of a scheduler.",
        show_default=False,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print what was refused, and why.")]


def compress(
    model: ModelPath,
    out: OutDir,
    target: TargetName = None,
    pipeline: PipelineName = None,
    detection: Found = None,
    plots: Plots = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    scheduler: Scheduler = None,
    *,
    dry_run: DryRun = False,
    resume: Resume = False,
    verbose: Verbose = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Write MODEL in its smallest exact form.

    Each weight gets the smallest form that the target can hold and that has exactly its values. Without --detection the
    model is looked at first. OUT_DIR is replaced as a whole, once what was written has been read back and compared.

    Examples:
        compressor compress models/exported models/compressed
        compressor compress model.onnx out --dry-run    # the plan, every refusal
        compressor compress model.onnx out --target iOS17
        compressor compress finetuned.pt out -S export.factory=src.model:create
        compressor compress exported out --scheduler tcp://head:8786  # by many
    """
    from compressor import targets
    from compressor.errors import UsageError

    from . import cluster, files, toolchain
    from .given import Given

    for option, given in (("--plots", plots), ("--scheduler", scheduler), ("--resume", resume)):
        if dry_run and given:
            raise UsageError(f"--dry-run writes nothing: leave {option} out.")
    cluster.check(scheduler)
    toolchain.check("compress", params, strict=strict)
    files.check_rows(plots)
    asked = _asked(model, detection, Given(params, settings or (), {"target": target, "compress.pipeline": pipeline}))
    files.check_outputs(out, plots, model, params, detection)
    if dry_run:
        from . import display

        planned = asked.planned(model)
        display.show_json(plan_document(planned)) if as_json else display.show(display.plan(planned))
        return
    targets.check_installed(asked.target.name)
    made = asked.made(model, out, scheduler, resume=resume)
    from . import display  # what draws tables takes its time, which no weight waits for

    if plots is not None:
        files.write_rows(plots, display.bytes_rows(made.weights), display.BYTES_COLUMNS)
    shown = made.to_json() if as_json else display.manifest(made, refusals=verbose, threshold=asked.threshold)
    display.show_json(shown) if as_json else display.show(shown)


@dataclass(frozen=True)
class _Asked:
    """What the core is asked for.

    target: with what is asked of it.
    pipeline: by name.
    detection: what a stage before has found, if there was one.
    settings: of a detection that is made now.
    rules: what holds for some weights instead, by pattern.
    export: how the model is exported before; None for one that has a graph.
    """

    target: Target
    pipeline: str
    detection: Detection | None
    settings: Settings
    rules: Mapping[str, Any]
    export: Export | None

    @property
    def threshold(self) -> float:
        """The magnitude up to which values counted as zero."""
        from compressor.compilation.pipelines import get

        return get(self.pipeline, (self.detection.settings if self.detection else self.settings).threshold).threshold

    def planned(self, model: Path) -> Plan:
        """What would become of the weights."""
        import compressor

        from . import graph, progress

        with graph.exported(model, graph.for_weights(model, self.export)) as path, progress.shown() as shown:
            return compressor.dry_run(path, **self._arguments(), progress=shown)

    def made(self, model: Path, out: Path, scheduler: str | None, *, resume: bool = False) -> Manifest:
        """What was written to `out`, by the workers of a scheduler if one is given."""
        import compressor

        from . import cluster, graph, progress

        with (
            cluster.executor(scheduler) as executor,
            graph.exported(model, self.export) as path,
            progress.shown() as shown,
        ):
            return compressor.compress(path, out, **self._arguments(), progress=shown, executor=executor, resume=resume)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("target", "pipeline", "detection", "settings", "rules")}


def _asked(model: Path, detection: Path | None, given: Given) -> _Asked:
    """What the settings and the options ask for; groups that this run does not need are not read."""
    if (default := _by_default(model, detection, given)) is not None:
        return default
    from compressor.recognition.findings import Settings

    from . import graph
    from .params import CompressAlone, CompressParams, core_settings, load, target

    exports = graph.needs_export(model)
    alone = load(CompressAlone, given) if detection is None or exports else None
    own = alone or load(CompressParams, given)
    chosen = target(own)
    return _Asked(
        chosen,
        own.compress.pipeline,
        None if detection is None else read_detection(detection),
        core_settings(alone.detect) if alone else Settings(),
        own.compress.rules,
        alone.export if alone and exports and chosen.needs_graph else None,
    )


def _by_default(model: Path, detection: Path | None, given: Given) -> _Asked | None:
    """What is asked for where nothing is set; None where settings are read, or an option is refused by its name.

    Whoever sets nothing does not wait for what checks settings: it takes longer to import than small models do.
    """
    from compressor import targets
    from compressor.compilation import pipelines
    from compressor.errors import UsageError
    from compressor.recognition.findings import Settings

    from . import graph

    if not given.alone or graph.needs_export(model):
        return None
    target, pipeline = (given.options[name] for name in ("target", "compress.pipeline"))
    try:
        chosen = targets.get(str(target or targets.DEFAULT))
        name = pipelines.get(str(pipeline or "auto")).name
    except UsageError:
        return None
    found = None if detection is None else read_detection(detection)
    return _Asked(chosen, name, found, Settings(), {}, None)


def read_detection(path: Path) -> Detection:
    """What `compressor detect` wrote to `path`.

    Raises:
        CompressorError: the file cannot be read, or holds something else.
    """
    from compressor.errors import CompressorError
    from compressor.recognition.findings import Detection

    from . import files

    text = files.read_text(path)
    try:
        return Detection.from_json(text)
    except CompressorError as error:
        raise CompressorError(f"{path}: {error}") from error


def plan_document(planned: Plan) -> dict[str, object]:
    """A plan in the words of `manifest.json`."""
    return {
        "target": planned.target,
        "pipeline": planned.pipeline,
        "weights_nbytes": planned.nbytes,
        "weights_dense_nbytes": planned.dense_nbytes,
        "notes": list(planned.notes),
        "weights": [dataclasses.asdict(choice.facts) for choice in planned.choices],
    }
