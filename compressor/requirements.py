"""What an optional part of this package needs to be installed, by the package's own metadata.

A hint names those packages themselves: a part is an extra of this package, which need not be in any index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

OWN = "compressor"

CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?([<>=!~,.\d]*)(?:; extra == ['\"]([\w-]+)['\"])?")


def hint(extra: str) -> str:
    """The command that installs what an extra needs and is not there, or not in a version that it needs.

    >>> hint("torch").startswith("pip install ")
    True
    """
    needed = list(dict.fromkeys(_needed(extra)))
    missing = [(name, versions) for name, versions in needed if not _satisfied(name, versions)]
    command = " ".join(["pip install", *(f'"{name}{versions}"' for name, versions in missing or needed)])
    if "torch" not in dict(missing):
        return command
    return f"{command} (without a GPU, add {CPU_TORCH})"


def _needed(extra: str) -> Iterator[tuple[str, str]]:
    """Names and versions, those of the extras that it consists of after its own."""
    from importlib import metadata

    parts: list[str] = []
    for line in metadata.requires(OWN) or ():
        found = _REQUIREMENT.fullmatch(line)
        if found is None or found[4] != extra:
            continue
        if found[1] == OWN:
            parts += found[2].split(",")
        else:
            yield found[1], found[3]
    for part in parts:
        yield from _needed(part)


def _satisfied(name: str, versions: str) -> bool:
    """Whether a package is installed, in one of the versions `>=1.2`, `<3` or both."""
    from importlib import metadata

    try:
        installed = _numbers(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    bounds = [(bound.startswith(">="), _numbers(bound.lstrip("<>="))) for bound in versions.split(",") if bound]
    return all(installed >= number if least else installed < number for least, number in bounds)


def _numbers(version: str) -> tuple[int, ...]:
    """The release that a version is of.

    >>> _numbers("2.13.0+cpu"), _numbers("3.0rc1")
    ((2, 13, 0), (3, 0))
    """
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].strip(".").split(".") if part)  # type: ignore[index]
