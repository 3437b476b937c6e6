"""From a graph to a program of Core ML's intermediate language (MIL): a module for each kind of graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """An image as an input: `scale * pixel + bias`.

    color: `RGB`, `BGR` or `GRAYSCALE`. bias: a number a channel, empty for none.
    """

    color: str = "RGB"
    scale: float = 1.0
    bias: tuple[float, ...] = ()


@dataclass(frozen=True)
class Input:
    """One input of a program.

    shape: sizes; (least, most) for an axis that may vary.
    dtype: by name: `float32`, `float16` or `int32`.
    image: how it takes images; None for an array.
    """

    name: str
    shape: tuple[int | tuple[int, int], ...]
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
