"""What a zip archive of torch's may hold before torch reads it: torch's own readers trust more than they say.

`torch.export.load` falls back to unpickling anything, starts compiled libraries, and has sympy evaluate the sizes of a
program as Python; `torch.jit.load` runs TorchScript, which can read and write files.
"""

from __future__ import annotations

import ast
import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from compressor.errors import CompressorError

PICKLED = ("custom_obj_", "opaque_obj_")
"""How the names of a program's constants begin that are pickled objects."""
COMPILED = "data/aotinductor/"
TARGET = re.compile(r"(?:torch\.ops|torch\._higher_order_ops|_operator|math)\.[\w.]+|torch\._?sym_\w+|[^t_m]\w*|#\S+")
BETWEEN = r"(?:\s|\\|#[^\n]*)*"
"""What may stand between the parts of a name in TorchScript."""
REACHES_OUT = re.compile(rf"\b(?:torch|aten){BETWEEN}\.{BETWEEN}(?:save|from_file)\b")
FUNCTION = re.compile(r"[A-Z]\w*|floor|ceiling|sqrt")
SYNTAX = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.Name, ast.Constant, ast.Load),
    *(ast.keyword, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
UTF_8 = 0x800
"""The flag of an entry whose name is UTF-8."""
TEXT = {"Symbol": re.compile(r"[A-Za-z]\w*"), "Float": re.compile(r"[-+.\deE]+")}
MOST_SIZE, MOST_POWER = 2000, 16
MOST_CODE = 1 << 28
END, LOCATOR, END_64 = struct.Struct("<4s12xLH"), struct.Struct("<4s4xQ4x"), struct.Struct("<4s44xQ")
"""The records behind a zip's directory: what marks each; where the directory is, where its 64-bit end is."""


def entries(source: Path) -> list[str]:
    """The names in the archive `source`, empty where it is none.

    Raises: CompressorError when it is not as torch writes it: tensors as they are, beside each other, inside it.
    """
    try:
        if not zipfile.is_zipfile(source):
            return []
        with zipfile.ZipFile(source) as archive:
            infos, start = archive.infolist(), archive.start_dir
        claimed_start = _directory(source)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CompressorError(f"{source}: truncated or not a torch checkpoint ({error}). Save it again.") from error
    # zipfile looks for the directory right before its end, torch where the end says: what one checks, the other reads.
    if start != claimed_start:
        raise CompressorError(
            f"{source}: its directory is at byte {start}, its end says {claimed_start}. Save it again."
        )
    _check_names(source, infos)
    _check_sizes(source, infos)
    return [info.filename for info in infos]


def _check_names(source: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse names that lie outside, or that readers would take for others."""
    names: set[str] = set()
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise CompressorError(f"{source}: the entry {info.filename!r} lies outside the archive. Save it again.")
        # Torch's reader takes names as UTF-8 and ignores their case.
        ambiguous = info.filename.lower() in names or info.filename != info.orig_filename
        if ambiguous or not (info.filename.isascii() or info.flag_bits & UTF_8):
            raise CompressorError(
                f"{source}: the entry {info.filename!r} is there twice, or readers spell it in different ways. "
                "Save it again."
            )
        names.add(info.filename.lower())


def _check_sizes(source: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse entries that claim more bytes than the file can hold."""
    stored = [info for info in infos if info.compress_type == zipfile.ZIP_STORED]
    claimed, size = sum(max(info.file_size, info.compress_size) for info in stored), source.stat().st_size
    if claimed > size:
        raise CompressorError(f"{source}: its entries claim {claimed:,} bytes, the file has {size:,}. Save it again.")
    # torch compresses code, and no tensor.
    inflated = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
    if inflated > MOST_CODE:
        raise CompressorError(
            f"{source}: its compressed entries claim {inflated:,} bytes, expected at most {MOST_CODE:,} of code. "
            "Save it again."
        )


def _directory(source: Path) -> int:
    """Where the end of the archive says that its directory begins."""
    with source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - END.size - LOCATOR.size - END_64.size))
        tail = file.read()
    mark, start, comment = END.unpack(tail[-END.size :])
    if mark != b"PK\5\6" or comment:
        raise zipfile.BadZipFile("bytes follow its end")
    behind = tail[: -END.size]
    if behind[-LOCATOR.size :].startswith(b"PK\6\7"):
        _, at = LOCATOR.unpack(behind[-LOCATOR.size :])
        mark, start = END_64.unpack(behind[: END_64.size])
        if mark != b"PK\6\6" or at != size - END.size - LOCATOR.size - END_64.size:
            raise zipfile.BadZipFile("its 64-bit end is elsewhere")
    return int(start)


