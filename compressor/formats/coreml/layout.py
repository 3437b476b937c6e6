"""Packages as layouts: the program refers to each blob by its place, and both follow from the weights' specs.

A small part of a weight lies in the program itself, inside of the operations that decode it. So these are written with
the weight: they take as many bytes for any data.

Source: Core ML Tools, Model.proto and MIL.proto (field numbers).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compressor.arrays import Shape
from compressor.encodings import Encoding
from compressor.errors import CompressorError
from compressor.formats.coreml import lowering, package, values
from compressor.formats.coreml.blob import Blobs, Stored
from compressor.formats.coreml.importing import messages
from compressor.formats.coreml.programs import Site, scopes, substitute
from compressor.formats.coreml.skeleton import DATES, STUB, Skeleton, index_of
from compressor.formats.coreml.types import BY_NUMBER
from compressor.formats.layout import FileLayout, Piece, around, put
from compressor.formats.wire import runs
from compressor.reshaping import with_shape

_TO_BLOCKS = (502, 2, 2, 3, 2)
"""Model.mlProgram, its functions, and their specializations: entries of maps, whose values are their field 2."""

_OPERATIONS, _BLOCKS = 3, 4  # Block.operations, Operation.blocks

Span = tuple[int, int]
"""Where something begins and ends."""


class Named(NamedTuple):
    """What a weight is called somewhere in a program, and the shape that it has there."""

    output: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class InProgram:
    """A weight in a block. site: what it is called there. span: where its operations lie in the model's file."""

    site: Named
    span: Span


@dataclass(frozen=True, eq=False)
class InPackage:
    """Where a weight lies.

    folder: of the package. version: of the specification.
    blobs: where the file of blobs ends before and behind its own. uses: its operations, once for each site.
    """

    folder: str
    version: int
    blobs: Span
    uses: Sequence[InProgram]

    def write(self, directory: Path, encoding: Encoding) -> None:
        put(directory, self._pieces(encoding))

    def _pieces(self, encoding: Encoding) -> Iterator[Piece]:
        start, end = self.blobs
        blobs = Blobs(start)
        made = _operations([use.site for use in self.uses], encoding, self.version, blobs)
        yield from blobs.data(f"{self.folder}/{package.WEIGHTS}")
        for use, operations in zip(self.uses, made, strict=True):
            content, (begin, stop) = _in_block(operations), use.span
            if (blobs.end, len(content)) != (end, stop - begin):
                raise CompressorError(
                    f"{use.site.output!r}: expected {stop - begin} bytes in the program and {end - start} of blobs, "
                    f"got {len(content)} and {blobs.end - start}."
                )
            yield Piece(f"{self.folder}/{package.MODEL}", begin, content)


@dataclass(frozen=True, eq=False)
class PackageLayout(FileLayout):
    """A package before its weights are there.

    folder: of the package. skeleton: what it is made of. copied: by where a constant that is no weight lies in the
    skeleton's files, where its metadata begin in the package's own.
    """

    folder: str
    skeleton: Skeleton
    copied: Mapping[tuple[str, int], int]

    def check(self, directory: Path) -> None:
        """Compare what is no weight with what was written, and the constants, as a reader has them, with their source.

        Raises:
            CompressorError: they are not the same.
        """
        super().check(directory)
        read = package.read(directory / self.folder)
        for constant in values.in_files(self.skeleton.model.mlProgram):
            written = messages("MIL").Value()
            written.CopyFrom(constant)
            _move(written, self.copied)
            expected, got = (values.elements(*each) for each in ((constant, self.skeleton.files), (written, read)))
            assert expected is not None
            assert got is not None
            if np.asarray(expected).tobytes() != np.asarray(got).tobytes():
                raise CompressorError(
                    f"{directory / self.folder}: the constant {got.dtype}{list(got.shape)} at "
                    f"{written.blobFileValue.offset}, read back, is not that of the model. Nothing was published."
                )


def layout(
    folder: str, skeleton: Skeleton, specs: Mapping[str, Encoding], version: int, texts: Mapping[str, str]
) -> FileLayout:
    """Where everything of the package `folder` lies: other constants first, then weight by weight.

    specs: of each weight that the program has, by name, in the order of `skeleton.names`.
    texts: what the model says about itself.

    Raises:
        CompressorError: a weight came out of order.
    """
    model = messages("Model").Model()
    model.CopyFrom(skeleton.model)
    _describe(model, texts)
    blobs, in_weights = Blobs(), f"{folder}/{package.WEIGHTS}"
    copied = _copy_constants(model, skeleton, blobs)
    constants = [*blobs.data(in_weights)]
    lowered = _lowered(model, skeleton, specs, version, blobs)
    content = model.SerializeToString(deterministic=True)
    uses = _uses(model, content, lowered)
    manifest = package.manifest(weights=bool(blobs.stored)).encode()
    files = {f"{folder}/{package.MANIFEST}": len(manifest), f"{folder}/{package.MODEL}": len(content)}
    rest = [Piece(f"{folder}/{package.MANIFEST}", 0, manifest)]
    rest += around(f"{folder}/{package.MODEL}", content, (use.span for each in uses.values() for use in each))
    if blobs.stored:
        files[in_weights] = blobs.end
        rest += [*blobs.metadata(in_weights), *constants]
    places = {one.name: InPackage(folder, version, one.blobs, uses[one.name]) for one in lowered}
    return PackageLayout(files, rest, places, folder, skeleton, copied)


