"""compressed-tensors: folders of Hugging Face whose linear layers are stored as codes, as their loaders read them.

    folder --fit--> weights of linear layers --> the same shards, config.json, all other files

It needs no graph: the code of the model is the loader's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.targets.compressed_tensors.target import CompressedTensors

NAME = "compressed-tensors"
TARGETS: Mapping[str, None] = {NAME: None}
FILES: tuple[str, ...] = ()
"""None whose name is its own: a folder that was trained has the same. The manifest lists what was written."""
PACKAGES: tuple[str, ...] = ()  # the format is written by this package


def get(name: str, options: Mapping[str, object] = {}) -> CompressedTensors:  # noqa: ARG001 - it has none
    """The target of that canonical name."""
    from compressor.targets.compressed_tensors.target import CompressedTensors  # asking for any imports this module

    return CompressedTensors(name)
