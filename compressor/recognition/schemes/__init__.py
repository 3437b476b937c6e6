"""Schemes: each recognises one kind of compression in a weight's values, and encodes it.

`linear_quantize` and `palettize` describe values: each is a `Scheme`, and so is what other packages add by entry
points. `sparsify` is none: it takes what the others describe, and stores it for the non-zeros alone, so its `detect`
has their candidates as an argument and its `encode` a function that encodes what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from compressor.arrays import NDArray
from compressor.encodings import Encoding, Values
from compressor.recognition.scan import Scan
from compressor.registry import Registry

S = TypeVar("S", bound=Values)


@dataclass(frozen=True)
class Loss:
    """How a form differs from its source: not at all, unless it was asked for.

    threshold: magnitudes up to this become zero; 0.0 where only exact zeros are left out.
    changed: how many values are not the source's, -0.0 aside: zero by the threshold, or moved within the tolerance.
    max_error: how far a value that the threshold leaves may be from the source's.
    """

    threshold: float = 0.0
    changed: int = 0
    max_error: float = 0.0


EXACT = Loss()


@dataclass(frozen=True)
class Candidate:
    """One way to store a weight.

    schemes: those that take part, outermost first; none for the form that the source has. The last one, unless that is
        `sparsify`, describes the values: it is asked to encode them.
    spec: the encoding as array specs: all that `encode` needs to know.
    evidence: what it was recognised by, for a reader.
    loss: how it differs from the source.
    structure: of the zeros of a sparse form: `unstructured`, `2:4 along axis 1`, ...
    parts: of a concatenation, the forms of its parts; they say by which schemes each is encoded.
    width: the bits that codes need, where their type has more; 0 for those of its own.
    """

    schemes: tuple[str, ...]
    spec: Encoding
    evidence: str
    loss: Loss = EXACT
    structure: str = ""
    parts: tuple[Candidate, ...] = ()
    width: int = 0


class Scheme(Protocol[S]):
    """What the module of a scheme that describes values has. All of it is pure."""

    NAME: str

    def detect(self, values: NDArray, scan: Scan, best: float) -> Iterator[Candidate]:
        """The ways in which this scheme can store `values` exactly.

        scan: the facts of one pass over the values.
        best: the bytes of the smallest form known so far; a search that cannot beat it may be left out.
        """

    def nearest(self, values: NDArray, tolerance: float) -> NDArray | None:
        """The nearest weight that this scheme tells from noise and can store, no value farther away than `tolerance`.

        The greatest distance, taken as the tolerance, leads to the same weight.
        """

    def encode(self, values: NDArray, spec: S, where: NDArray | None) -> S:
        """`values` as `spec` says; only those where the mask `where` is set, if there is one.

        Raises:
            ValueError: the values are not what `spec` says.
        """


_REGISTRY = Registry(
    group="compressor.schemes",
    folder=__name__,
    needs=("NAME", "detect", "nearest", "encode"),
    known_as=lambda scheme: (f"the scheme {scheme.NAME!r}",),
)


def describing() -> tuple[Scheme[Any], ...]:
    """All schemes, in the order in which they look at a weight."""
    return _REGISTRY.parts()


def packages() -> frozenset[str]:
    """The packages of schemes that are not this one's."""
    return _REGISTRY.packages()


def get(name: str) -> Scheme[Any]:
    """The scheme of that name.

    Raises:
        ValueError: there is none.
    """
    found = next((scheme for scheme in describing() if name == scheme.NAME), None)
    if found is None:
        raise ValueError(f"there is no scheme {name!r}")
    return found


if TYPE_CHECKING:  # what is here has what a scheme of another package must have
    from compressor.recognition.schemes import linear_quantize, palettize

    _: tuple[Scheme[Any], ...] = (linear_quantize, palettize)
