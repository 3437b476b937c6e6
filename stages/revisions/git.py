"""What is asked of Git, each as one call of its command."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from compressor.errors import UsageError

MOST_SUGGESTED = 5


@dataclass(frozen=True)
class Experiment:
    """An experiment of DVC.

    name: which `dvc exp run` printed, or that was given with `-n`.
    commit, baseline: hashes of its own commit, and of the one that it started from.
    """

    name: str
    commit: str
    baseline: str


def run(
    folder: Path, *arguments: str, given: bytes = b"", out: IO[bytes] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """The finished git command, whatever its status.

    given: what it reads from stdin.
    out: where its output goes, an open file or into what is returned.

    Raises:
        UsageError: git is not installed.
    """
    # Its messages are shown beside ours; a name is no pattern; a command that only reads must not write the index.
    environment = os.environ | {"LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, input=given, stdout=out, stderr=subprocess.PIPE, check=False, env=environment)
    except OSError as error:
        raise UsageError(f"git cannot be run: {error.strerror}. Revisions are read by it: install it.") from error


def top(folder: Path) -> Path:
    """The folder that the repository around `folder` is checked out to.

    Raises:
        UsageError: there is no repository.
    """
    found = run(folder, "rev-parse", "--show-toplevel")
    if found.returncode:
        reason = " ".join(found.stderr.decode(errors="replace").split()).removeprefix("fatal: ")
        raise UsageError(f"{folder.resolve()}: no revision can be read here: {reason}.")
    return Path(os.fsdecode(found.stdout.removesuffix(b"\n")))


def commit(folder: Path, name: str) -> str:
    """The hash of the commit that a revision is, or an experiment of that name.

    Raises:
        UsageError: there is none.
    """
    found = run(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode == 0:
        return found.stdout.decode().split()[-1]
    named = [one for one in experiments(folder) if one.name == name]
    if len(named) > 1:  # DVC too prefers the one of the commit that is checked out
        head = run(folder, "rev-parse", "--verify", "--quiet", "HEAD").stdout.decode().strip()
        named = [one for one in named if one.baseline == head] or named
    if len(named) > 1:
        which = ", ".join(one.commit[:10] for one in named)
        raise UsageError(f"{name}: {len(named)} experiments have this name: {which}. Name one by its commit.")
    if named:
        return named[0].commit
    raise UsageError(_missing(folder, name))


def experiments(folder: Path = Path()) -> list[Experiment]:
    """All experiments of DVC in the repository around a folder, in the order of their names."""
    listed = run(folder, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").stdout.decode()
    found = []
    for reference in listed.splitlines():
        name, _, hashed = reference.rpartition(" ")
        parts = name.split("/")  # refs/exps/12/34567.../name; queues and checkpoints have other forms
        if len(parts) == 5 and len(parts[2]) == 2 and len(parts[3]) >= 38:
            found.append(Experiment(parts[4], hashed, parts[2] + parts[3]))
    return sorted(found, key=lambda one: (one.name, one.commit))


def names(folder: Path = Path()) -> list[str]:
    """The branches, tags and experiments of the repository around a folder; none where there is no repository."""
    known = run(folder, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    return [*known.stdout.decode(errors="replace").split("\n")[:-1], *(one.name for one in experiments(folder))]


def _missing(folder: Path, name: str) -> str:
    known = names(folder)
    if not known and run(folder, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
        return f"no revision {name!r}: the repository has no commits yet."
    elsewhere = [one for one in known if one.endswith(f"/{name}")]
    close = elsewhere or difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if run(folder, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
        hint += " The clone is shallow: `git fetch --unshallow` brings what is older."
    if not hint and known:
        more = ", ..." if len(known) > MOST_SUGGESTED else ""
        hint = f" Branches, tags and experiments: {', '.join(known[:MOST_SUGGESTED])}{more}."
    return f"no revision {name!r}.{hint}"


def listed(folder: Path, commit: str, below: PurePosixPath) -> dict[PurePosixPath, str]:
    """The hashes of a commit's files by their names from its top: of the file `below`, or of those in that folder.

    A link has the hash of the file that it leads to; one that leads to no file of the commit is left out, as
    submodules are.
    """
    where = [str(below)] if below.parts else []
    entries = run(folder, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *where).stdout
    found = {}
    for entry in entries.split(b"\0")[:-1]:
        facts, _, name = entry.partition(b"\t")
        mode, _, hashed = facts.decode().split()
        path = PurePosixPath(os.fsdecode(name))
        if ".." in path.parts:  # a made-up commit may hold such a name
            continue
        if mode == "120000":
            hashed, _ = _followed(folder, f"{commit}:{path}", "--batch-check")
        if mode != "160000" and hashed:
            found[path] = hashed
    return found


def blob(folder: Path, name: str) -> bytes | None:
    """The bytes of a file, named by its hash or as `commit:path`, links followed; None if there is none."""
    hashed, content = _followed(folder, name, "--batch")
    return content[:-1] if hashed else None


def _followed(folder: Path, name: str, how: str) -> tuple[str, bytes]:
    """The hash of the file that a name leads to, empty if there is none, and what follows it."""
    if "\n" in name:
        return "", b""
    answer = run(folder, "cat-file", how, "--follow-symlinks", given=os.fsencode(name) + b"\n").stdout
    head, _, rest = answer.partition(b"\n")
    facts = re.fullmatch(rb"([0-9a-f]{40,64}) blob [0-9]+", head)
    return (facts[1].decode(), rest) if facts else ("", b"")
