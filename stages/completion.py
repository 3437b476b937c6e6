"""What a shell may complete: names that are known here. Each is looked up only when a key is pressed for it."""

from __future__ import annotations

from glob import escape
from pathlib import Path


def targets() -> list[str]:
    """Every target."""
    from compressor import targets as known

    return list(known.names())


def pipelines() -> list[tuple[str, str]]:
    """Every pipeline, with what it does."""
    from compressor.compilation.pipelines import PIPELINES

    # A shell has a line for it.
    return [(name, pipeline.summary.partition(":")[0].partition(";")[0]) for name, pipeline in PIPELINES.items()]


def revisions() -> list[str]:
    """Branches, tags and experiments of the repository here; none where there is no repository, or no Git."""
    from compressor.errors import CompressorError

    from .revisions import names

    try:
        return names()
    except CompressorError:
        return []


def sides(incomplete: str) -> list[str]:
    """Revisions that begin so, with the files that do; nothing where the shell's own way with files serves better."""
    found = [name for name in revisions() if incomplete and name.startswith(incomplete)]
    return [*found, *map(str, sorted(Path().glob(f"{escape(incomplete)}*")))] if found else []
