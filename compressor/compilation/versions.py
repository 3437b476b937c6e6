"""What shapes an artefact beside its source: the versions of packages, and the code of this one."""

from __future__ import annotations

import functools
import hashlib
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compressor import targets
from compressor.recognition import schemes

EVERYWHERE = frozenset({"compressor", "ml-dtypes", "numpy"})
"""The packages by which every value is read, computed and written."""


def versions() -> dict[str, str]:
    """The version of each package that shapes an artefact, by its name; those that are not installed are missing."""
    found: dict[str, str] = {}
    for package in sorted({*EVERYWHERE, *targets.packages(), *schemes.packages()}):
        with suppress(PackageNotFoundError):  # a runtime may be installed under another name
            found[package] = version(package)
    return found


@functools.cache
def identity() -> dict[str, str]:
    """What two processes have in common that write the same bytes: `versions`, Python's, a digest of this package.

    The commands, which lie elsewhere in a checkout, are no part of it.
    """
    digest, folder = hashlib.blake2b(digest_size=8), Path(targets.__file__).parents[1]
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        if not name.startswith("stages/"):
            digest.update(f"{name}\0{file.read_text(encoding='utf-8')}\0".encode())
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", **versions(), "code": digest.hexdigest()}
