"""Schemes: each recognises one kind of compression in a weight's values, and encodes it. The folder is the registry.

A scheme is a module with the members of `Scheme`. `linear_quantize` and `palettize` describe values; `sparsify` takes
what they describe and stores it for the non-zeros alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from compressor.arrays import NDArray
from compressor.encodings import Dense, Encoding, LinearQuantized, Palettized
from compressor.scan import Scan

Values = Dense | LinearQuantized | Palettized
"""What may stand under `Sparse`."""


@dataclass(frozen=True)
class Candidate:
    """One way to store a weight.

    schemes: those that take part, outermost first; none for the form that the source has.
    spec: the encoding as array specs: all that `encode` needs to know.
    evidence: what it was recognised by, for a reader.
    threshold: magnitudes up to this become zero; 0.0 where only exact zeros are left out.
    changed: how many values the threshold makes zero.
    structure: of the zeros of a sparse form: `unstructured`, `2:4 along axis 1`, ...
    """

    schemes: tuple[str, ...]
    spec: Encoding
    evidence: str
    threshold: float = 0.0
    changed: int = 0
    structure: str = ""


class Scheme(Protocol):
    """What a scheme's module has. All of it is pure."""

    NAME: str

    def detect(self, values: NDArray, scan: Scan) -> Iterator[Candidate]:
        """The ways in which this scheme can store `values` exactly, given the facts of one pass over them."""

    def encode(self, values: NDArray, spec: Any, where: NDArray | None) -> Encoding:
        """`values` as `spec` says; only those where the mask `where` is set, if there is one.

        Raises:
            ValueError: the values are not what `spec` says.
        """
