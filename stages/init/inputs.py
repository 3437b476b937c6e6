"""The inputs of a model: guessed from its file, its configuration, or the data that it is measured on."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError, UsageError

from .checkpoints import FOLDER, ONNX, PROGRAM, SCRIPT

if TYPE_CHECKING:
    from compressor.evaluation.samples import Samples

Inputs = Mapping[str, Mapping[str, Any]]
"""By name what the group `export` says of each: shape, dtype and dynamic."""

BATCH = "batch"
SPELLED = re.compile(r"(?P<name>[^=\[\]\s]+)=(?P<dtype>\w+)\[(?P<sizes>[^\[\]]*)\]")
LONGEST = 128
"""Tokens of a text, where nothing says how many a model is used with."""


@dataclass(frozen=True)
class Told:
    """The inputs as far as they must be set, how they are known, and those that the model has anyhow."""

    inputs: Inputs
    because: str
    had: Inputs = field(default_factory=dict)

    @property
    def axes(self) -> Mapping[str, Any]:
        """A size for each axis that may differ, for a target that has no such axes: one sample, at most so many."""
        found: dict[str, Any] = {}
        for one in (*self.inputs.values(), *self.had.values()):
            for at, name in one.get("dynamic", {}).items():
                size = one["shape"][at]
                found |= {name: 1} if not at else {name: [1, size]} if size > 1 else {}
        return found


def parse(texts: Sequence[str]) -> Inputs:
    """The inputs that a user spelled.

    >>> parse(["image=float32[batch,3,8,8]"])
    {'image': {'shape': [1, 3, 8, 8], 'dtype': 'float32', 'dynamic': {0: 'batch'}}}

    Raises:
        UsageError: one is spelled otherwise.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for text in texts:
        spelled = SPELLED.fullmatch(text)
        sizes = [size.strip() for size in spelled["sizes"].split(",") if size.strip()] if spelled else []
        if spelled is None or not all(size.isdigit() or size.isidentifier() for size in sizes):
            raise UsageError(f"--input {text}: expected NAME=DTYPE[SIZES], such as image=float32[{BATCH},3,224,224].")
        found[spelled["name"]] = _input(
            [int(size) if size.isdigit() else 1 for size in sizes],
            spelled["dtype"],
            {at: size for at, size in enumerate(sizes) if not size.isdigit()},
        )
    return found


def of_model(kind: str, path: Path) -> Told | None:
    """The inputs that a model says itself, where it is there and does."""
    if kind == ONNX:
        return Told({}, "the graph has them", _of_graph(path) if path.exists() else {})
    if not path.exists():
        return None
    if kind == FOLDER:
        return _of_config(path)
    return _of_program(path) if kind == PROGRAM else None


def of_data(data: str, samples: Samples, names: Sequence[str]) -> Told:
    """The inputs that the data has: the first sample's, of which there may be any number.

    names: of the parameters of the model's `forward`; only needed where the data does not name its arrays.

    Raises:
        CompressorError: an array has no samples, or there are more of them than names.
    """
    import numpy as np

    given = samples.inputs
    if isinstance(given, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in given.items()}
    else:
        several = given if isinstance(given, tuple | list) else (given,)
        if len(several) > len(names):
            raise CompressorError(
                f"{data}: returns {len(several)} inputs, the model's are {', '.join(names) or 'unknown'}."
            )
        arrays = {name: np.asarray(value) for name, value in zip(names, several, strict=False)}
    wrong = next((name for name, array in arrays.items() if not array.ndim or array.dtype.kind not in "biuf"), None)
    if wrong is not None or not arrays:
        raise CompressorError(f"{data}: input {wrong} is no array of numbers with samples along its first axis.")
    inputs = {
        name: _input([1, *array.shape[1:]], "float32" if array.dtype == np.float64 else str(array.dtype), {0: BATCH})
        for name, array in arrays.items()
    }
    return Told(inputs, f"the first of {len(next(iter(arrays.values()))):,} samples of {data}")


def names(kind: str, path: Path, factory: str | None) -> tuple[str, ...]:
    """The parameters of the model's `forward`, as far as its code or its file tells.

    Raises:
        CompressorError: building the module failed.
    """
    if factory is not None:
        return _parameters(factory)
    if kind == SCRIPT and path.is_file():
        return _of_script(path)
    return ("input_ids", "attention_mask") if kind == FOLDER else ()


def describe(inputs: Inputs) -> str:
    """The inputs on a line, as `--input` takes them."""
    return " ".join(
        f"{name}={one['dtype']}[{','.join(str(one['dynamic'].get(at, size)) for at, size in enumerate(one['shape']))}]"
        for name, one in inputs.items()
    )


