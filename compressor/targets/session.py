"""A model that runs, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compressor.arrays import DType, NDArray
from compressor.errors import CompressorError


@dataclass(frozen=True)
class Port:
    """An input of a model: its name, its axes (None: any size), its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: DType

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{axes}]"


class Session(Protocol):
    """A loaded model. label: what errors call it. runtime: what runs it, as the metrics name it."""

    @property
    def label(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def inputs(self) -> Sequence[Port]:
        """The inputs; each has samples along its first axis."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of the outputs."""

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray]) -> Sequence[Any]:
        """The outputs of these names. Raises whatever the runtime raises."""


def checked(port: Port, label: str) -> Port:
    """An input that has samples along its first axis.

    Raises:
        CompressorError: it has no axes.
    """
    if not port.shape:
        raise CompressorError(f"{label}: input {port.name} is a scalar: expected samples along the first axis.")
    return port
