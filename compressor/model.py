"""A model: a graph, and the weights that it names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from compressor.encodings import Concatenated, Whole, shape
from compressor.errors import CompressorError
from compressor.weight import Copy, Weight

if TYPE_CHECKING:
    import onnx

    from compressor.formats.coreml.skeleton import Skeleton


class Stamp(NamedTuple):
    """What tells one state of a file from another. modified: in nanoseconds."""

    device: int
    inode: int
    nbytes: int
    modified: int


Stamps = Mapping[Path, Stamp]
"""The state in which each file was found."""


UNTRACED = "compressor.untraced"
"""The key in the metadata of why there is no traced module beside a graph that was exported from torch."""


FOLDED = "compressor.folded"
"""The key in the metadata of which weights, as a JSON list, were multiplied with a batch norm."""


TIED = "compressor.tied."
"""What keys in the metadata begin with that say, by a name that the source has too, which of the weights it is."""

SPLIT = "compressor.split"
"""The key in the metadata of which weights are several, as a JSON object: the axis, and where each part of it ends."""


@dataclass(frozen=True, eq=False)
class Model:
    """A graph whose constants are the weights.

    path: the file that it was read from.
    weights: in the order of the graph.
    graph: an `onnx.ModelProto` in which each weight is an initializer of its name, dtype and shape without data, read
        as a plain tensor: whatever decoding the source had is in `Weight.encoding`. Or the `Skeleton` of a Core ML
        package. None for weights alone.
    metadata: what this package wrote about itself when it wrote the file; keys begin with `compressor.`.
    traced: the path of the same module, traced by torch, whose parameters have no values; None where there is none.
    source: the model that it was made of, where a target has one in another way (`Weight.origin`).
    copies: by their names in the source, constants that hold what one of the weights holds: no weights of their own.
    notes: what there is to say of the model as a whole: what was translated in another way than one expects.
    files: those that the model consists of, in the order in which they are read: `path` alone if none are given.
    stamps: every file that is read for it, `files` among them, as they were before; none for what lies in memory.
    """

    path: Path
    weights: Sequence[Weight]
    graph: onnx.ModelProto | Skeleton | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    stamps: Stamps = field(default_factory=dict)
    traced: Path | None = None
    source: Model | None = None
    copies: Mapping[str, Copy] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (self.path,))

    @property
    def onnx(self) -> onnx.ModelProto | None:
        """The graph where it is one of ONNX."""
        # Known by what it has: the classes of either kind are imported where there is one.
        return cast("onnx.ModelProto | None", self.graph if hasattr(self.graph, "ir_version") else None)

    @property
    def aliases(self) -> dict[str, str]:
        """The other names that weights have in the source, each with its weight's."""
        copies = {name: copy.weight for name, copy in self.copies.items()}
        tied = {key.removeprefix(TIED): name for key, name in self.metadata.items() if key.startswith(TIED)}
        known = {weight.name for weight in self.weights}
        return {name: copies.get(of, of) for name, of in tied.items() if copies.get(of, of) in known} | copies


def part_name(weight: str, start: int, end: int) -> str:
    """What a part of a weight is called that became a weight of its own.

    >>> part_name("qkv.weight", 0, 256)
    'qkv.weight[0:256]'
    """
    return f"{weight}[{start}:{end}]"


def joined(model: Model) -> list[Weight]:
    """The weights, those whose parts are several weights in the model as one, where the first of them is."""
    weights = {weight.name: weight for weight in model.weights}
    try:
        said = [(name, int(axis), [*map(int, ends)]) for name, (axis, *ends) in _split(model).items()]
    except (ValueError, TypeError, AttributeError, RecursionError):  # whoever wrote that: it is a note
        return [*model.weights]
    whole: dict[str, Weight] = {}
    for name, axis, ends in said:
        names = [part_name(name, *span) for span in pairwise([0, *ends])]
        if name in weights or len(names) < 2 or not weights.keys() >= {*names}:
            continue
        try:
            form = Concatenated(tuple(cast("Whole", weights[one].encoding) for one in names), axis)
        except ValueError:
            continue
        if [shape(part)[axis] for part in form.parts] == [end - start for start, end in pairwise([0, *ends])]:
            whole |= dict.fromkeys(names, replace(weights[names[0]], name=name, encoding=form))
    return [*dict.fromkeys(whole.get(weight.name, weight) for weight in model.weights)]


def _split(model: Model) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(model.metadata.get(SPLIT, "{}"))
    return found


def stamps(files: Iterable[Path]) -> Stamps:
    """The files as they are now.

    Raises:
        CompressorError: one cannot be looked at.
    """
    found = {}
    for file in files:
        try:
            state = file.stat()
        except OSError as error:
            raise CompressorError(f"{file}: cannot be read: {error.strerror}.") from error
        found[file] = Stamp(state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return found


@contextmanager
def unchanged(found: Stamps) -> Iterator[None]:
    """A block that needs the files to stay as they were found: what it reads at two moments is of one model.

    Raises:
        CompressorError: one has changed, which also explains whatever error the block ended with.
    """
    try:
        yield
    except Exception as error:
        _compare(found, error)
        raise
    _compare(found, None)


def _compare(found: Stamps, cause: Exception | None) -> None:
    for file, before in found.items():
        try:
            now = stamps([file])[file]
        except CompressorError:
            now = None
        if now != before:
            happened = "is gone" if now is None else "was replaced" if now[:2] != before[:2] else "was written to"
            raise CompressorError(
                f"{file}: {happened} while it was read: what was made of it is discarded. Wait until it is complete, "
                "and run the command again."
            ) from cause
