"""The experiments of a repository: its metrics and parameters at commits and at DVC's experiments, read from Git alone.

Metrics that Git tracks (`cache: false`) are files of an experiment's own commit, and so are the parameters.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from compressor.errors import UsageError
from compressor.evaluation.metrics import MADE_FOR

from .. import revisions, yaml
from ..revisions import git
from .facts import Run, Values

MOST_RUNS = 500  # the newest: of more, no eye finds its way in a plot
FOLDER, METRICS, PARAMS = "compression", "metrics.json", "params.yaml"

_PLAIN = "--no-show-signature"  # where log.showSignature is set, what GnuPG says would stand among the hashes
_COMMITTED = re.compile(r"^committer .* (-?\d+) [+-]\d{4}$", re.MULTILINE)
_OBJECT = re.compile(rb"([0-9a-f]{40,}) (?:blob|tree|commit) (\d+)\n")  # of one that is not there, its name is printed


@dataclass(frozen=True)
class _Commit:
    """A commit that may hold metrics. name: of the experiment, or its subject; origin: as that of a run."""

    revision: str
    name: str
    origin: str
    when: int


def runs() -> tuple[tuple[Run, ...], str]:
    """What the repository of the current folder has measured, the newest first; and what there is to say of that."""
    try:
        inside = git.run(Path(), "rev-parse", "--show-prefix")
    except UsageError as error:
        return (), str(error)
    if inside.returncode:
        reason = " ".join(inside.stderr.decode(errors="replace").split()).removeprefix("fatal: ")
        return (), f"There are no experiments to compare with: {reason}."
    prefix = os.fsdecode(inside.stdout.removesuffix(b"\n"))
    with _objects() as objects:
        commits = sorted(_commits(objects), key=lambda commit: -commit.when)
        known: dict[str, dict[str, str]] = {}
        measured = (run for commit in commits for run in _measured(objects, prefix, commit, known))
        found = tuple(itertools.islice(measured, MOST_RUNS + 1))
    if not found:
        return (), "No commit and no DVC experiment has metrics yet: commit compression/metrics.json with each run."
    return found[:MOST_RUNS], f"Only the newest {MOST_RUNS} are shown." if len(found) > MOST_RUNS else ""


def flat(values: object, prefix: str = "") -> dict[str, str]:
    """Parameters as text by dotted key.

    >>> flat({"target": "iOS17", "evaluate": {"limits": {"size_ratio": 4}}})
    {'target': 'iOS17', 'evaluate.limits.size_ratio': '4'}
    """
    if not isinstance(values, dict):
        return {prefix: values if isinstance(values, str) else json.dumps(values, default=str)} if prefix else {}
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def _commits(objects: _Objects) -> Iterator[_Commit]:
    """The commits of this branch that changed metrics, and the experiments."""
    log = git.run(Path(), "log", _PLAIN, f"--max-count={MOST_RUNS + 1}", "--format=%H", "--", FOLDER)
    branch = [(revision, "", "commit") for revision in log.stdout.decode().split()]
    for revision, name, origin in (
        *branch,
        *((one.commit, one.name, "experiment") for one in revisions.experiments(Path())),
    ):
        own = objects.read(revision)
        if own is not None:
            head, _, message = own[1].decode("utf-8", "replace").partition("\n\n")
            committed = _COMMITTED.search(head)
            yield _Commit(revision, name or message.partition("\n")[0], origin, int(committed[1]) if committed else 0)


class _Objects:
    """One `git cat-file --batch`, for hundreds of files."""

    def __init__(self, asked: IO[bytes], answers: IO[bytes]) -> None:
        self.asked, self.answers = asked, answers

    def read(self, name: str) -> tuple[str, bytes] | None:
        """The hash and the content of an object; None where there is none of that name."""
        self.asked.write(os.fsencode(name) + b"\n")
        self.asked.flush()
        head = _OBJECT.fullmatch(self.answers.readline())
        if head is None:
            return None
        content = self.answers.read(int(head[2]))
        self.answers.read(1)
        return head[1].decode(), content


@contextmanager
def _objects() -> Iterator[_Objects]:
    command = ["git", "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield _Objects(process.stdin, process.stdout)


def _measured(objects: _Objects, prefix: str, commit: _Commit, known: dict[str, dict[str, str]]) -> Iterator[Run]:
    """What a commit has measured, one run a target.

    known: the parameters of files that were read already, by hash; those of this one are added.
    """
    found = _metrics(objects, f"{commit.revision}:{prefix}{FOLDER}")
    params = _params(objects, f"{commit.revision}:{prefix}{PARAMS}", known) if found else {}
    for target, values in found:
        made_for = str(values.get(MADE_FOR, target))
        yield Run(commit.name, commit.revision[:7], commit.when, commit.origin, made_for, values, params)


def _metrics(objects: _Objects, folder: str) -> list[tuple[str, Values]]:
    """The metrics of the one target, or of each, by the name of its folder."""
    places = [("", f"{folder}/{METRICS}")]
    if objects.read(places[0][1]) is None:
        tree = objects.read(folder)
        places = [(name, f"{folder}/{name}/{METRICS}") for name in (_folders(*tree) if tree else ())]
    found: list[tuple[str, Values]] = []
    for name, place in places:
        read = objects.read(place)
        try:
            values = json.loads(read[1]) if read else None
        except (ValueError, RecursionError):  # an old commit is what it is
            continue
        if isinstance(values, dict):
            found.append((name, values))
    return found


def _folders(hashed: str, tree: bytes) -> Iterator[str]:
    """The folders in a tree: entries of a mode, a name, a zero and a hash, which is as long as that of the tree."""
    while tree:
        entry, _, rest = tree.partition(b"\0")
        mode, _, name = entry.partition(b" ")
        if mode == b"40000" and b"\n" not in name:
            yield os.fsdecode(name)
        tree = rest[len(hashed) // 2 :]


def _params(objects: _Objects, name: str, known: dict[str, dict[str, str]]) -> dict[str, str]:
    read = objects.read(name)
    if read is None:
        return {}
    hashed, content = read
    if hashed not in known:
        try:
            known[hashed] = flat(yaml.read(content.decode("utf-8", "replace"), name))
        except UsageError:  # an old commit is what it is
            known[hashed] = {}
    return known[hashed]


@dataclass(frozen=True)
class Head:
    """The commit that is checked out; no revision where there is none.

    dirty: whether metrics, parameters or what DVC has locked are not as they were committed.
    """

    revision: str = ""
    subject: str = ""
    dirty: bool = False


def head() -> Head:
    try:
        shown = git.run(Path(), "log", _PLAIN, "-1", "--format=%h%x00%s")
    except UsageError:
        return Head()
    if shown.returncode or not shown.stdout:
        return Head()
    revision, _, subject = shown.stdout.decode("utf-8", "replace").strip("\n").partition("\0")
    changed = git.run(Path(), "status", "--porcelain", "--untracked-files=no", "--", FOLDER, PARAMS, "dvc.lock")
    return Head(revision, subject, dirty=bool(changed.stdout.strip()))
