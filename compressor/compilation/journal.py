"""What a run has done: kept beside what it writes, so that one that was killed need not begin anew.

    .kept/journal.jsonl    the state that all below is of; then a line for each weight that was looked at, and each part
    .kept/...              the files of these parts, verified

A line is written once what it tells is on disk; of what was looked at, once that is so much that it is worth a line:
a run of a second has no journal. One that is cut short is the last one, and ends what is known; so does
one that is none of these, whoever wrote it. Files are digested again, and what weights were taken for is compared with
their values, as ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.compilation.manifest import FileFacts
from compressor.errors import CompressorError
from compressor.recognition.findings import Detection, Finding, Settings

NAME = ".kept"
_JOURNAL = "journal.jsonl"
_WORTH_NOTING = 1 << 30
"""Bytes of weights from which on looks at them are not repeated: about a second."""

_log = logging.getLogger(__name__)


@dataclass
class Journal:
    """The journal of a run.

    folder: where its files lie. state: the digest of all that decides what is written. findings: by weight.
    parts: by the path of their file, the key of what it holds and its facts.
    pending, nbytes: findings that are not noted yet, and the bytes of their weights.
    """

    folder: Path
    state: Callable[[], str]
    findings: dict[str, Finding] = field(default_factory=dict)
    parts: dict[str, tuple[str, FileFacts]] = field(default_factory=dict)
    pending: list[Detection] = field(default_factory=list)
    nbytes: int = 0

    def look(self, finding: Finding, settings: Settings) -> None:
        """Note what a weight is."""
        if finding.name not in self.findings:
            self.pending.append(Detection(settings, (finding,)))
            self.nbytes += finding.nbytes
            if self.nbytes >= _WORTH_NOTING:
                self._add()
        self.findings[finding.name] = finding

    def has(self, file: str, key: str) -> bool:
        """Whether a part is there, with just what is to be in it."""
        return file in self.parts and self.parts[file][0] == key

    def keep(self, file: str, key: str, facts: FileFacts, directory: Path) -> None:
        """Take the verified file of a part out of `directory`, and note that it is there."""
        place = self.folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        (directory / file).replace(place)
        self._add({"file": file, "key": key, "nbytes": facts.nbytes, "sha256": facts.sha256})
        self.parts[file] = key, facts

    def release(self, files: Iterable[str], directory: Path) -> None:
        """Put the files of parts into `directory`."""
        for file in files:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).replace(directory / file)

    @contextmanager
    def told(self) -> Iterator[None]:
        """A block that says, where it is ended, how many parts the next run finds."""
        try:
            yield
        except BaseException:
            if count := len(self.parts):
                said = (
                    "1 file that was compared is kept" if count == 1 else f"{count} files that were compared are kept"
                )
                _log.warning("%s: the same command with --resume goes on from there.", said)
            raise

    def close(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, *parts: Mapping[str, Any]) -> None:
        """Note what is pending, and parts: so that these outlive a machine that stops, too."""
        path = self.folder / _JOURNAL
        self.folder.mkdir(exist_ok=True)
        begin = () if path.exists() else ({"state": self.state()},)
        with path.open("a", encoding="utf-8") as file:
            for line in (*begin, *({"finding": one.to_json(None)} for one in self.pending), *parts):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if parts:
                file.flush()
                os.fsync(file.fileno())
        self.pending, self.nbytes = [], 0


def begun(directory: Path, state: Callable[[], Mapping[str, Any]]) -> Journal:
    """The journal of a run that writes into `directory`: what one before has left there, if it was in the same state.

    state: all that decides what is written, as JSON.
    """

    def digest() -> str:
        return _digest(json.dumps(state(), sort_keys=True).encode())

    folder = directory / NAME
    noted = _noted(folder / _JOURNAL)
    if not noted or noted[0][1] != digest():
        if noted:
            _log.warning("What an earlier run has done is of another source, request or version: all is done again.")
        shutil.rmtree(folder, ignore_errors=True)
        return Journal(folder, digest)
    (folder / _JOURNAL).write_bytes(b"".join(line + b"\n" for line, _ in noted))
    findings = {one.name: one for _, one in noted if isinstance(one, Finding)}
    parts = {one.facts.name: (one.key, one.facts) for _, one in noted if isinstance(one, _Part) and one.is_in(folder)}
    return Journal(folder, digest, findings, parts)


@dataclass(frozen=True)
class _Part:
    """What a line says of a part."""

    key: str
    facts: FileFacts

    def is_in(self, folder: Path) -> bool:
        """Whether its file is still what was noted."""
        path = folder / self.facts.name
        if not path.is_file() or path.stat().st_size != self.facts.nbytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.facts.sha256


def _noted(path: Path) -> list[tuple[bytes, str | Finding | _Part]]:
    """The lines of a journal as they are, and what each says, up to the first that says nothing."""
    found: list[tuple[bytes, str | Finding | _Part]] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else ():
        if (said := _said(line)) is None:
            _log.warning(
                "Line %d of what an earlier run has noted is none that is written there: what it and those below it "
                "tell of is done again.",
                len(found) + 1,
            )
            break
        found.append((line, said))
    return found


def _said(line: bytes) -> str | Finding | _Part | None:
    """The state, what a weight is, or a part; None where it is none of them."""
    try:
        match json.loads(line):
            case {"state": str(state)}:
                return state
            case {"finding": str(text)}:
                (finding,) = Detection.from_json(text).findings
                return finding
            case {"file": str(file), "key": str(key_), "nbytes": int(nbytes), "sha256": str(sha256)}:
                inside = not Path(file).is_absolute() and ".." not in Path(file).parts
                return _Part(key_, FileFacts(file, nbytes, sha256)) if inside else None
    except (CompressorError, ValueError, RecursionError):
        pass
    return None


def key(content: Any) -> str:
    """What tells the content of a part from any other: of all that decides it, as JSON."""
    return _digest(json.dumps(content, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
