"""`compressor sensitivity`: what each weight, compressed further on its own, would cost, and what to train next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import AsJson, ModelPath, Overrides, ParamsFile, Plots
from ..text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from compressor.sensitivity.study import Bench, Outcome, Subject
    from compressor.sensitivity.trials import Journal, Trial

    from ..given import Given
    from ..groups import Detect, Evaluate, Export
    from .shown import Studied

JOURNAL = Path("compression/sensitivity.jsonl")

Samples = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Run so many of the samples; all if not given.", show_default=False),
]
MaxDrop = Annotated[
    float,
    typer.Option(metavar="AMOUNT", min=0.0, help="What a weight may cost: of the metric, without labels of outputs."),
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="Trials, a line each, a .jsonl: what a next run need not do.")]
CoreMlTools = Annotated[
    Path | None,
    typer.Option(
        "--coremltools",
        metavar="FILE",
        help="Write what to train next to this .yaml, for coremltools.optimize.torch.",
        show_default=False,
    ),
]
Torchao = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The same for torchao, to this .json.", show_default=False),
]


def sensitivity(
    model: ModelPath,
    samples: Samples = None,
    max_drop: MaxDrop = 0.01,
    out: Out = JOURNAL,
    plots: Plots = None,
    coremltools: CoreMlTools = None,
    torchao: Torchao = None,
    params: ParamsFile = None,
    settings: Overrides = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Measure what compressing each weight further would cost.

    Each weight of MODEL alone is pruned to 50 and 75 %, quantized to int8 and int4 by channel, and palettized to 16 and
    4 values, without any training, and the model is scored on evaluate.data in ONNX Runtime. A run that was ended goes
    on where it was. What keeps within --max-drop is what a training may aim at.

    Examples:
        compressor sensitivity models/exported --samples 500
        compressor sensitivity models/exported --coremltools train.yaml
        compressor sensitivity model.onnx -S evaluate.data=test.npz
    """
    from compressor.compilation import publish

    from .. import display, files
    from ..given import Given
    from . import shown

    for path, suffix in ((out, ".jsonl"), (coremltools, ".yaml"), (torchao, ".json")):
        files.check_suffix(path, suffix)
    files.check_rows(plots)
    asked = _asked(model, Given(params, settings or ()))
    publish.check_files([out, plots, coremltools, torchao], files.read_by(model, params))
    found = _studied(model, asked, samples, max_drop, out)
    if plots is not None:
        files.write_rows(plots, shown.rows(found), shown.COLUMNS)
    if coremltools is not None:
        publish.text(coremltools, shown.for_core_ml_tools(found, str(coremltools)))
    if torchao is not None:
        publish.text(torchao, shown.for_torchao(found))
    display.show_json(shown.document(found)) if as_json else display.show(shown.table(found))


def _asked(model: Path, given: Given) -> tuple[Evaluate, Detect, Export | None]:
    """What the settings ask for, and how the model is exported before.

    Raises:
        UsageError: they are wrong, or name no samples.
    """
    from compressor.errors import UsageError
    from compressor.evaluation import compare

    from .. import graph
    from ..evaluate import core_settings
    from ..params import SensitivityAlone, SensitivityParams, load

    alone = load(SensitivityAlone, given) if graph.needs_export(model) else None
    own = alone or load(SensitivityParams, given)
    if not own.evaluate.data:
        raise UsageError("sensitivity runs the model: set evaluate.data to its samples.")
    compare.check(core_settings(own.evaluate))
    return own.evaluate, own.detect, alone.export if alone else None


def _studied(
    model: Path, asked: tuple[Evaluate, Detect, Export | None], most: int | None, max_drop: float, out: Path
) -> Studied:
    from compressor import sources
    from compressor.encodings import shape
    from compressor.errors import CompressorError
    from compressor.model import unchanged
    from compressor.sensitivity import choice, configs, study
    from compressor.sensitivity.trials import Journal

    from .. import evaluate, graph, params
    from .shown import Studied

    wanted, detect, export = asked
    with graph.exported(model, export) as path, _folder() as folder:
        read = sources.read(path)
        with unchanged(read.stamps):
            tried, skipped = study.subjects(read, params.core_settings(detect))
            if not tried:
                raise CompressorError(f"{model}: no weight to try: {'; '.join(sorted({*skipped.values()}))}.")
            bench = study.bench(path, Path(folder), evaluate.core_settings(wanted), most, str(model))
        tried = bench.copies(tried)
        trials = _trials(bench, tried, Journal(out, {**bench.key(), "versions": _versions()}))
        uses = {subject.name: subject.weight.uses for subject in tried}
        dense = {subject.name: subject.nbytes for subject in tried}
        chosen = choice.strongest(trials, dense, max_drop)
        by_library = {
            "coremltools": configs.strongest_for_core_ml_tools(trials, dense, max_drop, uses),
            "torchao": choice.strongest(
                trials, dense, max_drop, lambda one: configs.for_torchao(one, uses[one.weight])
            ),
        }
        together = _together(bench, tried, chosen)
        layers = tuple(one.name for one in read.weights if len(shape(one.encoding)) > 1)
        return Studied(str(model), bench, tried, skipped, trials, max_drop, chosen, by_library, together, layers)


def _folder() -> AbstractContextManager[str]:
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="compressor-")


def _trials(bench: Bench, tried: tuple[Subject, ...], journal: Journal) -> list[Trial]:
    """All trials, those that the journal has not made now and added to it; stderr tells how far it is."""
    from compressor.sensitivity import study
    from compressor.sensitivity.variants import VARIANTS

    from .. import progress

    names = {subject.name for subject in tried}
    found, other = journal.begin()
    known = {(one.weight, one.variant): one for one in found if one.weight in names and one.variant in VARIANTS}
    if other:
        _tell(f"{journal.path}: its trials are of {' and of '.join(f'other {part}' for part in other)}: starting anew")
    done, total = len(known), len(tried) * len(VARIANTS)
    if known:
        _tell(f"{journal.path}: has {'all' if done == total else f'{done} of'} {total} trials already")
    made = []
    with progress.shown("trials") as report:
        for trial in study.trials(bench, tried, known):
            journal.append(trial)
            made.append(trial)
            report("trials", done + len(made), total)
    every = known | {(one.weight, one.variant): one for one in made}
    return [every[subject.name, variant] for subject in tried for variant in VARIANTS]


def _together(bench: Bench, tried: tuple[Subject, ...], chosen: Mapping[str, Trial]) -> Outcome | None:
    """What all that was chosen does to the model at once: losses add up, and no budget for one weight bounds that."""
    from compressor.errors import CompressorError
    from compressor.sensitivity.variants import VARIANTS

    if not chosen:
        return None
    changes = {one.name: one.changed(VARIANTS[chosen[one.name].variant])[0] for one in tried if one.name in chosen}
    try:
        return bench.judge(changes, f"{bench.label} with all that was chosen")
    except CompressorError:  # NaN
        return None


def _versions() -> str:
    from importlib.metadata import version

    return ", ".join(
        f"{package} {version(package)}" for package in ("compressor", "numpy", "onnxruntime", "scikit-learn")
    )


def _tell(message: str) -> None:
    print(visible(message), file=sys.stderr)
