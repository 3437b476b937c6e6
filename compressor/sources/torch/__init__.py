"""Fine-tuned torch models, exported to one canonical ONNX graph whose trained weights are untouched.

    source --load--> module --declare, lower--> float module over codes --trace, tidy--> graph --exported--> model.onnx

`load` runs no code of a checkpoint, `declare` checks what a training tool said about its compression, `lower` replaces
quantized modules, which no torch exporter handles, by their codes between standard operators, `trace` is torch's own
exporter, `tidy` makes everything but the weights as small as the standard optimizer does, and `exported` stores weights
in the form that was declared for them.

Initializers keep the state dict's names, layouts and values bit for bit; a quantized weight is stored as its codes
under the weight's name, `NAME.scale` and `NAME.zero_point` beside it. Beside the graph lies the module as torch traces
it, without weights (`traced`), if torch can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressor import references, requirements
from compressor.errors import CompressorError, UsageError
from compressor.formats.onnx.writing import DATA, MODEL
from compressor.model import Model
from compressor.sources import InputSpec, Reached, unheard
from compressor.sources.onnx import TRACED

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

SUFFIXES: tuple[str, ...] = (".bin", ".ckpt", ".pt", ".pt2", ".pth", ".safetensors", ".torchscript", ".ts")
FILES = (MODEL, DATA, TRACED)
PACKAGES = ("onnx", "onnx-ir", "onnxscript", "safetensors", "torch", "torchao")
STEPS = ("opset", "installed", "declared", "imports", "checkpoint", "factory", "weights", "inputs", "graph")

OPSETS = range(18, 26)
"""What torch's exporter translates to without falling back to another version."""


def files(path: Path) -> tuple[Path, ...]:
    """The file itself: a checkpoint is one."""
    return (path,)


def check_opset(opset: int) -> None:
    """Raises: UsageError when the exporter has no such opset."""
    if opset not in OPSETS:
        raise UsageError(f"export.opset is {opset}: expected {OPSETS.start} to {OPSETS.stop - 1}.")


def export(
    source: Path,
    directory: Path,
    *,
    factory: str | None = None,
    args: Mapping[str, object] | None = None,
    inputs: Mapping[str, InputSpec],
    outputs: Sequence[str] = (),
    opset: int = 18,
    allow_pickle: bool = False,
    key: str = "",
    reached: Reached = unheard,
) -> None:
    """Write the model of `source` to `directory/model.onnx` and, from 1 KiB a tensor, `directory/model.onnx.data`.

    source        `.pt`, `.pth`, `.bin`, `.safetensors` state dict, a Lightning `.ckpt`, a whole pickled module, a
                  TorchScript archive, or a `.pt2` ExportedProgram
    factory       `module:function` that builds the module a state dict belongs to, called with `args`
    inputs        by name of a parameter of the model's `forward`
    key           of the set of weights in a checkpoint that has several; empty for the usual one
    outputs       names of the flattened outputs; empty: the keys of a returned dict, else `output`, or `output_0` ...

    Raises: CompressorError when the source cannot be read or exported, UsageError when the request does not fit it.
    """
    check_opset(opset)
    reached("opset")
    with _installed(f"{source}: reading a torch model"):
        import torch

        from compressor.sources.torch import exported
        from compressor.sources.torch.ao import legacy_of
        from compressor.sources.torch.declared import declare
        from compressor.sources.torch.load import load
        from compressor.sources.torch.tidy import stored_names, tidy
        from compressor.sources.torch.trace import check_inputs, quiet, trace
    # What a file or an exported program imports while it is read may lie in the current directory too.
    reached("installed")
    if not inputs:
        raise UsageError(
            "export.inputs is empty: declare every input of the model, as NAME: {shape: [...], dtype: ...}."
        )
    check_inputs(inputs)
    reached("declared")
    with quiet(), torch.no_grad(), references.importable_here(), legacy_of(source):
        model = load(source, factory=factory, args=args or {}, allow_pickle=allow_pickle, key=key, reached=reached)
        declared = declare(model)
        reached("weights")
        model = plain(model)
        program, stored = trace(model, inputs, outputs, opset, reached), stored_names(model)
        tidy(program, stored)
        exported.write(program.model, model, inputs, declared, stored, directory)
    reached("graph")


def fresh(directory: Path, factory: str, args: Mapping[str, object]) -> Path:
    """A checkpoint as a training would write it, in `directory`: the weights that the factory's module starts with.

    Raises: CompressorError when torch is not installed or the module cannot be built, UsageError when there is none.
    """
    with _installed(f"building the model of export.factory {factory}"):
        import torch

        from compressor.sources.torch.load import build
        from compressor.sources.torch.trace import quiet
    path = directory / "fresh.pt"
    with quiet(), references.importable_here():
        torch.save(build(factory, args).state_dict(), path)
    return path


def has_weights_alone(path: Path) -> bool:
    """Whether a file holds no program: a state dict, or a module that is pickled as a whole.

    Raises:
        CompressorError: it cannot be read.
    """
    from compressor.sources.torch.archive import entries, is_script

    suffix = path.suffix.lower()
    return suffix == ".safetensors" or (suffix != ".pt2" and path.is_file() and not is_script(entries(path)))


def weights(path: Path) -> Model:
    """The weights of a checkpoint by the names that they have there, without a graph; no factory is needed.

    Raises:
        CompressorError: it cannot be read, or would run code.
    """
    with _installed(f"{path}: reading a torch model"):
        from compressor.sources.torch import state
    with references.importable_here():
        return state.read(path)


@contextmanager
def _installed(what: str) -> Iterator[None]:
    """Where torch, and what exports it, is imported for `what`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CompressorError(f"{what} needs {error.name}. Install it: {requirements.hint('torch')}") from error


def plain(model: Module | ExportedProgram) -> Module | ExportedProgram:
    """The model without tensors of kinds that an exporter does not take: codes, and operators in float."""
    import torch

    from compressor.sources.torch.ao import needs_lowering
    from compressor.sources.torch.merge import unparametrized

    if not isinstance(model, torch.nn.Module):
        from compressor.sources.torch.program import folded

        return folded(model)
    model = unparametrized(model.eval())
    if not needs_lowering(model):
        return model
    from compressor.sources.torch.legacy.lower import lower

    return lower(model)
