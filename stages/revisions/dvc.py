"""What DVC tracks, by its files at a revision and the objects in its cache; DVC itself is not imported.

Source: `dvc.lock` (schema 2.0), `*.dvc`, `.dvc/config` and the cache of DVC 2 and 3, as their documentation has them.
"""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compressor.errors import CompressorError

from .. import yaml

LOCK, STAGES, SUFFIX = "dvc.lock", "dvc.yaml", ".dvc"

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_TEMPLATE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Output:
    """A file or a folder that DVC tracks.

    path: from the top of the repository; a `*` stands for what a template of dvc.yaml would say.
    md5: of its content, with `.dir` behind it where it is a folder; empty where DVC has not recorded any.
    members: of a folder whose files the record itself lists, their md5 by name.
    """

    path: PurePosixPath
    md5: str
    members: Mapping[str, str]

    def covers(self, path: PurePosixPath) -> PurePosixPath | None:
        """The name that `path` has inside of this output, `.` for the output itself; None if it is none of it."""
        length = len(self.path.parts)
        if not fnmatch.fnmatchcase(str(PurePosixPath(*path.parts[:length])), _pattern(self.path)):
            return None
        return PurePosixPath(*path.parts[length:])


def outputs(name: PurePosixPath, text: str, stages: str, revision: str) -> Iterator[Output]:
    """What a file of DVC records.

    name: of the file, from the top of the repository: a `dvc.lock`, or one that ends with `.dvc`.
    stages: the dvc.yaml beside a `dvc.lock`, which tells in which folder a stage runs; empty if there is none.
    revision: where both are from, for errors.

    Raises:
        CompressorError: it is damaged.
    """
    content = _mapping(yaml.read(text, f"{revision}:{name}"))
    if name.name != LOCK:
        yield from _outputs(name.parent / str(content.get("wdir", "")), content)
        return
    known = _mapping(_mapping(yaml.read(stages, f"{revision}:{name.with_name(STAGES)}")).get("stages"))
    locked = content.get("stages") if "schema" in content else content  # before DVC 2 there was no schema
    for stage, record in _mapping(locked).items():
        family, _, item = str(stage).partition("@")
        own = _mapping(known.get(stage) or known.get(family))
        yield from _outputs(name.parent / _folder(own, item), _mapping(record))


def _folder(stage: Mapping[str, Any], item: str) -> str:
    """Where a stage runs, with a `*` for what is not known of its templates.

    item: what tells it from the others that are made of one `foreach` or `matrix`: a value, or values with hyphens.
    """
    folder = str(stage.get("wdir") or _mapping(stage.get("do")).get("wdir") or "")
    plain = ("item", "key", *(f"item.{key}" for key in _mapping(stage.get("matrix")) if len(stage["matrix"]) == 1))
    return _TEMPLATE.sub(lambda found: item if item and found[1].strip() in plain else "*", folder)


def _outputs(folder: PurePosixPath, record: Mapping[str, Any]) -> Iterator[Output]:
    for entry in _mappings(record.get("outs")):
        path = PurePosixPath(os.path.normpath(folder / str(entry.get("path", ""))))
        if path.is_absolute() or ".." in path.parts or "://" in str(entry.get("path")):
            continue  # it lies elsewhere
        members = {str(one.get("relpath")): _md5(one) for one in _mappings(entry.get("files"))}
        yield Output(path, _md5(entry), {name: md5 for name, md5 in members.items() if _inside(name)})


def _md5(entry: Mapping[str, Any]) -> str:
    """It becomes the name of a file, so nothing else is taken for one."""
    found = str(entry.get("md5", ""))
    return found if _MD5.fullmatch(found) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _inside(name: str) -> bool:
    """Whether a name that others wrote stays in the folder that it is given in."""
    path = Path(name)  # by the rules of this system: it becomes a path here
    return not (path.anchor or ".." in path.parts)


def _pattern(path: PurePosixPath) -> str:
    return re.sub(r"([\[?])", r"[\1]", str(path))


@dataclass(frozen=True)
class Cache:
    """The folders in which the objects of a repository may lie: those of DVC 3, then those of DVC 2."""

    folder: Path

    def find(self, md5: str) -> Path | None:
        """The file with this content; None if it is not in the cache."""
        name = Path(md5[:2], md5[2:])
        return next((file for file in (self.folder / "files/md5" / name, self.folder / name) if file.is_file()), None)

    def members(self, md5: str) -> dict[str, str] | None:
        """The md5 of each file of a folder by name; None if its listing is not in the cache.

        Raises:
            CompressorError: the listing is damaged.
        """
        listing = self.find(md5)
        if listing is None:
            return None
        try:
            entries = {str(one["relpath"]): _md5(one) for one in json.loads(listing.read_bytes())}
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise CompressorError(
                f"{listing}: damaged listing of a folder: {error}. Remove it, and run `dvc fetch`."
            ) from error
        outside = [name for name in entries if not _inside(name)]
        if outside:
            raise CompressorError(f"{listing}: names {outside[0]}, which lies outside of the folder that it lists.")
        return entries


def cache(folder: Path, top: Path) -> Cache | None:
    """The cache of the DVC repository around `folder`, inside of the Git repository at `top`; None without one.

    The folder may belong to another revision: it need not be there.
    """
    inside = [place for place in (folder, *folder.parents) if place.is_relative_to(top)]
    home = next((place / ".dvc" for place in inside if (place / ".dvc").is_dir()), None)
    if home is None:
        return None
    # As DVC has it: what is said for this checkout wins over what the repository says, and that over the user's own.
    for file in (home / "config.local", home / "config", _users()):
        named = _cache_dir(file)
        if named:
            return Cache(Path(os.path.normpath(file.parent / named)))
    return Cache(home / "cache")


def _users() -> Path:
    given = os.environ.get("DVC_GLOBAL_CONFIG_DIR")
    if given:
        return Path(given, "config")
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/dvc/config").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~"), "iterative", "dvc", "config").expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "dvc", "config").expanduser()


def configuration(*files: Path) -> dict[str, dict[str, str]]:
    """The settings in files of DVC's, by section, where the last one wins; what is not there says nothing.

    Raises:
        CompressorError: one is no such file.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    for file in files:
        try:
            parser.read_string(re.sub(r"(?m)^[ \t]+", "", file.read_text(encoding="utf-8")))
        except OSError:
            continue
        except (configparser.Error, UnicodeDecodeError) as error:
            raise CompressorError(f"{file}: cannot be read: {' '.join(str(error).split())}.") from error
    return {name: {key: value or "" for key, value in parser[name].items()} for name in parser.sections()}


def _cache_dir(file: Path) -> str:
    """The folder that a configuration names, from its own folder; empty if it names none."""
    named = configuration(file).get("cache", {}).get("dir", "")
    return str(Path(named.strip().strip("\"'")).expanduser()) if named else ""
