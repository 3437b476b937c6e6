"""Files of torch: archives and the older pickles; no code of theirs runs, and torch is not needed.

    NAME/data.pkl         names and shapes      NAME/data/N        a storage, which tensors view
    NAME/code/...         TorchScript           NAME/data/weights  the weights of an ExportedProgram

Source: torch/serialization.py, torch/export/pt2_archive (layouts), and files that several versions of torch wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.accounting import archives, pickles
from compressor.accounting.account import Claim, Found, What
from compressor.accounting.archives import Entry
from compressor.accounting.files import opened
from compressor.accounting.storages import Named, rows, sets, stored
from compressor.errors import CompressorError
from compressor.formats.wire import FileBytes, WireError
from compressor.weight import Weight

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pt2", ".ts", ".torchscript", ".jit")

_ARCHIVES = ("serialized_state_dict", "serialized_constants")
"""How entries of an ExportedProgram are called that are archives of tensors themselves."""

_MAGIC = 0x1950A86A20F9469CFC6C
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MOST_PICKLE = 1 << 30
_MOST_JSON = 1 << 28

_KINDS: Sequence[tuple[str, What, str]] = (
    ("code/", What.NODES, "code"),
    ("models/", What.NODES, "graph"),
    ("serialized_exported_program.json", What.NODES, "graph"),
    ("data/sample_inputs/", What.OTHER, "sample inputs"),
    ("serialized_example_inputs.pt", What.OTHER, "sample inputs"),
    ("data/aotinductor/", What.OTHER, "compiled code"),
    ("data/constants/", What.CONSTANTS, "constants"),
    ("serialized_constants", What.CONSTANTS, "constants"),
    ("constants/", What.CONSTANTS, "constants"),
    ("constants.pkl", What.NAMES, "pickles"),
    ("data/weights/", What.WEIGHTS, "weights"),
    *((name, What.CONTAINER, "versions") for name in ("version", "byteorder", ".data/", ".format_version")),
    *((name, What.CONTAINER, "versions") for name in (".storage_alignment", "archive_")),
)
"""What entries of an archive are, by how their names begin."""


def claim(path: Path, found: Found) -> None:
    """Claim every byte of the file at `path`.

    Raises:
        CompressorError: it is no file of torch's, or damaged.
        OSError: it cannot be read.
    """
    name = found.add(path)
    try:
        with opened(path) as data:
            if archives.is_archive(data, 0, len(data)):
                found.claims.extend(_archive(name, data, 0, len(data), found.notes))
            elif data[0 : min(len(_OLD), len(data))] == _OLD:
                found.claims.extend(_legacy(name, data))
            else:
                raise ValueError("neither a zip archive nor a pickle with torch's mark")
    except (ValueError, WireError) as error:
        raise CompressorError(f"{path}: truncated or not a torch checkpoint ({error}). Save it again.") from error


def is_one(path: Path) -> bool:
    """Whether a file of any name begins as one of torch's does."""
    with opened(path) as data:
        start = data[0 : min(len(_OLD), len(data))]
    return start == _OLD or start[:4] == b"PK\3\4"


def _archive(
    file: str, data: FileBytes, start: int, end: int, notes: list[str], *, inside: bool = False
) -> Iterator[Claim]:
    """Claims on an archive, and on the archives in it."""
    found, claims = archives.entries(file, data, start, end)
    yield from claims
    by_name = _named(found)
    # What is known of a tensor comes before what its entry is: the first claim on a run is true.
    for pickled, folder in (("data.pkl", "data/"), ("constants.pkl", "constants/")):
        if pickled in by_name:
            yield from _pickled(file, data, by_name, pickled, folder, notes)
    yield from _program(file, data, by_name, notes)
    for inner, entry in by_name.items():
        yield _entry(file, inner, entry)
        holds = not inside and inner.startswith(_ARCHIVES) and entry.stored
        if holds and archives.is_archive(data, entry.start, entry.end):
            yield from _archive(file, data, entry.start, entry.end, notes, inside=True)


def _named(found: Sequence[Entry]) -> Mapping[str, Entry]:
    """The entries by name, without the folder that holds all of them; before torch 2.8 a program's are in none."""
    folders = {entry.name.partition("/")[0] for entry in found}
    alone = len(folders) == 1 and all("/" in entry.name for entry in found)
    return {entry.name.partition("/")[2] if alone else entry.name: entry for entry in found}


def _entry(file: str, inner: str, entry: Entry) -> Claim:
    if inner.endswith((".pkl", ".json")) and not inner.startswith(("models/", "serialized_")):
        return Claim(file, entry.start, entry.end, What.NAMES, "names and shapes of tensors")
    if inner.endswith(".debug_pkl"):
        return Claim(file, entry.start, entry.end, What.NAMES, "where code came from")
    what, name = next(((what, name) for start, what, name in _KINDS if inner.startswith(start)), (What.OTHER, inner))
    return Claim(file, entry.start, entry.end, what, name)


