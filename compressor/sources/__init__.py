"""Where weights come from: each module is a `Source` or an `Exporter`, or both.

A new one is a new file, or an entry point of another package. They are imported to learn which files they read, so what
is slow to import is imported inside of their functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.errors import CompressorError, UsageError, unknown
from compressor.model import Model, stamps, unchanged
from compressor.registry import Registry


class Source(Protocol):
    """A module that reads files. SUFFIXES: of these files, in lower case.

    One that reads folders too has `is_folder(path)`, which says of which; one whose format has relatives that it does
    not read has `UNREADABLE`, by their suffix what to do.
    """

    SUFFIXES: tuple[str, ...]

    def files(self, path: Path) -> tuple[Path, ...]:
        """Every file that is read for the model in `path`: what must not be written to, and must not change meanwhile.

        Raises:
            CompressorError: it cannot be read.
        """

    def read(self, path: Path) -> Model:
        """The model in a file.

        Raises:
            CompressorError: it cannot be read.
        """


@dataclass(frozen=True)
class InputSpec:
    """One input of a model that is exported: what its code takes under this name.

    shape: sizes, an example where the axis is dynamic.
    dtype: by name, `float32` and the like.
    dynamic: names by axis; axes of one name have one size.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    dynamic: Mapping[int, str] = field(default_factory=dict)


Reached = Callable[[str], None]
"""Is told each step of an export once it is done."""


def unheard(step: str) -> None:
    """The `Reached` of whoever does not want to know."""


class Exporter(Protocol):
    """A module for files whose graph only the training code knows.

    SUFFIXES: of these files, in lower case. FILES: the names of those that `export` writes. PACKAGES: those that shape
    what it writes, by the names under which they are installed.

    One that tells how far an export has come has `STEPS`, by name in their order; its `export` takes `reached`, too.
    One whose files tell their weights without a graph has `weights(path)`, which gives them as a `Model`, and
    `has_weights_alone(path)`, which tells such a file.
    """

    SUFFIXES: tuple[str, ...]
    FILES: tuple[str, ...]
    PACKAGES: tuple[str, ...]

    def files(self, path: Path) -> tuple[Path, ...]:
        """As those of a `Source`."""

    def export(
        self,
        source: Path,
        directory: Path,
        *,
        factory: str | None,
        args: Mapping[str, object],
        inputs: Mapping[str, InputSpec],
        outputs: Sequence[str],
        opset: int,
        allow_pickle: bool,
        key: str,
    ) -> None:
        """Write the graph to `directory`, where `read` finds it. The arguments are the group `export` of params.yaml.

        Raises:
            UsageError: the request does not fit the file.
            CompressorError: the file cannot be read or exported, or what that needs is not installed.
        """


def read(path: Path) -> Model:
    """The model in `path`: a file, an exported directory that holds `model.onnx` (`model` and a source's suffix), or a
    folder that a source knows. Weights that lie in no graph are a model without one.

    Raises:
        CompressorError: the model cannot be read, or has no graph before it is exported.
        UsageError: no source reads files of this suffix.
    """
    source, file = _found(path)
    before = stamps(source.files(file))
    with unchanged(before):
        return replace(source.read(file), stamps=before)


def weights(path: Path) -> Model:
    """The weights in `path`, with a graph or without: those of a checkpoint by the names that they have there.

    Raises:
        CompressorError: they cannot be read.
        UsageError: it is of no known kind.
    """
    module = exporter(path)
    if module is None or readable(path) or not hasattr(module, "weights"):
        return read(path)
    with unchanged(stamps(module.files(path))):
        found: Model = module.weights(path)
    return found


def has_weights(path: Path) -> bool:
    """Whether `weights` gives those of `path` as it lies there, with a graph or without."""
    told = getattr(exporter(path), "has_weights_alone", None)
    return readable(path) or (told is not None and bool(told(path)))


def files(path: Path) -> tuple[Path, ...]:
    """Every file that is read where the model in `path` is read or exported.

    Raises:
        CompressorError: it cannot be read.
        UsageError: it is of no known kind.
    """
    module = exporter(path)
    if module is not None:
        return module.files(path)
    source, file = _found(path)
    return source.files(file)


