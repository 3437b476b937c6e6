"""Where models run: each module is a `Family` of targets. A new one is a new file, or an entry point elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.encodings import Encoding, spec
from compressor.errors import UsageError, unknown
from compressor.formats.layout import Part
from compressor.model import Model
from compressor.recognition.findings import Settings
from compressor.registry import Registry
from compressor.targets.session import Session
from compressor.weight import Weight

DEFAULT = "onnxruntime"
"""The target of whoever names none."""


class Illegal(Exception):  # noqa: N818 - a refusal that plans record, not an error
    """A target cannot hold an encoding. reason: why, for the plan. instead: the same value as it could be held."""

    def __init__(self, reason: str, instead: Encoding | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.instead = instead


class Asked(Protocol):
    """What is asked of a model, as far as fitting it must know."""

    def settings_of(self, weight: Weight) -> Settings:
        """Those of a look at a weight."""

    def schemes(self, weight: Weight) -> frozenset[str]:
        """Those that may take part in storing a weight, by name."""

    def smallest(self, weight: Weight) -> Encoding:
        """The smallest form of a weight on the target, by a sample of its values: a spec."""


@dataclass(frozen=True)
class Fitted:
    """A model as a runtime has it.

    target: the runtime, which also refuses what the model's graph has no room for.
    model: its weights moved, folded, rounded; the very weights of the source where nothing changes.
    """

    target: Target
    model: Model


@dataclass(frozen=True)
class Together:
    """The forms of all weights of a model beside each other; nothing where each weight is decoded by itself.

    misfits: the weights that cannot have theirs beside those of the others, by name, with the reason.
    alike: others of the same values, which some weights have because others have theirs, by name, with the reason.
    notes: what there is to say of the model as a whole, once there are no misfits.
    """

    misfits: Mapping[str, str] = field(default_factory=dict)
    alike: Mapping[str, tuple[Encoding, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Layout(Protocol):
    """An artefact before its weights are there: those of a part are written one by one, in any order and process."""

    @property
    def nbytes(self) -> int:
        """The bytes of all files."""

    @property
    def parts(self) -> Sequence[Part]:
        """What is written one after the other; each weight lies in one of them."""


class Target(Protocol):
    """A runtime and version. name: its canonical spelling."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        """What it is, in a line."""

    @property
    def needs_graph(self) -> bool:
        """Whether its artefacts hold the graph of a model, and not weights alone."""

    def fit(self, model: Model, asked: Asked) -> Fitted:
        """The model as the runtime has it: what is fitted is looked at once, planned once, written once.

        Raises:
            UsageError: the options do not fit the model.
            CompressorError: the runtime does not have what the model consists of.
        """

    def legalize(self, encoding: Encoding) -> Encoding:
        """The encoding as the target holds it, of the same value; on specs and on data alike. Raises `Illegal`."""

    def together(self, forms: Mapping[str, Encoding]) -> Together:
        """What there is to say of these forms beside each other. forms: specs of all weights, by name."""

    def overhead(self, name: str, encoding: Encoding) -> Mapping[str, int]:
        """The bytes that a form of the weight `name` adds to an artefact beside those that it takes itself.

        Those of its own, more than a dense one adds, by the weight's name; what weights share, by names of its own.
        """

    def layout(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> Layout:
        """Where everything of an artefact lies, known without the data of any weight.

        specs: of all weights of `model`, by name, in its order.
        metadata: what the files say about themselves, by full key; `read` gives those that begin with `compressor.`.
        """

    def read(self, path: Path) -> Model:
        """The model that was written to the directory `path`, or of what lies in the file of a part there."""

    def copy(self, model: Model, directory: Path, untrue: str = "") -> bool:
        """Write the files of the source of `model` as they are; False where the target cannot take them so.

        untrue: the key of what they say about themselves and would not hold of the copy.
        """

    def refusal(self, path: Path) -> str:
        """Why the runtime does not open what was written to `path`, or a source of the same format; empty if it does.

        Where the runtime is not installed, what knows its format is asked; sources of other formats are none of its.
        """

    def session(self, path: Path, model: Model, label: str) -> Session:
        """What runs here and computes as the artefact in `path`, a directory or its file, does.

        model: the one that `fit` made of the artefact's source, or made of it for another artefact.
        label: what errors call it.

        Raises:
            CompressorError: the artefact cannot be loaded.
        """


class Family(Protocol):
    """A module of targets.

    TARGETS: by canonical name. FILES: what `write` leaves in a directory, under names that nothing else has; the name
    of a folder ends with a slash. Files of other names are known by the manifest that lists them.
    PACKAGES: those that shape what it writes, by the names under which they are installed.

    One that reads a group of `params.yaml`, named as the module, has `OPTIONS`, a dataclass of what may be asked: each
    field has a default and, in its metadata, a `description`; where `lines` is set there, `params.yaml` names a file
    whose lines they are. One that needs what does not come with this package has `check_installed`, which raises
    `CompressorError` where it is missing. One whose format has versions that are no targets has `TOO_OLD`, their names,
    or `TOO_NEW`, by name what to do.
    """

    __name__: str
    TARGETS: Mapping[str, Any]
    FILES: tuple[str, ...]
    PACKAGES: tuple[str, ...]

    def get(self, name: str, options: Mapping[str, Any]) -> Target:
        """The target of that canonical name, with what is asked of it."""


def get(name: str, options: Mapping[str, Any] = {}) -> Target:
    """The target of that name, in any case.

    options: what is asked of its family: fields of its `OPTIONS`.

    Raises:
        UsageError: there is no such target; the choices are named.
    """
    for module in _families():
        canonical = {known.lower(): known for known in module.TARGETS}.get(name.lower())
        if canonical is not None:
            return module.get(canonical, options)
    for module in _families():
        if name.lower() in {too_old.lower() for too_old in getattr(module, "TOO_OLD", ())}:
            raise UsageError(f"target {name!r} has no compressed weights. The targets that have: {', '.join(names())}.")
        for newer, advice in getattr(module, "TOO_NEW", {}).items():
            if name.lower() == newer.lower():
                raise UsageError(f"target {name!r} is none yet. {advice}.")
    raise unknown("target", name, names())


def check_installed(name: str) -> None:
    """That artefacts for the target of that canonical name can be made here: before any weight is read for one.

    Raises:
        CompressorError: what that needs is not installed.
    """
    module = next(module for module in _families() if name in module.TARGETS)
    if hasattr(module, "check_installed"):
        module.check_installed()


def write(target: Target, model: Model, directory: Path, metadata: Mapping[str, str] = {}) -> None:
    """Write `model` into `directory`, its weights in the encodings that they have.

    Raises:
        CompressorError: the target cannot hold them.
        OSError: the files cannot be written.
    """
    layout = target.layout(model, {weight.name: spec(weight.encoding) for weight in model.weights}, metadata)
    for part in layout.parts:
        part.begin(directory)
        for weight in (one for one in model.weights if one.name in part.places):
            part.places[weight.name].write(directory, weight.encoding)


def names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(name for module in _families() for name in module.TARGETS)


def family(name: str) -> str:
    """The family of the target of that canonical name: what its group of `params.yaml` is called."""
    return next(_group(module) for module in _families() if name in module.TARGETS)


def options() -> Mapping[str, type]:
    """What may be asked, by family: the dataclass of each one that reads options."""
    return {_group(module): module.OPTIONS for module in _families() if hasattr(module, "OPTIONS")}


def files() -> frozenset[str]:
    """The names of all files and folders that targets write."""
    return frozenset(name for module in _families() for name in module.FILES)


def packages() -> frozenset[str]:
    """The packages that shape what targets write."""
    return _REGISTRY.packages().union(*(module.PACKAGES for module in _families()))


def _known_as(module: Any) -> Iterator[str]:
    yield from (f"the target {name!r}" for name in module.TARGETS)
    if hasattr(module, "OPTIONS"):
        yield f"the group {_group(module)!r} of params.yaml"


def _group(module: Family) -> str:
    return module.__name__.rpartition(".")[2]


_REGISTRY = Registry(
    group="compressor.targets",
    folder=__name__,
    needs=("TARGETS", "FILES", "PACKAGES", "get"),
    known_as=_known_as,
)


def _families() -> tuple[Family, ...]:
    return _REGISTRY.parts()


if TYPE_CHECKING:  # what is here has what a target of another package must have
    from compressor.targets import compressed_tensors, coreml, onnxruntime

    _: tuple[Family, ...] = (compressed_tensors, coreml, onnxruntime)
