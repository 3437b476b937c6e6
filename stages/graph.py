"""The graph that a command works on: a model's own, or one that is exported for this run from what a training wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from compressor.errors import CompressorError, unknown

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import TensorProto

    from compressor.stages.params import Export

TORCH_SUFFIXES = (".pt", ".pt2", ".pth", ".safetensors")
"""The files that torch's exporter makes a graph of, known without importing torch."""

GRAPH_SUFFIXES = (".onnx",)
"""The files that hold a graph."""


def needs_export(model: Path) -> bool:
    """Whether `model` holds weights whose graph only its training code knows."""
    return model.suffix.lower() in TORCH_SUFFIXES and not model.is_dir()


def write(source: Path, directory: Path, settings: Export) -> None:
    """Write the graph of any model to `directory`.

    Raises:
        UsageError: `source` is of no known kind.
        CompressorError: it cannot be read or exported.
    """
    if needs_export(source):
        export_torch(source, directory, settings)
    elif source.is_dir() or source.suffix.lower() in GRAPH_SUFFIXES:
        copy_onnx(source, directory)
    else:
        raise unknown("kind of model file", source.suffix or source.name, (*GRAPH_SUFFIXES, *TORCH_SUFFIXES))


def export_torch(source: Path, directory: Path, settings: Export) -> None:
    """Write the graph of a torch model to `directory`.

    Raises:
        CompressorError: the model cannot be read or exported, or torch is not installed.
    """
    if not source.is_file():
        raise CompressorError(f"{source}: no such file. Name the file that the training wrote.")
    try:
        from compressor.sources import torch
    except ModuleNotFoundError as error:
        raise CompressorError(
            f"{source}: reading a torch model needs {error.name}. Install it: pip install 'compressor[torch]'."
        ) from error
    torch.export(
        source,
        directory,
        factory=settings.factory,
        args=settings.args,
        inputs={
            name: torch.InputSpec(declared.shape, declared.dtype, declared.dynamic)
            for name, declared in settings.inputs.items()
        },
        outputs=settings.outputs,
        opset=settings.opset,
        allow_pickle=settings.allow_pickle,
    )


def copy_onnx(source: Path, directory: Path) -> None:
    """Write the graph of an ONNX model as it is to `directory`, its data beside it.

    Raises:
        CompressorError: the model cannot be read: what no later command could use is refused here.
    """
    from compressor import sources
    from compressor.formats.onnx import reading, writing

    file = sources.read(source).path
    graph = reading.load(file)
    with (directory / writing.DATA).open("wb") as data:
        for tensor, is_initializer in _external(graph):
            stored = reading.external(tensor, file.parent)
            del tensor.external_data[:]
            if not is_initializer:
                # ONNX Runtime reads external data of initializers only.
                tensor.ClearField("data_location")
                tensor.raw_data = bytes(stored.raw())
                continue
            data.write(bytes(-data.tell() % writing.ALIGNMENT))
            for key, value in (("location", writing.DATA), ("offset", data.tell()), ("length", stored.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            data.write(stored.raw().data)
    (directory / writing.MODEL).write_bytes(graph.SerializeToString(deterministic=True))


def _external(message: Message) -> Iterator[tuple[TensorProto, bool]]:
    """The tensors inside of a message whose data lie in a file, and whether each is an initializer."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if isinstance(value, Sequence) else (value,):
            if inner.DESCRIPTOR.name != "TensorProto":
                yield from _external(inner)
            elif inner.data_location == inner.EXTERNAL:
                yield inner, field.name == "initializer"


@contextmanager
def exported(model: Path, settings: Export | None) -> Iterator[Path]:
    """`model` itself, or with export settings its graph in a directory that goes when the context ends."""
    if settings is None:
        yield model
        return
    with TemporaryDirectory(prefix="compressor-") as folder:
        directory = Path(folder) / "exported"
        directory.mkdir()
        export_torch(model, directory, settings)
        yield directory
