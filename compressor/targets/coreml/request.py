"""What a package shall be: as a user asks for it, and in the terms of the graph that is converted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Size = int | tuple[int, int]
"""Of an axis, or its least and its largest one."""


@dataclass(frozen=True)
class Image:
    """How an image becomes the numbers that an input takes: `scale * pixel + bias`, by channel."""

    color: Literal["RGB", "BGR", "GRAYSCALE"] = field(
        default="RGB", metadata={"description": "The order of the channels."}
    )
    scale: float = field(default=1.0, metadata={"description": "What a pixel, 0 to 255, is multiplied with."})
    bias: tuple[float, ...] = field(
        default=(), metadata={"description": "What is added then, a number a channel; empty: nothing."}
    )


@dataclass(frozen=True)
class Options:
    """How a model becomes a Core ML package; other targets read none of it."""

    precision: Literal["float16", "float32"] = field(
        default="float16", metadata={"description": "Of weights and activations: `float16` or `float32`."}
    )
    axes: Mapping[str, Size | Mapping[int, Size]] = field(
        default_factory=dict,
        metadata={
            "description": "The size of each axis that `export.inputs` names as dynamic, or its least and its largest "
            "one: `{batch: 1, sequence: [1, 128]}`. An axis without a name is called by its input and its place: "
            "`{state: {1: 4}}` or `{state.1: 4}`. A first axis has 1 if none is given; names that a model lacks are "
            "left out, with a note."
        },
    )
    images: Mapping[str, Image] = field(
        default_factory=dict, metadata={"description": "The inputs that take images, by name."}
    )
    classes: tuple[str, ...] = field(
        default=(),
        metadata={
            "description": "A file with a class a line, in the order of the first output's scores: a classifier.",
            "lines": True,
        },
    )

    @property
    def sizes(self) -> Mapping[str, Size]:
        """`axes` by name, or by input and place: `state.1`."""
        found: dict[str, Size] = {}
        for name, size in self.axes.items():
            if isinstance(size, Mapping):
                found |= {f"{name}.{place}": one for place, one in size.items()}
            else:
                found[name] = size
        return found


@dataclass(frozen=True)
class Input:
    """One input of a program.

    shape: sizes; (least, most) for an axis that may vary.
    dtype: by name: `float32`, `float16` or `int32`.
    image: how it takes images; None for an array.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: str
    image: Image | None = None


@dataclass(frozen=True)
class Request:
    """What a graph is converted for.

    version: of the specification. precision: `float16` or `float32`. inputs: in the order of the graph.
    classes: the names of the classes of a classifier; empty for any other model.
    """

    version: int
    precision: str
    inputs: tuple[Input, ...]
    classes: tuple[str, ...] = ()