def _input(shape: Sequence[int], dtype: str, dynamic: Mapping[int, str]) -> Mapping[str, Any]:
    return {"shape": list(shape), "dtype": dtype, "dynamic": dict(dynamic)}


def _parameters(factory: str) -> tuple[str, ...]:
    """The names that the module's `forward` takes without a default: built where its weights take no memory."""
    from compressor import references

    function = references.load(factory, "--factory")
    model: Any = function
    if not inspect.isclass(function):
        import torch  # the user's own code has imported it

        try:
            with torch.device("meta"):
                model = function()
        except Exception:  # noqa: BLE001 - the function may need values
            model = references.call(function, f"--factory {factory}")
    if not callable(getattr(model, "forward", None)):
        raise UsageError(f"--factory {factory}: returns a {type(model).__name__}: expected a torch.nn.Module.")
    parameters = [*inspect.signature(model.forward).parameters.values()][1 if inspect.isclass(model) else 0 :]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in kinds)


def _of_graph(path: Path) -> Inputs:
    """From an ONNX file, without its data; axes that the graph names, or leaves open, may differ."""
    from compressor.formats.onnx import reading

    graph = reading.load(path / "model.onnx" if path.is_dir() else path).graph
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, Mapping[str, Any]] = {}
    for port in graph.input:
        if port.name not in weights:
            kind, sizes = port.type.tensor_type, port.type.tensor_type.shape.dim
            dynamic = {at: one.dim_param or f"{port.name}.{at}" for at, one in enumerate(sizes) if not one.dim_value}
            found[port.name] = _input([one.dim_value or 1 for one in sizes], _named(kind.elem_type), dynamic)
    return found


def _named(elem_type: int) -> str:
    from onnx import TensorProto

    name = str(TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _of_script(path: Path) -> tuple[str, ...]:
    """From the code in the archive: `def forward(self: __torch__.net.Net, image: Tensor) -> Tensor`."""
    with zipfile.ZipFile(path) as archive:
        entries = {name.partition("/")[2]: name for name in archive.namelist()}
        named = re.search(rb"c(__torch__[\w.]*)\n(\w+)\n", archive.read(entries["data.pkl"]))
        if named is None:
            return ()
        file = f"code/{named[1].decode().replace('.', '/')}.py"
        text = archive.read(entries[file]).decode() if file in entries else ""
    own = text.partition(f"class {named[2].decode()}(")[2].partition("\nclass ")[0]
    forward = re.search(r"def forward\(self: [\w.]+,?(.*?)\) ->", own, re.DOTALL)
    return tuple(re.findall(r"(\w+): ", forward[1])) if forward else ()


def _of_program(path: Path) -> Told | None:
    """From the program's own description of what a user gives it."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if PurePosixPath(name).name == "model.json"), None)
        content = json.loads(archive.read(name)) if name else {}
    module = content.get("graph_module", {})
    given = [
        spec["user_input"]["arg"]["as_tensor"]["name"]
        for spec in module.get("signature", {}).get("input_specs", ())
        if "as_tensor" in spec.get("user_input", {}).get("arg", {})
    ]
    tensors = module.get("graph", {}).get("tensor_values", {})
    sizes = {name: [size.get("as_int") for size in tensors[name]["sizes"]] for name in given if name in tensors}
    if not sizes or len(sizes) != len(given):
        return None
    inputs = {
        name: _input(
            [1 if size is None else size for size in shape],
            DTYPES.get(tensors[name]["dtype"], "float32"),
            {at: BATCH if not at else f"{name}_{at}" for at, size in enumerate(shape) if size is None},
        )
        for name, shape in sizes.items()
    }
    return Told(inputs, "the program says so")


DTYPES = {2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool"}
"""How torch.export numbers types. Source: torch/_export/serde/schema.py, ScalarType."""


def _of_config(path: Path) -> Told | None:
    """From the configuration of an architecture: tokens for one with a vocabulary, an image for one with its size."""
    from compressor.sources.huggingface.checkpoint import CONFIG

    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    size, channels = config.get("image_size"), config.get("num_channels", 3)
    if isinstance(config.get("vocab_size"), int):
        longest = config.get("max_position_embeddings")
        tokens = _input(
            [1, min(longest if isinstance(longest, int) else LONGEST, LONGEST)], "int64", {0: BATCH, 1: "sequence"}
        )
        return Told({"input_ids": tokens, "attention_mask": tokens}, f"{CONFIG} has a vocabulary")
    if isinstance(size, int) or (isinstance(size, list) and len(size) == 2):
        sizes = [size, size] if isinstance(size, int) else size
        return Told(
            {"pixel_values": _input([1, channels, *sizes], "float32", {0: BATCH})}, f"{CONFIG} has an image_size"
        )
    return None
