"""What accounts add up to."""

from __future__ import annotations

from pathlib import Path

from compressor.accounting.account import Account, What


def of(account: Account, what: What) -> dict[str, int]:
    """The bytes of one kind, by name."""
    sums: dict[str, int] = {}
    for portion in account.portions:
        if portion.what is what:
            sums[portion.name] = sums.get(portion.name, 0) + portion.nbytes
    return sums


def nbytes(folder: Path) -> int:
    """The bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
