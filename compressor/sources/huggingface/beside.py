"""What lies in a folder beside its weights: the tokenizer, code, adapters, and what is none of the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.formats.places import why_not
from compressor.sources.huggingface.checkpoint import BESIDE, CONFIG, INDEX, SHOWN, Checkpoint, is_adapter

SAME_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".onnx_data")
"""Suffixes of files that hold the weights once more, dense, which loaders would take for those of the folder."""
NOT_COPIED = frozenset({CONFIG, INDEX, "manifest.json", "pytorch_model.bin.index.json", *BESIDE})


@dataclass(frozen=True)
class Left:
    """files: all that are copied. notes: what is not, and why."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def others(checkpoint: Checkpoint) -> Left:
    """The files beside the weights: the tokenizer and the like."""
    folder, copied, same, foreign = checkpoint.path, [], [], []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file in checkpoint.files or name.as_posix() in NOT_COPIED or file.is_dir() or _hidden(name):
            continue
        if file.suffix.lower() in SAME_WEIGHTS and not is_adapter(file):
            same.append(name.as_posix())
        elif not file.is_file() or why_not(name.as_posix(), folder, folder, "the folder"):
            foreign.append(name.as_posix())
        else:
            copied.append(file)
    notes = [f"not copied, weights in another file: {', '.join(same[:SHOWN])}"] if same else []
    notes += [f"not copied, no files of the folder: {', '.join(foreign[:SHOWN])}"] if foreign else []
    return Left(tuple(copied), tuple(notes))


def _hidden(name: Path) -> bool:
    """Whether a file lies in a folder of version control or a cache."""
    return any(part.startswith(".") for part in name.parts[:-1])
