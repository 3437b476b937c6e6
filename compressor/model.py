"""A model: a graph, and the weights that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.encodings import Encoding


@dataclass(frozen=True, eq=False)
class Weight:
    """One named constant of a graph.

    name: unique in the model; the name that training gave it where the source kept that.
    encoding: how it is stored, `Dense` or compressed; arrays are mapped, so a weight is small until it is read.
    uses: the operator types that read it (`Conv`, `MatMul`, ...), sorted.
    pinned: why it must stay stored as it is; empty for a weight that may be encoded.
    note: what its source says about it, for a reader: a declaration that did not hold, codes that were not kept, ...
    scaled: whether its values are products of those that were trained: what is small there says nothing about training.
    """

    name: str
    encoding: Encoding
    uses: tuple[str, ...] = ()
    pinned: str = ""
    note: str = ""
    scaled: bool = False


@dataclass(frozen=True, eq=False)
class Model:
    """A graph whose constants are the weights.

    path: the file that it was read from.
    weights: in the order of the graph.
    graphs: the graph by kind. `onnx`: an `onnx.ModelProto` in which each weight is an initializer of its name, dtype
        and shape without data, read as a plain tensor: whatever decoding the source had is in `Weight.encoding`.
        `torch`: the path of the same module, traced, whose parameters have no values. `coreml`: a `Skeleton`.
    metadata: what this package wrote about itself when it wrote the file; keys begin with `compressor.`.
    files: those that the model consists of, in the order in which they are read: `path` alone if none are given.
    """

    path: Path
    weights: Sequence[Weight]
    graphs: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (self.path,))
