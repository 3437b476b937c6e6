"""What a kind of parts consists of: the modules of a folder, and what other packages add to them by entry points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError, line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OWN = "compressor"


@dataclass(frozen=True)
class Registry:
    """One kind of parts: schemes, sources or targets.

    group: of the entry points by which other packages add some.
    folder: the package whose modules are the first of them, in the order of their names.
    needs: what each part has. A module of the folder that has not all of it is none.
    known_as: what a part is asked for by, in words for an error: no two may be known as the same, in any case.
    """

    group: str
    folder: str
    needs: tuple[str, ...]
    known_as: Callable[[Any], Iterable[str]]

    def parts(self) -> tuple[Any, ...]:
        """All of them, imported.

        Raises:
            CompressorError: one of another package cannot be imported, lacks what it needs, or has another's name.
        """
        return _parts(self)

    def packages(self) -> frozenset[str]:
        """The other packages that add some, by the names under which they are installed."""
        return _packages(self)


@cache
def _entries() -> Any:
    """Those for all kinds. Finding them opens a file of every package that is installed: few are parsed."""
    from importlib.metadata import EntryPoints, distribution, distributions

    adding = {one.name for one in distributions() if f"[{OWN}." in (one.read_text("entry_points.txt") or "")}
    return EntryPoints(entry for name in sorted(adding) for entry in distribution(name).entry_points)


@cache
def _packages(registry: Registry) -> frozenset[str]:
    entries = _entries().select(group=registry.group)
    return frozenset(entry.dist.name for entry in entries if entry.dist is not None)


@cache
def _parts(registry: Registry) -> tuple[Any, ...]:
    owners: dict[str, str] = {}
    found = []
    for package, part in (*_own(registry), *_added(registry)):
        for name in registry.known_as(part):
            other = owners.setdefault(name.lower(), package)
            if other != package:
                raise CompressorError(f"{name} is there twice, by {other} and by {package}: uninstall one of the two.")
        found.append(part)
    return tuple(found)


def _own(registry: Registry) -> Iterator[tuple[str, Any]]:
    folder = importlib.import_module(registry.folder)
    for module in sorted(entry.name for entry in pkgutil.iter_modules(folder.__path__)):
        part = importlib.import_module(f"{registry.folder}.{module}")
        if all(hasattr(part, need) for need in registry.needs):
            yield OWN, part


def _added(registry: Registry) -> Iterator[tuple[str, Any]]:
    """What other packages add, each with the name and version of its package."""
    for entry in sorted(_entries().select(group=registry.group), key=lambda entry: (entry.name, entry.value)):
        yield _package(entry), _loaded(entry, registry.needs)


def _loaded(entry: EntryPoint, needs: Iterable[str]) -> Any:
    try:
        part = entry.load()
    except Exception as error:  # whatever its module raises
        raise _broken(entry, f"cannot be imported: {type(error).__name__}: {line(error)}") from error
    if missing := [need for need in needs if not hasattr(part, need)]:
        raise _broken(entry, f"has no {', '.join(missing)}")
    return part


def _broken(entry: EntryPoint, what: str) -> CompressorError:
    return CompressorError(
        f"the package {_package(entry)} adds {entry.value} to {entry.group}, which {what}: repair or uninstall it."
    )


def _package(entry: EntryPoint) -> str:
    return "a package without a name" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
