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
    hint: what the source declared about it (masks, tables, scales), as a first hypothesis.
    """

    name: str
    encoding: Encoding
    uses: tuple[str, ...] = ()
    pinned: str = ""
    hint: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A graph whose constants are the weights.

    path: the file that it was read from.
    weights: in the order of the graph.
    graphs: the graph by kind. `onnx`: an `onnx.ModelProto` in which each weight is an initializer of its name, dtype
        and shape without data, read as a plain tensor: whatever decoding the source had is in `Weight.encoding`.
    """

    path: Path
    weights: Sequence[Weight]
    graphs: Mapping[str, Any]
