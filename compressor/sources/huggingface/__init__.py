"""Hugging Face folders: `config.json` and `.safetensors` files, float or quantized.

    folder --checkpoint--> tensors --gptq | compressed_tensors | ...--> weights, without a graph
                                    + transformers' architecture -----> model.onnx, whose weights keep their codes

`read` needs the files alone: it gives the weights, each read or computed when it is asked for, as the encodings that
the packed tensors are. `export` builds the graph, for which transformers must be installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor import requirements
from compressor.errors import CompressorError
from compressor.formats.onnx.writing import DATA, MODEL
from compressor.model import Model
from compressor.sources import InputSpec, Reached, unheard
from compressor.sources.onnx import TRACED

SUFFIXES: tuple[str, ...] = ()
"""Of files: none, it reads folders."""
FILES = (MODEL, DATA, TRACED)
PACKAGES = ("onnx", "onnx-ir", "onnxscript", "safetensors", "torch", "transformers")
_WITHOUT = "; transformers is not needed with export.factory"
STEPS = ("checkpoint", "installed", "declared", "imports", "opset", "factory", "weights", "inputs", "graph")


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder that `read` reads."""
    from compressor.sources.huggingface import checkpoint

    return checkpoint.is_folder(path)


def files(path: Path) -> tuple[Path, ...]:
    """The settings of the folder, and its shards."""
    from compressor.sources.huggingface import checkpoint

    return (*checkpoint.settings(path), *sorted(path.glob("*.safetensors")))


def read(path: Path) -> Model:
    """The weights of a folder, without a graph.

    Raises:
        CompressorError: a file is missing, damaged or contradicts another one, or stores weights in an unknown way.
    """
    from compressor.sources.huggingface import beside, checkpoint, weights

    opened = checkpoint.open_folder(path)
    files = (*opened.files, *beside.others(opened).files)
    return Model(path, weights.read(opened).weights, None, checkpoint.metadata(opened), files)


def export(
    source: Path,
    directory: Path,
    *,
    factory: str | None = None,
    args: Mapping[str, object] | None = None,
    inputs: Mapping[str, InputSpec],
    outputs: Sequence[str] = (),
    opset: int = 18,
    allow_pickle: bool = False,  # noqa: ARG001 - there is none to allow
    key: str = "",  # noqa: ARG001 - a folder has one set of weights
    reached: Reached = unheard,
) -> None:
    """Write the model of a folder to `directory/model.onnx` and `directory/model.onnx.data`.

    factory, args  `module:function` that builds the module; None for the architecture that config.json names, filled
                   by transformers; code that lies in the folder never runs. Keyword arguments of either
    inputs         by name of a parameter of the model's `forward`; empty for `input_ids` int64 [1, 16] or an image
    outputs        as those of any torch model

    Initializers have the names of the module. A quantized weight keeps its codes.

    Raises: CompressorError when the folder cannot be read or exported, UsageError when the request does not fit it.
    """
    from compressor.sources.huggingface import checkpoint, weights

    opened = checkpoint.open_folder(source)
    content = weights.read(opened)
    reached("checkpoint")
    needed = ("torch", "onnxscript", *(() if factory else ("transformers",)))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise CompressorError(
            f"{source}: its graph needs {' and '.join(missing)}. `compressor detect`, `compressor inspect` and "
            "`compressor compress --dry-run` read the weights without it. Install it: "
            f"{requirements.hint('torch' if factory else 'huggingface')}{_WITHOUT if 'transformers' in missing else ''}"
        )
    reached("installed")
    from compressor.sources.huggingface import architecture

    architecture.export(opened, content, directory, factory, args or {}, inputs, outputs, opset, reached)
