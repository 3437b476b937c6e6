"""A revision, and the files that it has."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from compressor.errors import CompressorError, UsageError

from . import dvc, git

_LFS = b"version https://git-lfs.github.com/spec/v1\n"


@dataclass(frozen=True)
class Revision:
    """A commit, and how it was called.

    name: for errors, what the user called it.
    commit: its hash.
    top: the folder that its repository is checked out to.
    """

    name: str
    commit: str
    top: Path

    def text(self, path: Path) -> str:
        """The text of a file.

        path: as it is called now, from the current folder; the file need not be there any more.

        Raises:
            UsageError: the revision has no such file, or its content is not on this machine.
            CompressorError: it is no text.
        """
        content = git.blob(self.top, f"{self.commit}:{self._place(path)}")
        if content is None or content.startswith(_LFS):
            with self.checked_out(path) as file:
                if file.is_dir():
                    raise UsageError(f"{self.name}:{path}: is a directory, expected a file.")
                content = file.read_bytes()
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CompressorError(
                f"{self.name}:{path}: not UTF-8 text: {error.reason} at byte {error.start}."
            ) from error

    def files(self, path: Path) -> list[PurePosixPath]:
        """The files in a folder, in whatever depth, named from it; `.` for a path that is a file; none where none is.

        Raises:
            UsageError: DVC's record of a folder is not on this machine.
            CompressorError: what DVC has written is damaged.
        """
        return sorted(self._sources(path))

    @contextmanager
    def checked_out(self, path: Path) -> Iterator[Path]:
        """A file or a folder, in a temporary place that goes with the block, and under its own name there.

        What lies in a cache of DVC is linked, not copied: it is to be read alone.

        Raises:
            UsageError: the revision has none at `path`, or its content is not on this machine.
            CompressorError: what DVC has written is damaged, or there is no room.
        """
        sources = self._sources(path)
        if not sources:
            raise UsageError(f"{self.name}:{path}: the revision has no such file or folder, in Git or tracked by DVC.")
        temporary = Path(tempfile.mkdtemp(prefix="compressor-"))
        try:
            place = temporary / (_absolute(path).name or "files")
            for name, source in sources.items():
                file = place / name
                file.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, Path):
                    _link(source, file)
                else:
                    self._write(source, file)
            yield place
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _place(self, path: Path) -> PurePosixPath:
        """Where a path lies, from the top of the repository."""
        absolute = _absolute(path)
        try:
            found = (absolute.parent.resolve() / absolute.name).relative_to(self.top.resolve())
        except ValueError:
            raise UsageError(f"{self.name}:{path}: lies outside of the repository at {self.top}.") from None
        return PurePosixPath(found.as_posix())

    def _sources(self, path: Path) -> Mapping[PurePosixPath, Path | str]:
        """Where the content of each file lies: an object of DVC's cache, or the hash of one in Git."""
        place = self._place(path)
        found: dict[PurePosixPath, Path | str] = {}
        for out in self._outputs:
            found.update(self._tracked(out, place))
        # Last, for a file that DVC records and Git holds (`cache: false`) is in no cache.
        for file, hashed in git.listed(self.top, self.commit, place).items():
            found[file.relative_to(place)] = hashed
        missing = [name for name, source in found.items() if source == ""]
        if missing:
            which = path / missing[0] if missing[0].parts else path
            raise UsageError(
                f"{self.name}:{which}: DVC tracks it, and its cache does not have this version. "
                f"Run `dvc fetch --all-commits {path}`, or check {self.name} out and run `dvc pull`."
            )
        return found

    def _tracked(self, out: dvc.Output, place: PurePosixPath) -> Iterator[tuple[PurePosixPath, Path | str]]:
        """The files of an output that lie at or below `place`, named from there; empty text for one that is missing."""
        inside = out.covers(place)
        if inside is None:
            if not out.path.is_relative_to(place):
                return
            prefix, inside = out.path.relative_to(place), PurePosixPath()
        else:
            prefix = PurePosixPath()
        cache = dvc.cache(self.top / out.path.parent, self.top)
        if not out.members and not out.md5.endswith(".dir"):
            if not inside.parts:
                yield prefix, (cache and out.md5 and cache.find(out.md5)) or ""
            return
        members = out.members or (cache.members(out.md5) if cache else None)
        if members is None:
            yield prefix, ""
            return
        for name, md5 in members.items():
            if PurePosixPath(name).is_relative_to(inside):
                yield prefix / PurePosixPath(name).relative_to(inside), (cache and md5 and cache.find(md5)) or ""

    @cached_property
    def _outputs(self) -> tuple[dvc.Output, ...]:
        """All that DVC tracks."""
        listed = git.listed(self.top, self.commit, PurePosixPath())
        found: list[dvc.Output] = []
        for name, hashed in listed.items():
            if name.name == dvc.LOCK or (name.suffix == dvc.SUFFIX and name.name != dvc.SUFFIX):
                beside = listed.get(name.with_name(dvc.STAGES), "") if name.name == dvc.LOCK else ""
                texts = [(git.blob(self.top, one) or b"").decode(errors="replace") for one in (hashed, beside) if one]
                found.extend(dvc.outputs(name, texts[0], "".join(texts[1:]), self.name))
        return tuple(found)

    def _write(self, hashed: str, file: Path) -> None:
        with file.open("wb") as opened:
            git.run(self.top, "cat-file", "blob", hashed, out=opened)
        if file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS):
            self._replace_pointer(file)

    def _replace_pointer(self, file: Path) -> None:
        """Put what Git LFS keeps in the place of its pointer."""
        lines = dict(line.partition(" ")[::2] for line in file.read_text(encoding="utf-8").splitlines())
        oid = lines.get("oid", "").removeprefix("sha256:")
        common = git.run(self.top, "rev-parse", "--path-format=absolute", "--git-common-dir").stdout
        kept = Path(os.fsdecode(common.strip()), "lfs", "objects", oid[:2], oid[2:4], oid)
        if not oid.isalnum() or not kept.is_file():
            raise UsageError(
                f"{self.name}:{file.name}: Git LFS keeps its content, and not on this machine. "
                f"Run `git lfs fetch origin {self.name}`."
            )
        file.unlink()
        _link(kept, file)


def find(name: str, beside: Path = Path()) -> Revision:
    """The revision of the repository around a file or folder, which need not be there any more.

    name: what `git rev-parse` takes, or an experiment of DVC.

    Raises:
        UsageError: Git is not installed, there is no repository, or no such revision.
    """
    absolute = _absolute(beside)
    folder = next(place for place in (absolute, *absolute.parents) if place.is_dir())
    top = git.top(folder)
    return Revision(name, git.commit(top, name), top)


def _absolute(path: Path) -> Path:
    """From the root, without following a link at its end: it is that name that a revision knows."""
    return Path(os.path.normpath(path.absolute()))


def _link(source: Path, file: Path) -> None:
    try:
        os.link(source, file)
    except OSError:  # another file system, or another user's cache
        file.symlink_to(source.resolve())
