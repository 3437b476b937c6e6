"""Core ML packages: a manifest, a model, and files of blobs.

Source: Model.proto, MIL.proto (field numbers); the layout of weight.bin is that of `formats/coreml/blob.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.accounting.account import Claim, Found, What
from compressor.accounting.files import opened
from compressor.accounting.known import Known, known
from compressor.accounting.messages import Run, delimited, entry, fields, first_text, inside, text
from compressor.errors import CompressorError, plural
from compressor.formats.coreml import blob, package, skeleton
from compressor.formats.coreml.programs import CONSTEXPR
from compressor.formats.wire import FileBytes, WireError

_PROGRAM = 502
_MOST_DEPTH = 100  # protobuf's own limit


@dataclass
class _Program:
    """What is read of a program on the way: its file, the weights, what blobs are for, how weights are spelled.

    parts: by the name of a constant that `constexpr` operations read, what these give.
    """

    file: str
    data: FileBytes
    known: Known
    blobs: dict[tuple[str, int], str] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def weight(self, gives: str) -> str | None:
        """The weight that a constant is, or is a part of."""
        for _ in range(_MOST_DEPTH):
            weight = self.known.named((self.spelled.get(gives, gives),))
            if weight is not None or gives not in self.parts:
                return weight
            gives = self.parts[gives]
        return None


def claim(path: Path, found: Found) -> None:
    """Claim every byte of the package `path` that its model is or refers to.

    Raises:
        CompressorError: it is no package, or its model is cut off.
        OSError: a file cannot be read.
    """
    from compressor.sources import coreml

    model = package.model_file(path)
    manifest = found.add(path / package.MANIFEST)
    found.claims.append(Claim(manifest, 0, found.files[manifest], What.CONTAINER, "the package's manifest"))
    read_as = known(lambda: coreml.read(path), found.notes) or Known()
    name = found.add(model)
    try:
        with opened(model) as data:
            made = _Program(name, data, read_as)
            found.claims.extend(_model(made, len(data)))
    except WireError as error:
        raise CompressorError(f"{model}: not a Core ML model, or truncated: {error}.") from error
    for file in sorted({file for file, _ in made.blobs} | {f"weights/{one.name}" for one in _others(model.parent)}):
        weights = model.parent / file
        if weights.is_file() and weights.resolve().is_relative_to(path.resolve()):
            _weights(weights, file, made, found)
        else:
            found.notes.append(f"the weights' file {file} is missing or outside of the package: not counted")


def _others(folder: Path) -> Iterator[Path]:
    return (folder / "weights").glob("*.bin")


def _model(made: _Program, nbytes: int) -> Iterator[Claim]:
    for run in fields(made.data, 0, nbytes):
        if run.number == 2 and run.value is None:
            made.spelled.update(_spelled(made.data, run))
            yield Claim(made.file, run.begin, run.end, What.NAMES, "description and metadata")
        elif run.number == _PROGRAM and run.value is None:
            yield Claim(made.file, run.begin, run.end, What.NODES, "program")
            yield from _program(made, run)
        elif run.end - run.begin > 64:
            yield Claim(made.file, run.begin, run.end, What.UNREADABLE, "a model that is no ML Program")
        else:
            yield Claim(made.file, run.begin, run.end, What.NAMES, "versions")


def _spelled(data: FileBytes, description: Run) -> dict[str, str]:
    """How the program calls weights, where this package has written it."""
    metadata = (one for one in delimited(data, description) if one.number == 100)
    said = (entry(data, one) for each in metadata for one in delimited(data, each) if one.number == 100)
    try:
        return skeleton.names_of(dict(said).get(skeleton.NAMES, "[]"))
    except (ValueError, TypeError, RecursionError):
        return {}


def _program(made: _Program, run: Run) -> Iterator[Claim]:
    for one in delimited(made.data, run):
        if one.number == 2:
            for body in _map_values(made.data, one):
                for each in delimited(made.data, body):
                    if each.number == 3:
                        for block in _map_values(made.data, each):
                            yield from _block(made, block, 0)
                    elif each.number == 1:
                        yield Claim(made.file, each.begin, each.end, What.NAMES, "inputs and outputs")
        elif one.number in {3, 4}:
            yield Claim(made.file, one.begin, one.end, What.NAMES, "documentation and properties")


def _map_values(data: FileBytes, run: Run) -> Iterator[Run]:
    return (one for one in delimited(data, run) if one.number == 2)


def _block(made: _Program, run: Run, depth: int) -> Iterator[Claim]:
    if depth > _MOST_DEPTH:
        raise WireError(f"blocks inside of blocks, deeper than {_MOST_DEPTH}")
    _note_parts(made, run)
    for one in delimited(made.data, run):
        if one.number == 3:
            yield from _operation(made, one, depth)
        elif one.number in {1, 2}:
            yield Claim(made.file, one.begin, one.end, What.NAMES, "inputs and outputs")


def _operation(made: _Program, run: Run, depth: int) -> Iterator[Claim]:
    parts = [*delimited(made.data, run)]
    kind, gives = _described(made, parts)
    decodes = kind.startswith(CONSTEXPR)
    yield Claim(made.file, run.begin, run.end, What.DECODING if decodes else What.NODES, kind)
    for one in parts:
        if one.number == 3:
            types = (each for each in inside(made.data, one) if each.number == 2)
            yield from (Claim(made.file, each.begin, each.end, What.NAMES, "types of values") for each in types)
        elif one.number == 4:
            yield from _block(made, one, depth + 1)
        elif one.number == 2:
            yield from _given(made, one, gives)
        elif one.number == 5:
            yield from _attribute(made, one, kind, gives)


def _described(made: _Program, parts: Sequence[Run]) -> tuple[str, str]:
    """The type of an operation, and the name of its first output."""
    kind = next((text(made.data, one) for one in parts if one.number == 1), "")
    return kind, next((first_text(made.data, one, 1) for one in parts if one.number == 3), "")


def _note_parts(made: _Program, block: Run) -> None:
    """Find out which constants the weights of a block are made of; they stand before what reads them."""
    for operation in (one for one in delimited(made.data, block) if one.number == 3):
        parts = [*delimited(made.data, operation)]
        kind, gives = _described(made, parts)
        for given in (one for one in parts if one.number == 2 and kind.startswith(CONSTEXPR)):
            for argument in _map_values(made.data, given):
                made.parts.update((first_text(made.data, one, 1), gives) for one in delimited(made.data, argument))


def _given(made: _Program, run: Run, gives: str) -> Iterator[Claim]:
    """Constants that stand where an operation reads them."""
    for argument in _map_values(made.data, run):
        for binding in delimited(made.data, argument):
            for value in _map_values(made.data, binding):
                yield from _value(made, value, gives)


def _attribute(made: _Program, run: Run, kind: str, gives: str) -> Iterator[Claim]:
    key = first_text(made.data, run, 1)
    if key == "name":
        yield Claim(made.file, run.begin, run.end, What.NAMES, "names of operators")
        return
    yield Claim(made.file, run.begin, run.end, What.ATTRIBUTES, f"{kind}.{key}")
    for held in _map_values(made.data, run):
        yield from _value(made, held, gives)


def _value(made: _Program, run: Run, gives: str) -> Iterator[Claim]:
    """A constant: what stands in the program, or where its blob is."""
    for one in delimited(made.data, run):
        if one.number == 2:
            yield Claim(made.file, one.begin, one.end, What.NAMES, "types of values")
        elif one.number == 3:
            weight = made.weight(gives)
            what = What.CONSTANTS if weight is None else What.WEIGHTS
            yield Claim(made.file, one.begin, one.end, what, weight or gives, made.known.forms.get(weight or "", ""))
        elif one.number == 5:
            where = [*inside(made.data, one)]
            file = next((text(made.data, each) for each in where if each.number == 1 and each.value is None), "")
            offset = next((each.value or 0 for each in where if each.number == 2), 0)
            made.blobs.setdefault((file.removeprefix("@model_path/"), offset), gives)


def _weights(path: Path, file: str, made: _Program, found: Found) -> None:
    """Claim the blobs of a file, in their order; those that the program does not refer to are of no use."""
    name = found.add(path)
    with opened(path) as data:
        found.claims.append(Claim(name, 0, min(blob.ALIGNMENT, len(data)), What.CONTAINER, "header"))
        blobs = [*blob.blobs(data)]
        if lost := {offset for of, offset in made.blobs if of == file} - {start for start, _, _ in blobs}:
            found.notes.append(f"{name}: the program refers to {plural(len(lost), 'blob')} that the file does not have")
        for start, begin, end in blobs:
            used = made.blobs.get((file, start))
            weight = made.known.at(path, begin) or made.weight(used or "")
            found.claims.append(Claim(name, start, start + blob.ALIGNMENT, What.CONTAINER, "headers of blobs"))
            if used is None:
                found.claims.append(Claim(name, begin, end, What.UNREFERENCED, "blobs that the program does not read"))
            elif weight is None:
                found.claims.append(Claim(name, begin, end, What.CONSTANTS, used))
            else:
                found.claims.append(Claim(name, begin, end, What.WEIGHTS, weight, made.known.forms[weight]))