def is_script(names: list[str]) -> bool:
    """Whether these are the entries of a TorchScript archive."""
    inner = {name.partition("/")[2] for name in names}
    return "constants.pkl" in inner and any(name.startswith("code/") for name in inner)


def check_script(source: Path) -> None:
    """Refuse TorchScript that reads or writes files, which parts of it may do while they are loaded."""
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if "/code/" in info.filename and info.filename.endswith(".py"):
                found = REACHES_OUT.search(archive.read(info).decode("utf-8", "replace"))
                if found:
                    called = "".join(found[0].split())
                    raise CompressorError(
                        f"{source}: its code ({info.filename}) calls {called}, which reads or writes files. "
                        "Save the model's state dict instead."
                    )


def check_program(source: Path, allow: str) -> None:
    """Refuse an ExportedProgram that would run code while it is loaded; `allow` says what permits it."""
    reason = next(_reasons(source), None)
    if reason is not None:
        raise CompressorError(
            f"{source}: {reason}, so it would run code when it is loaded, which is refused. "
            f"Save the ExportedProgram without it, or, if you trust the file, {allow}."
        )


def _reasons(source: Path) -> Iterator[str]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            inner = info.filename.partition("/")[2]
            name = PurePosixPath(inner).name
            if COMPILED in info.filename:
                yield f"{info.filename} is compiled code"
            elif name.startswith(PICKLED):
                yield f"{info.filename} is a pickled object"
            elif name.endswith(".pt") and not _is_plain(archive.read(info)):
                yield f"{info.filename} holds more than tensors"
            elif name.endswith(".json"):
                yield from _of_json(archive, info)


def _of_json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[str]:
    for key, value, beside in _items(json.loads(archive.read(info))):
        if key == "use_pickle" and value:
            path = f"{info.filename.rpartition('/')[0]}/{beside.get('path_name')}"
            if not _is_plain(archive.read(path)):
                yield f"{path} holds more than tensors"
        elif key == "expr_str" and not _is_size(value):
            yield f"{info.filename} has a size that is no formula ({str(value)[:40]!r})"
        elif key == "target" and isinstance(value, str) and not TARGET.fullmatch(value):
            yield f"{info.filename} calls {value[:40]!r}"


def _items(content: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from ((key, inner, value) for key, inner in value.items())
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _is_plain(content: bytes) -> bool:
    """Whether the reader that runs no code takes it."""
    import torch  # not needed for a look at what kind of archive it is

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # noqa: BLE001 - an unpickler raises any exception on damaged bytes
        return not content
    return True


def _is_size(text: object) -> bool:
    """Whether `text` is arithmetic over names, numbers and sympy's functions; sympy evaluates it as Python."""
    if not isinstance(text, str) or len(text) > MOST_SIZE:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    # sympy parses strings again, wherever they stand but here.
    texts = {id(argument) for node in ast.walk(tree) for argument in _texts(node)}
    return all(isinstance(node, SYNTAX) and (id(node) in texts or _is_arithmetic(node)) for node in ast.walk(tree))


def _texts(node: ast.AST) -> list[ast.expr]:
    """The name of a symbol, and the digits of a number."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in TEXT:
        return []
    return [one for one in node.args if isinstance(one, ast.Constant) and TEXT[node.func.id].fullmatch(str(one.value))]


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and bool(FUNCTION.fullmatch(node.func.id))
    if isinstance(node, ast.Name):
        return not node.id.startswith("_")
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = node.right
        return isinstance(exponent, ast.Constant) and isinstance(exponent.value, int) and exponent.value <= MOST_POWER
    return True
