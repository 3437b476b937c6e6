"""What a model file is, told by its first bytes, without torch: nothing of it runs or is loaded."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path, PurePosixPath

from compressor.errors import CompressorError

ONNX, FOLDER, STATE, MODULE = "an ONNX graph", "a Hugging Face folder", "a state dict", "a whole pickled module"
SCRIPT, PROGRAM = "a TorchScript archive", "an ExportedProgram"

BY_SUFFIX = {
    ".onnx": ONNX,
    ".pt2": PROGRAM,
    ".torchscript": SCRIPT,
    ".ts": SCRIPT,
    ".bin": STATE,
    ".ckpt": STATE,
    ".pt": STATE,
    ".pth": STATE,
    ".safetensors": STATE,
}
"""What a file most likely is that is not there yet."""

SAVED_BY = {
    "torch.jit.save": SCRIPT,
    "torch.jit.script": SCRIPT,
    "torch.jit.trace": SCRIPT,
    "torch.export.save": PROGRAM,
    "torch.onnx.export": ONNX,
    "save_pretrained": FOLDER,
    "trainer.save_model": FOLDER,  # of transformers' Trainer; others have a function of that name too
}
"""What a call of the training's code writes."""

PLAIN = ("torch", "collections", "numpy", "builtins", "__builtin__", "copyreg", "_codecs")
"""The packages that the pickle of a state dict names."""


def kind(path: Path) -> str:
    """What lies at a path.

    Raises:
        CompressorError: it cannot be read, or is none of these.
    """
    from compressor.sources import huggingface

    if path.is_dir():
        if huggingface.is_folder(path):
            return FOLDER
        if (path / "model.onnx").is_file():
            return ONNX
        raise CompressorError(
            f"{path}: a folder without config.json, *.safetensors or model.onnx. Name the model in it."
        )
    suffix = path.suffix.lower()
    if suffix not in BY_SUFFIX:
        raise CompressorError(f"{path}: expected a file of {', '.join(sorted(BY_SUFFIX))}, or a Hugging Face folder.")
    if suffix in {".onnx", ".pt2", ".safetensors"}:
        return BY_SUFFIX[suffix]
    return _pickled(path)


def _pickled(path: Path) -> str:
    from compressor.sources.torch import archive

    names = archive.entries(path)
    if archive.is_script(names):
        return SCRIPT
    try:
        if names:
            inner = next(name for name in names if PurePosixPath(name).name == "data.pkl")
            with zipfile.ZipFile(path) as opened:
                return _of_pickle(opened.read(inner))
        with path.open("rb") as file:
            return _of_pickle(file.read(1 << 20))
    except (OSError, StopIteration, zipfile.BadZipFile) as error:
        raise CompressorError(f"{path}: truncated or not a torch checkpoint ({error}). Save it again.") from error


def _of_pickle(content: bytes) -> str:
    """A pickle that begins with an object of a class is that object; a state dict begins with a mapping."""
    strings: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name in {"GLOBAL", "STACK_GLOBAL"}:
                named = str(argument).replace(" ", ".") if code.name == "GLOBAL" else ".".join(strings[-2:])
                if named.startswith("torch.nn.modules") or named.partition(".")[0] not in PLAIN:
                    return MODULE
                return STATE
            if isinstance(argument, str):
                strings.append(argument)
            if code.name in {"EMPTY_DICT", "DICT"}:
                return STATE
    except (ValueError, UnicodeDecodeError):  # of the legacy format, several pickles follow one another
        pass
    return STATE
