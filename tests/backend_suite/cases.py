"""The models of ONNX's backend tests, with what they are fed and what they give."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")

NEWEST_IR = 13
"""Of the files that ONNX Runtime reads: what is newer is said to be of this version, which changes nothing in it."""

RTOL, ATOL = 1e-3, 1e-5
"""What float32 arithmetic in another order may differ by: relative, absolute."""


@dataclass(frozen=True, eq=False)
class Case:
    """A model; its inputs and its expected outputs, in the order of the graph. Values that are no arrays are lists."""

    name: str
    kind: str
    model: onnx.ModelProto
    feeds: tuple[Any, ...]
    expected: tuple[Any, ...]
    rtol: float = RTOL

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        return inputs(self.model)


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are fed: those that no initializer gives."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initialized]


def cases(kinds: tuple[str, ...] = KINDS) -> Iterator[Case]:
    """All cases of these kinds, by name."""
    for kind in kinds:
        found = _nodes() if kind == "node" else _folders(kind)
        yield from sorted(found, key=lambda case: case.name)


def _nodes() -> Iterator[Case]:
    from onnx.backend.test import loader

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = loader.load_node_model_tests()
    for case in found:
        ((feeds, expected),) = case.data_sets
        case.model.ir_version = min(case.model.ir_version, NEWEST_IR)
        yield Case(case.name, "node", case.model, _values(feeds), _values(expected), max(case.rtol, RTOL))


def _values(found: Any) -> tuple[Any, ...]:
    return tuple(numpy_helper.to_array(one) if isinstance(one, onnx.TensorProto) else one for one in found)


def _folders(kind: str) -> Iterator[Case]:
    for folder in (DATA / kind).iterdir():
        if (folder / "model.onnx").is_file():
            model = onnx.load(folder / "model.onnx")
            feeds = _saved(folder / "test_data_set_0", "input", inputs(model))
            yield Case(
                folder.name, kind, model, feeds, _saved(folder / "test_data_set_0", "output", model.graph.output)
            )


def _saved(folder: Path, what: str, values: Any) -> tuple[Any, ...]:
    return tuple(
        _parsed((folder / f"{what}_{place}.pb").read_bytes(), value.type) for place, value in enumerate(values)
    )


def _parsed(data: bytes, type_: onnx.TypeProto) -> Any:
    kind = type_.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))
