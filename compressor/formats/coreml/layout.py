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
from typing import Any

import numpy as np

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

_TO_BLOCKS = (502, 2, 2, 3, 2)
"""Model.mlProgram, its functions, and their specializations: entries of maps, whose values are their field 2."""

_OPERATIONS, _BLOCKS = 3, 4  # Block.operations, Operation.blocks

Span = tuple[int, int]
"""Where something begins and ends."""


@dataclass(frozen=True, eq=False)
class InProgram:
    """A weight in a block. output: what it is called there. span: where its operations lie in the model's file."""

    output: str
    span: Span


@dataclass(frozen=True, eq=False)
class InPackage:
    """Where a weight lies.

    folder: of the package. version: of the specification. output: what it is called where it is first.
    blobs: where the file of blobs ends before and behind its own. uses: its operations, once for each site.
    """

    folder: str
    version: int
    output: str
    blobs: Span
    uses: Sequence[InProgram]

    def write(self, directory: Path, encoding: Encoding) -> None:
        put(directory, self._pieces(encoding))

    def _pieces(self, encoding: Encoding) -> Iterator[Piece]:
        start, end = self.blobs
        blobs = Blobs(start)
        made = lowering.lower(self.output, encoding, self.version, blobs)
        yield from blobs.data(f"{self.folder}/{package.WEIGHTS}")
        for use in self.uses:
            same = made if use.output == self.output else lowering.renamed(made, self.output, use.output)
            content, (begin, stop) = _in_block(same), use.span
            if (blobs.end, len(content)) != (end, stop - begin):
                raise CompressorError(
                    f"{use.output!r}: expected {stop - begin} bytes in the program and {end - start} of blobs, "
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
    places = {one.name: InPackage(folder, version, one.sites[0].output, one.blobs, uses[one.name]) for one in lowered}
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
    """A weight in a program: its sites, the numbers of their blocks, its operations at each, where its blobs lie."""

    name: str
    sites: Sequence[Site]
    blocks: Sequence[int]
    operations: Sequence[Sequence[Any]]
    blobs: Span


def _lowered(
    model: Any, skeleton: Skeleton, specs: Mapping[str, Encoding], version: int, blobs: Blobs
) -> list[_Lowered]:
    """The weights, which are put in the place of the model's stubs."""
    sites: dict[int, list[tuple[int, Site]]] = defaultdict(list)
    for number, scope in enumerate(scopes(model.mlProgram)):
        for operation in scope.block.operations:
            if operation.type == STUB:
                sites[index_of(operation)].append((number, scope.site(operation.outputs[0].name)))
    made = []
    for index, (name, spec) in zip(sorted(sites), specs.items(), strict=True):
        if skeleton.names[index] != name:
            raise CompressorError(f"weight {name!r} came where {skeleton.names[index]!r} was planned.")
        numbers, places = zip(*sites[index], strict=True)
        first, start = places[0].output, blobs.end
        own = lowering.lower(first, spec, version, blobs)
        each = [own if site.output == first else lowering.renamed(own, first, site.output) for site in places]
        made.append(_Lowered(name, places, numbers, each, (start, blobs.end)))
    substitute(
        model.mlProgram, {site: own for one in made for site, own in zip(one.sites, one.operations, strict=True)}
    )
    return made


def _uses(model: Any, content: bytes, lowered: Sequence[_Lowered]) -> dict[str, list[InProgram]]:
    """Where the operations of each weight lie in the serialized model."""
    first: dict[tuple[int, str], tuple[str, str, int]] = {}
    for one in lowered:
        for number, site, operations in zip(one.blocks, one.sites, one.operations, strict=True):
            first[number, operations[0].outputs[0].name] = one.name, site.output, len(operations)
    found: dict[str, list[InProgram]] = {one.name: [] for one in lowered}
    for number, (scope, spans) in enumerate(zip(scopes(model.mlProgram), _blocks(content), strict=True)):
        for place, operation in enumerate(scope.block.operations):
            outputs = operation.outputs
            if outputs and (number, outputs[0].name) in first:
                name, output, count = first[number, outputs[0].name]
                found[name].append(InProgram(output, (spans[place][0], spans[place + count - 1][1])))
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
