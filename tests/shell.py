"""What commands run under that a test starts as a user would: this interpreter's programs, nobody's settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def environment(home: Path) -> dict[str, str]:
    """The variables of a shell whose user is called tester."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(home),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "3",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "tester",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "tester@example.org",
        "GIT_CONFIG_KEY_2": "init.defaultBranch",
        "GIT_CONFIG_VALUE_2": "main",
    }


def cloned(repository: Path, place: Path) -> None:
    """Make a repository with one commit, on main, of the files that Git has of another one as they lie there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (repository / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, place / name)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all of it"]):
        subprocess.run(["git", *command], cwd=place, env=environment(place.parent), check=True)


def output(place: Path, variables: dict[str, str], typed: str) -> str:
    """What a line prints on stdout that is typed in a folder, and must end well."""
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"$ {typed}\n{done.stdout}\n{done.stderr}"
    return done.stdout
