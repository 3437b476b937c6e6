"""Files that commands hand to one another and to `dvc plots`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.compilation import publish
from compressor.errors import CompressorError, UsageError

from .text import cell

ROW_SUFFIXES = (".csv", ".json")


def read_text(path: Path) -> str:
    """The text of a file that another command wrote.

    Raises:
        CompressorError: it cannot be read or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CompressorError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CompressorError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from error


def read_by(model: Path, *others: Path | None) -> list[Path]:
    """The files that a command reads, of whatever kind the model is.

    Raises:
        CompressorError: there is no such model, or it cannot be read.
    """
    from compressor import sources

    return [model, *sources.files(model), *(other for other in others if other is not None)]


def check_outputs(directory: Path, rows: Path | None, model: Path, *others: Path | None) -> None:
    """Refuse outputs that would replace what is read for them, or what this package has not written.

    Raises:
        UsageError: one would.
        CompressorError: there is no such model, or a folder may not be written to.
    """
    publish.check_directory(directory, [model])  # before the model is opened
    read = read_by(model, *others)
    publish.check_directory(directory, read)
    publish.check_files([rows], read)


def check_json(path: Path | None) -> None:
    """Refuse a path for JSON that does not say so, see `check_suffix`."""
    check_suffix(path, ".json")


def check_suffix(path: Path | None, suffix: str) -> None:
    """Refuse a path that does not say what is written there: it may be the model that the user meant to read.

    Raises:
        UsageError: it does not end with `suffix`.
    """
    if path is not None and path.suffix != suffix:
        raise UsageError(f"{path}: expected a name that ends with {suffix}, got {path.suffix!r}.")


def check_rows(path: Path | None) -> None:
    """Refuse a path that `write_rows` could not write to, before any work is done.

    Raises:
        UsageError: the suffix is none of `ROW_SUFFIXES`.
    """
    if path is not None and path.suffix not in ROW_SUFFIXES:
        raise UsageError(f"{path}: expected a name that ends with {' or '.join(ROW_SUFFIXES)}, got {path.suffix!r}.")


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Replace the file at `path` by a table that `dvc plots` reads: CSV or a JSON list, by its suffix."""
    check_rows(path)
    if path.suffix == ".json":
        publish.text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    publish.text(path, text.getvalue())
