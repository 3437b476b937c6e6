"""The graph that a command works on: a model's own, or one that is exported for this run from what a training wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, UsageError

if TYPE_CHECKING:
    from compressor.sources import Exporter, InputSpec, Reached

    from .groups import Export


def needs_export(model: Path) -> bool:
    """Whether `model` holds weights whose graph only its training code knows."""
    from compressor import sources

    return sources.exporter(model) is not None


def for_weights(model: Path, settings: Export | None) -> Export | None:
    """The export that a look at the weights alone needs: none where they can be read without a graph.

    With a factory they are those of the graph that it leads to, whose names and folded constants may differ.
    """
    from compressor import sources

    if settings is None or (settings.factory is None and not settings.allow_pickle and sources.has_weights(model)):
        return None
    return settings


def write(source: Path, directory: Path, settings: Export, reached: Reached | None = None) -> None:
    """Write the graph of any model to `directory`: exported by training code, or a copy of its own.

    reached: is told each step of an export that has `STEPS`, once it is done.

    Raises:
        UsageError: `source` is of no known kind, or the settings do not fit it.
        CompressorError: it cannot be read or exported, or what that needs is not installed.
    """
    from compressor import sources
    from compressor.model import stamps, unchanged

    exporter = sources.exporter(source)
    if exporter is not None and not source.exists():
        raise CompressorError(f"{source}: no such file. Name the file that the training wrote.")
    with unchanged(stamps(sources.files(source))):
        if exporter is None:
            _copy(source, directory)
        else:
            _export(exporter, source, directory, settings, reached)


def _export(exporter: Exporter, source: Path, directory: Path, settings: Export, reached: Reached | None) -> None:
    from compressor import sources

    if source.is_file() and settings.factory is None and sources.readable(source):
        raise UsageError(
            f"{source}: holds weights without a graph. Set export.factory to the module:function that builds its "
            "model, or name its folder, if config.json there names an architecture of transformers."
        )
    others = settings.model_dump(exclude={"inputs"})
    if reached is not None and hasattr(exporter, "STEPS"):
        others["reached"] = reached
    exporter.export(source, directory, inputs=inputs(settings), **others)


def inputs(settings: Export) -> dict[str, InputSpec]:
    """The declared inputs as the core takes them."""
    from compressor.sources import InputSpec

    return {name: InputSpec(one.shape, one.dtype, one.dynamic) for name, one in settings.inputs.items()}


def _copy(source: Path, directory: Path) -> None:
    """Write the graph of an ONNX model as it is, its data beside it: what no later command could use is refused."""
    from compressor import sources
    from compressor.formats.onnx import copying

    model = sources.read(source)
    if model.graph is None:
        raise UsageError(f"{source}: holds weights without a graph. Name what the training wrote.")
    if model.onnx is None:
        raise UsageError(f"{source}: has no ONNX graph: give it to compress as it is.")
    copying.copy(model.path, directory, apart=True)


@contextmanager
def exported(model: Path, settings: Export | None) -> Iterator[Path]:
    """`model` itself, or with export settings its graph in a directory that goes when the context ends."""
    if settings is None:
        yield model
        return
    with TemporaryDirectory(prefix="compressor-") as folder:
        directory = Path(folder) / "exported"
        directory.mkdir()
        write(model, directory, settings)
        yield directory