def _found(path: Path) -> tuple[Source, Path]:
    """The source that reads `path`, and the file or folder there that it reads. Raises as `read` does."""
    if not path.is_file() and not path.is_dir():
        raise CompressorError(f"{path}: no such file or directory; expected an exported directory or a model file.")
    for module in _modules("is_folder"):
        if module.is_folder(path):
            folders: Source = module
            return folders, path
    for module in _modules("read"):
        source: Source = module
        for suffix in source.SUFFIXES:
            file = path / f"model{suffix}" if path.is_dir() else path
            if file.suffix.lower() == suffix and (file.exists() or not path.is_dir()):
                return source, file
    check_readable(path)
    if exporter(path) is not None:
        raise CompressorError(f"{path}: has no ONNX graph yet; first run `compressor export {path} DIRECTORY`.")
    if path.is_dir():
        names = " or ".join(f"model{suffix}" for module in _modules("read") for suffix in module.SUFFIXES)
        raise CompressorError(
            f"{path}: a directory without {names}; expected an exported directory or a model file.{_inside(path)}"
        )
    raise unknown_kind(path)


def _inside(path: Path) -> str:
    """Which of the first entries of a directory could be meant."""
    entries = islice(path.iterdir(), _LOOKED_AT)
    found = [one.name for one in entries if readable(one) or _is_exported(one) or exporter(one) is not None]
    return f" It holds {', '.join(sorted(found)[:_MOST_NAMED])}: name what you mean." if found else ""


_LOOKED_AT, _MOST_NAMED = 1000, 3
"""So many entries of a directory are looked at, and so many named."""


def _is_exported(path: Path) -> bool:
    suffixes = (suffix for module in _modules("read") for suffix in module.SUFFIXES)
    return path.is_dir() and any((path / f"model{suffix}").exists() for suffix in suffixes)


def check_readable(path: Path) -> None:
    """That a file is not of a format of which it is known what to do instead.

    Raises:
        CompressorError: it is, with what to do.
    """
    for module in _modules("UNREADABLE"):
        if path.suffix.lower() in module.UNREADABLE:
            raise CompressorError(f"{path}: {module.UNREADABLE[path.suffix.lower()]}")


def unknown_kind(path: Path) -> UsageError:
    """The error for a file whose suffix nothing here reads."""
    suffixes = {
        suffix for function in ("read", "export") for module in _modules(function) for suffix in module.SUFFIXES
    }
    return unknown("kind of model file", path.suffix or path.name, suffixes)


def readable(path: Path) -> bool:
    """Whether `read` gives the weights of `path` as it lies there, with a graph or without."""
    if path.is_dir():
        return any(module.is_folder(path) for module in _modules("is_folder"))
    return any(path.suffix.lower() in module.SUFFIXES for module in _modules("read"))


def exporter(path: Path) -> Exporter | None:
    """The exporter for `path`; None for what has a graph, or is of no known kind."""
    for module in _modules("export"):
        folder = hasattr(module, "is_folder") and module.is_folder(path)
        if folder or (path.suffix.lower() in module.SUFFIXES and not path.is_dir()):
            found: Exporter = module
            return found
    return None


def exported() -> frozenset[str]:
    """The names of all files that exporters write."""
    return frozenset(name for module in _modules("export") for name in module.FILES)


def packages() -> frozenset[str]:
    """The packages that shape what exporters write."""
    return _REGISTRY.packages().union(*(module.PACKAGES for module in _modules("export")))


def _known_as(module: Any) -> Iterator[str]:
    for function, what in (("read", "a source"), ("export", "an exporter")):
        if hasattr(module, function):
            yield from (f"{what} of {suffix} files" for suffix in module.SUFFIXES)


_REGISTRY = Registry(group="compressor.sources", folder=__name__, needs=("SUFFIXES", "files"), known_as=_known_as)


def _modules(function: str) -> Iterator[Any]:
    """Those that have the function."""
    return (module for module in _REGISTRY.parts() if hasattr(module, function))


if TYPE_CHECKING:  # what is here has what a source of another package must have
    from compressor.sources import coreml, huggingface, onnx, safetensors, torch

    _sources: tuple[Source, ...] = (coreml, huggingface, onnx, safetensors)
    _exporters: tuple[Exporter, ...] = (huggingface, torch)
