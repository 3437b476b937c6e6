"""Bare `.safetensors` files: weights without a graph. `config.json` beside one says how they are stored."""

from __future__ import annotations

from pathlib import Path

from compressor.model import Model

SUFFIXES: tuple[str, ...] = (".safetensors",)


def files(path: Path) -> tuple[Path, ...]:
    """The file itself, and those beside it that say how it is stored."""
    from compressor.sources.huggingface import checkpoint

    return (path, *checkpoint.settings(path.parent))


def read(path: Path) -> Model:
    """The weights of a file, without a graph.

    Raises:
        CompressorError: it is damaged, or stores weights in an unknown way.
    """
    from compressor.sources.huggingface import checkpoint, weights

    opened = checkpoint.open_file(path)
    return Model(path, weights.read(opened).weights, None, checkpoint.metadata(opened), opened.files)