def _describe(model: Any, texts: Mapping[str, str]) -> None:
    said = model.description.metadata.userDefined
    for key in DATES:
        said.pop(key, None)
    for key, text in texts.items():
        said[key] = text


def _copy_constants(model: Any, skeleton: Skeleton, blobs: Blobs) -> dict[tuple[str, int], int]:
    """Let the constants that are no weights lie in the model's own blobs; where, by where they were."""
    copied: dict[tuple[str, int], int] = {}
    for constant in values.in_files(model.mlProgram):
        where, type_ = constant.blobFileValue, BY_NUMBER[constant.type.tensorType.dataType]
        place = where.fileName, where.offset
        if place not in copied:  # functions may share one
            array = values.elements(constant, skeleton.files)
            assert array is not None
            copied[place] = blobs.append(Stored(type_, tuple(array.shape), array, type_.bits))
        _move(constant, copied)
    return copied


def _move(constant: Any, copied: Mapping[tuple[str, int], int]) -> None:
    where = constant.blobFileValue
    where.offset = copied[where.fileName, where.offset]
    where.fileName = values.WEIGHT_FILE


@dataclass(frozen=True, eq=False)
class _Lowered:
    """A weight in a program: its sites, what it is there, the numbers of their blocks, its operations, its blobs."""

    name: str
    sites: Sequence[Site]
    named: Sequence[Named]
    blocks: Sequence[int]
    operations: Sequence[Sequence[Any]]
    blobs: Span


def _lowered(
    model: Any, skeleton: Skeleton, specs: Mapping[str, Encoding], version: int, blobs: Blobs
) -> list[_Lowered]:
    """The weights, which are put in the place of the model's stubs."""
    sites: dict[int, list[tuple[int, Site, Named]]] = defaultdict(list)
    for number, scope in enumerate(scopes(model.mlProgram)):
        for operation in scope.block.operations:
            if operation.type == STUB:
                output, known = operation.outputs[0], values.declared(operation.outputs[0].type)
                assert known is not None
                where = number, scope.site(output.name), Named(output.name, known[1])
                sites[index_of(operation)].append(where)
    made = []
    for index, (name, spec) in zip(sorted(sites), specs.items(), strict=True):
        if skeleton.names[index] != name:
            raise CompressorError(f"weight {name!r} came where {skeleton.names[index]!r} was planned.")
        start, numbers = blobs.end, [number for number, _, _ in sites[index]]
        places, named = [site for _, site, _ in sites[index]], [one for _, _, one in sites[index]]
        each = _operations(named, spec, version, blobs)
        made.append(_Lowered(name, places, named, numbers, each, (start, blobs.end)))
    substitute(
        model.mlProgram, {site: own for one in made for site, own in zip(one.sites, one.operations, strict=True)}
    )
    return made


def _operations(sites: Sequence[Named], encoding: Encoding, version: int, blobs: Blobs) -> list[Sequence[Any]]:
    """What computes a weight at each of its sites, of one and the same blobs.

    Raises:
        CompressorError: its form is none under the shape that it has at one of them.
    """
    start, first = blobs.end, sites[0].output
    by_shape: dict[Shape, Sequence[Any]] = {}
    for dims in dict.fromkeys(site.shape for site in sites):
        known = with_shape(encoding, dims)
        if known is None:
            raise CompressorError(f"{first!r}: its form is none under the shape {list(dims)}.")
        # Under another shape the same parts are asked for in the same order, so they lie where they were put.
        by_shape[dims] = lowering.lower(first, known, version, Blobs(start) if by_shape else blobs)
    return [
        by_shape[dims] if output == first else lowering.renamed(by_shape[dims], first, output) for output, dims in sites
    ]


def _uses(model: Any, content: bytes, lowered: Sequence[_Lowered]) -> dict[str, list[InProgram]]:
    """Where the operations of each weight lie in the serialized model."""
    first: dict[tuple[int, str], tuple[str, Named, int]] = {}
    for one in lowered:
        for number, named, operations in zip(one.blocks, one.named, one.operations, strict=True):
            first[number, operations[0].outputs[0].name] = one.name, named, len(operations)
    found: dict[str, list[InProgram]] = {one.name: [] for one in lowered}
    for number, (scope, spans) in enumerate(zip(scopes(model.mlProgram), _blocks(content), strict=True)):
        for place, operation in enumerate(scope.block.operations):
            outputs = operation.outputs
            if outputs and (number, outputs[0].name) in first:
                name, named, count = first[number, outputs[0].name]
                found[name].append(InProgram(named, (spans[place][0], spans[place + count - 1][1])))
    return found


def _blocks(content: bytes) -> Iterator[list[Span]]:
    """Where the operations of each block of a serialized model lie, blocks in the order of `scopes`."""
    spans = [(0, len(content))]
    for number in _TO_BLOCKS:
        spans = [(start, end) for outer in spans for _, start, end in runs(content, *outer, number)]
    for span in spans:
        yield from _nested(content, span)


def _nested(content: bytes, block: Span) -> Iterator[list[Span]]:
    operations = [*runs(content, *block, _OPERATIONS)]
    yield [(begin, end) for begin, _, end in operations]
    for _, start, end in operations:
        for _, *inner in runs(content, start, end, _BLOCKS):
            yield from _nested(content, (inner[0], inner[1]))


def _in_block(operations: Sequence[Any]) -> bytes:
    """Operations as they lie in a block, one after the other."""
    made = messages("MIL").Block(operations=operations)
    return bytes(made.SerializeToString(deterministic=True))
