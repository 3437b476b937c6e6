"""ONNX files: every form of compressed weights that one can have becomes an encoding.

    file --load--> graph, data on disk --inline--> --unique names--> --index--> --lift--> weights and what reads them

`scopes` finds values in graphs and their subgraphs, `expressions` reads decode nodes as encodings, `operators` knows
what consumes codes itself, `normalize` writes the normal form that `compressor.model.Model` describes, `copies` finds
weights that are one under several names, and `ties` keeps one of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor.formats.onnx.graphs import inside, is_standard
from compressor.formats.places import leads_to_cache
from compressor.model import Model

if TYPE_CHECKING:
    import onnx

SUFFIXES: tuple[str, ...] = (".onnx",)

_TO_ONNX = "give the ONNX file that `python -m tf2onnx.convert"
UNREADABLE = {
    ".tflite": f"a model of TensorFlow Lite: {_TO_ONNX} --tflite FILE --output model.onnx` writes.",
    ".pb": f"a graph of TensorFlow: {_TO_ONNX} --saved-model FOLDER --output model.onnx` writes.",
    **dict.fromkeys(
        (".keras", ".h5"),
        "a model of Keras: give the ONNX file that `model.export('model.onnx', format='onnx')` writes.",
    ),
    ".pdmodel": "a model of Paddle: give the ONNX file that `paddle2onnx` writes.",
    ".ort": "a model in ONNX Runtime's own format: give the ONNX file that it was made of.",
}
"""What to do with files of other formats that become ONNX, by their suffix."""

TRACED = "model.traced.pt"
"""The same module, traced by torch, where it was exported from there."""

_OWN_OPSET = 13
"""What a model imports of ONNX's own operators that has none: it may need some when its weights are decoded."""


def files(path: Path) -> tuple[Path, ...]:
    """The file, those in which its tensors lie, and the module that was traced beside it.

    Raises:
        CompressorError: it is not an ONNX model, or its data are missing.
    """
    from compressor.formats.onnx.reading import files, load

    path = place(path)
    model = load(path)
    try:
        read = files(model, path)
    except CompressorError as error:
        raise CompressorError(f"{path}: {error}") from error
    traced = path.with_name(TRACED)
    return (*read, traced) if traced.exists() else read


def read(path: Path, *, as_written: bool = False) -> Model:
    """The model in `path`, in normal form.

    as_written: keep weights that are copies of another one: what was written is what is compared.

    Raises:
        CompressorError: the file is not an ONNX model of a known version, or its data are missing or impossible.
    """
    from compressor.formats.onnx.functions import DOMAIN
    from compressor.formats.onnx.reading import files, load
    from compressor.sources.onnx.inlining import inline
    from compressor.sources.onnx.normalize import normalize
    from compressor.sources.onnx.ties import tie, told

    path = place(path)
    model = load(path)
    _check_versions(path, model)
    metadata = {entry.key: entry.value for entry in model.metadata_props if str(entry.key).startswith(f"{DOMAIN}.")}
    try:
        read = files(model, path)
        own = f"{DOMAIN}.version" in metadata
        inline(model, own=own)
        weights = normalize(model, path.parent, own=own)
        weights, copies = (weights, {}) if as_written else tie(model, weights)
    except CompressorError as error:
        raise CompressorError(f"{path}: {error}") from error
    metadata |= {f"{DOMAIN}.note.{name}": text for name, text in told(copies, weights).items()}
    weights = tuple(replace(weight, note=metadata.get(f"{DOMAIN}.note.{weight.name}", "")) for weight in weights)
    traced = path.with_name(TRACED)
    return Model(path, weights, model, metadata, read, traced=traced if traced.exists() else None, copies=copies)


def place(path: Path) -> Path:
    """The file whose folder holds the data: a link into a cache has them beside it, any other where it leads to."""
    return path.resolve() if path.is_symlink() and not leads_to_cache(path) else path


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if model.ir_version > onnx.IR_VERSION or opsets.get("", 0) > newest:
        raise CompressorError(
            f"{path}: IR version {model.ir_version}, opset {opsets.get('', 0)}; "
            f"the installed onnx {onnx.__version__} knows IR version {onnx.IR_VERSION} and opset {newest}: upgrade it."
        )
    if "" in opsets:
        return
    node = next(filter(is_standard, inside(model.graph.node)), None)
    if node is not None:
        raise CompressorError(
            f"{path}: imports no opset of ONNX's own operators, of which {node.op_type} is one, only those of "
            f"{', '.join(sorted(opsets))}: say which opset it is, or export the model again."
        )
    model.opset_import.add(version=_OWN_OPSET)
