"""Where a model may keep its data: inside of its own folder, and nowhere else on the machine that reads it."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

_ADDRESS = re.compile(r"(.*-)?[0-9a-f]{30,}(\.[\w.]+)?")
"""The name of a file in a cache where content is the address: DVC's, the Hugging Face Hub's, git-annex's.

Nothing else on a machine is called so, so that a link in a downloaded folder cannot lead to what is private there.
"""


def why_not(name: str, folder: Path, root: Path, what: str) -> str:
    """Why `folder / name` is no place for a part of the model whose files lie in `root`; empty where it is one.

    Version control and download caches put links in place of files, each under its plain name: these are followed.

    what: how a reader calls `root`.
    """
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name or "\\" in name:
        return "is not a file name"
    if PurePosixPath(name).is_absolute():
        return "is an absolute path"
    if ".." in parts:
        return f"leads out of {what}"
    path = folder / name
    if not _has_link(path, root):
        return ""
    real = Path(os.path.realpath(path))
    if real.is_relative_to(os.path.realpath(root)) or (path.is_symlink() and leads_to_cache(path)):
        return ""
    return f"is a link that leads out of {what}, to {real}"


def leads_to_cache(link: Path) -> bool:
    """Whether a link leads to a file that is addressed by its content."""
    real = Path(os.path.realpath(link))
    two = real.parent.name + real.name if len(real.parent.name) == 2 else real.name  # DVC's folders are two digits
    return _ADDRESS.fullmatch(real.name) is not None or _ADDRESS.fullmatch(two) is not None


def _has_link(path: Path, root: Path) -> bool:
    """Whether anything on the way from `root` to `path` is a symbolic link: one cheap call a level."""
    return path != root and (path.is_symlink() or _has_link(path.parent, root))
