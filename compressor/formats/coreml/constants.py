"""The inverse of `lowering.lower`, for any program: its constants, read as the encodings that they are stored as."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.arrays import Array, MappedArray, NarrowArray, Shape
from compressor.encodings import Encoding, arrays, shape, spec
from compressor.errors import CompressorError
from compressor.formats.coreml import values
from compressor.formats.coreml.constexprs import Tree, UnliftableError
from compressor.formats.coreml.negative_zeros import shown_zeros
from compressor.formats.coreml.programs import CONSTEXPR, Scope, Site, readers, scopes
from compressor.formats.coreml.types import WEIGHT_DTYPES
from compressor.formats.coreml.values import Files
from compressor.reshaping import with_shape
from compressor.weight import Weight


@dataclass(frozen=True, eq=False)
class Constants:
    """The constants of a program.

    weights: in the order of the program; the name of the first site, behind its function's where several have it, and
        the shape that it has there.
    sites: by a weight's name, where it is; more than one where functions or values share what is stored.
    opaque: by name, the constants that no encoding describes, and why.
    """

    weights: tuple[Weight, ...]
    sites: Mapping[str, tuple[Site, ...]]
    opaque: Mapping[str, str]


def lift(program: Any, files: Files) -> Constants:
    """Every float constant of one or more axes, and everything that `constexpr` operations compute.

    Raises:
        CompressorError: what is stored is missing, or contradicts what the program declares.
    """
    read = readers(program)
    by_storage, encodings, opaque = _stored(program, files, read)
    dims = _shapes(program)
    shown = shown_zeros(program, files)

    def weight(name: str, storage: bytes) -> Weight:
        sites = by_storage[storage]
        kinds = {kind for site in sites for kind in read[site.function, site.opset, site.output] if kind}
        signed = next(filter(None, map(shown, sites)), "")
        shapes = tuple(dict.fromkeys(dims[site] for site in sites))[1:]
        return Weight(name, encodings[storage], tuple(sorted(kinds)), signed=signed, shapes=shapes)

    named = _named(by_storage)
    sites = {name: tuple(by_storage[storage]) for name, storage in named.items()}
    return Constants(tuple(weight(*one) for one in named.items()), sites, opaque)


def _stored(
    program: Any, files: Files, read: Mapping[tuple[str, str, str], set[str]]
) -> tuple[dict[bytes, list[Site]], dict[bytes, Encoding], dict[str, str]]:
    """The sites and the encoding of everything that is stored, by what tells it apart; by name, why some is none."""
    by_storage: dict[bytes, list[Site]] = defaultdict(list)
    encodings: dict[bytes, Encoding] = {}
    opaque: dict[str, str] = {}
    for scope in scopes(program):
        for operation in scope.block.operations:
            name = _weight_of(scope, operation, read)
            if name is None:
                continue
            tree, site = Tree(scope, files), scope.site(name)
            try:
                # Equal constants inside the program are as many weights; those in files are told apart by their places.
                storage = tree.storage(operation) if tree.in_file(operation) else repr(site).encode()
                weight = tree.weight(operation)
                if not _is(encodings.setdefault(storage, weight), weight):  # parts that another shape reads otherwise
                    storage += repr(shape(weight)).encode()
                    encodings.setdefault(storage, weight)
            except UnliftableError as error:
                opaque[name] = str(error)
                continue
            except (ValueError, IndexError, KeyError, RecursionError) as error:
                raise CompressorError(f"weight {name!r}: its stored parts do not fit together: {error}.") from error
            by_storage[storage].append(site)
    return by_storage, encodings, opaque


def _is(weight: Encoding, other: Encoding) -> bool:
    """Whether an encoding is the same one, but for its shape."""
    found = with_shape(weight, shape(other))
    if found is None or spec(found) != spec(other):
        return False
    return all(_are(*pair) for pair in zip(arrays(found), arrays(other), strict=True))


def _are(one: Array, another: Array) -> bool:
    if isinstance(one, NarrowArray) and isinstance(another, NarrowArray):
        return _are(one.values, another.values)
    if isinstance(one, MappedArray):
        return one == another
    return np.asarray(one).tobytes() == np.asarray(another).tobytes()


def _shapes(program: Any) -> dict[Site, Shape]:
    """What each site of a known type has for a shape."""
    found: dict[Site, Shape] = {}
    for scope in scopes(program):
        for operation in scope.block.operations:
            for output in operation.outputs:
                if (known := values.declared(output.type)) is not None:
                    found[scope.site(output.name)] = known[1]
    return found


def _named(by_storage: Mapping[bytes, list[Site]]) -> dict[str, bytes]:
    """What is stored, by a name that no other has."""
    named: dict[str, bytes] = {}
    for storage, (first, *_) in by_storage.items():
        name = first.output
        if name in named:
            name = "/".join([first.function, *(f"{place}.{block}" for place, block in first.path), first.output])
        named[f"{first.opset}/{name}" if name in named else name] = storage
    return named


def _weight_of(scope: Scope, operation: Any, read: Mapping[tuple[str, str, str], set[str]]) -> str | None:
    """The name of the weight that an operation gives; None if it gives none, or a part of another weight's storage."""
    if operation.type != "const" and not operation.type.startswith(CONSTEXPR):
        return None
    for output in operation.outputs:
        known = values.declared(output.type)
        if known is None or known[0].dtype not in WEIGHT_DTYPES or not known[1]:
            continue
        by = read.get((scope.function, scope.opset, output.name), set())
        if any(not kind.startswith(CONSTEXPR) for kind in by):
            return str(output.name)
    return None