def _pickled(
    file: str, data: FileBytes, by_name: Mapping[str, Entry], pickled: str, folder: str, notes: list[str]
) -> Iterator[Claim]:
    """Claims on the storages that a pickle refers to."""
    places = _places(by_name, folder)
    try:
        content = _content(data, by_name[pickled])
    except ValueError as error:
        notes.append(f"{file}: {pickled} cannot be read ({error}): whose its storages are is not known")
        yield from (Claim(file, *place, What.UNREADABLE, "storages") for place in places.values())
        return
    yield from stored(file, sets(content), places)


def _places(by_name: Mapping[str, Entry], folder: str) -> dict[str, tuple[int, int]]:
    """The storages in a folder by their keys, from where to where each lies."""
    return {
        inner.removeprefix(folder): (one.start, one.end)
        for inner, one in by_name.items()
        if inner.startswith(folder) and "/" not in inner.removeprefix(folder)
    }


def _content(data: FileBytes, entry: Entry) -> Any:
    """What a pickle in an archive holds."""
    if not entry.stored or entry.nbytes > _MOST_PICKLE:
        raise ValueError(f"{entry.name} is compressed, or has more than {_MOST_PICKLE:,} bytes")
    with archives.window(data, entry.start, entry.end) as opened_:
        return pickles.load(opened_)


def _program(file: str, data: FileBytes, by_name: Mapping[str, Entry], notes: list[str]) -> Iterator[Claim]:
    """Claims on the weights and constants of an ExportedProgram, by the names that its configuration has for them."""
    for inner, entry in by_name.items():
        if not inner.endswith("_config.json") or not inner.startswith(("data/weights/", "data/constants/")):
            continue
        try:
            named = _names(json.loads(archives.content(data, entry, _MOST_JSON)))
        except (ValueError, RecursionError) as error:
            notes.append(f"{file}: {entry.name} cannot be read ({error})")
            continue
        what = What.WEIGHTS if inner.startswith("data/weights/") else What.CONSTANTS
        for name, place in named:
            one = by_name.get(f"{inner.rpartition('/')[0]}/{place}")
            if one is not None:
                yield Claim(file, one.start, one.end, what, name, "dense" if what is What.WEIGHTS else "")


def _names(config: Any) -> Iterator[tuple[str, str]]:
    found = config.get("config") if isinstance(config, dict) else None
    for name, entry in found.items() if isinstance(found, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("path_name"), str):
            yield name, entry["path_name"]


def _legacy(file: str, data: FileBytes) -> Iterator[Claim]:
    """Claims on a file of torch 1.5 and before."""
    head, at, found, places = _read_legacy(data)
    yield Claim(file, 0, head, What.CONTAINER, "versions")
    yield Claim(file, head, at, What.NAMES, "names and shapes of tensors")
    yield from (Claim(file, start - 8, start, What.CONTAINER, "lengths of storages") for start, _ in places.values())
    yield from stored(file, found, places)


def _read_legacy(data: FileBytes) -> tuple[int, int, list[Named], dict[str, tuple[int, int]]]:
    """Mark, version and system, the object and the keys, each storage behind its length: where the object begins, where
    the storages do, the tensors, and from where to where each storage lies.
    """
    with archives.window(data, 0, len(data)) as opened_:
        if pickles.load(opened_) != _MAGIC:
            raise ValueError("not torch's mark")
        for _ in ("version", "system"):
            pickles.load(opened_)
        head = opened_.tell()
        content = pickles.load(opened_)
        keys = pickles.load(opened_)
        at = opened_.tell()
    if not isinstance(keys, list):
        raise ValueError("no list of storages")  # noqa: TRY004 - a damaged file, not a defect
    found, begin = sets(content), at
    kinds = {one.tensor.storage.key: one.tensor.storage for one in found}
    places: dict[str, tuple[int, int]] = {}
    for key in map(str, keys):
        size = int.from_bytes(data[at : min(at + 8, len(data))], "little")
        width = pickles.ITEM_BYTES.get(kinds[key].kind, 1) if key in kinds else 0
        if not width or at + 8 + size * width > len(data):
            break
        places[key] = (at + 8, at + 8 + size * width)
        at = places[key][1]
    return head, begin, found, places


def weights(path: Path) -> tuple[Weight, ...]:
    """The float weights of a checkpoint that lie there in rows, each read when it is asked for.

    Raises:
        CompressorError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with opened(path) as data:
            if not archives.is_archive(data, 0, len(data)):
                _, _, found, places = _read_legacy(data)
            else:
                by_name = _named(archives.entries(path.name, data, 0, len(data))[0])
                if "data.pkl" not in by_name:
                    return ()
                found, places = sets(_content(data, by_name["data.pkl"])), _places(by_name, "data/")
    except (ValueError, WireError) as error:
        raise CompressorError(f"{path}: truncated or not a torch checkpoint ({error}). Save it again.") from error
    return tuple(rows(path, found, places))
