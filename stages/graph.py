"""The graph that a command works on: a model's own, or one that is exported for this run from what a training wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from compressor.errors import CompressorError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import TensorProto

    from compressor.stages.params import Export

TORCH_SUFFIXES = (".pt", ".pt2", ".pth", ".safetensors")
"""The files that torch's exporter makes a graph of, known without importing torch."""


def needs_export(model: Path) -> bool:
    """Whether `model` holds weights whose graph only its training code knows."""
    return model.suffix.lower() in TORCH_SUFFIXES and not model.is_dir()


def export_torch(source: Path, directory: Path, settings: Export) -> None:
    """Write the graph of a torch model to `directory`.

    Raises:
        CompressorError: the model cannot be read or exported, or torch is not installed.
    """
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
        for tensor in _external(graph):
            stored = reading.external(tensor, file.parent)
            data.write(bytes(-data.tell() % writing.ALIGNMENT))
            del tensor.external_data[:]
            for key, value in (("location", writing.DATA), ("offset", data.tell()), ("length", stored.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            data.write(memoryview(stored.raw()))
    (directory / writing.MODEL).write_bytes(graph.SerializeToString(deterministic=True))


def _external(message: Message) -> Iterator[TensorProto]:
    """The tensors inside of a message whose data lie in a file: in graphs, subgraphs, functions and nodes."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            if inner.DESCRIPTOR.name == "TensorProto" and inner.data_location == inner.EXTERNAL:
                yield inner
            else:
                yield from _external(inner)


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
