"""Commands whose standard streams are closed, full, or read by nobody: a known exit status, and one line at most."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from compressor import native

TARGETS = f"{sys.executable} -m compressor targets"
WRONG = f"{sys.executable} -m compressor inspect nowhere"
FULL = "error: stdout: No space left on device\n"


def ended(command: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a shell's command."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (f"{TARGETS} >&-", 0, ""),
        (f"{TARGETS} <&- >&- 2>&-", 0, ""),
        (f"{WRONG} <&- >&- 2>&-", 1, ""),
        (f"{TARGETS} > /dev/full", 1, FULL),
        (f"{TARGETS} --json > /dev/full", 1, FULL),
        (f"{sys.executable} -m compressor --help > /dev/full", 1, FULL),
        (f"{sys.executable} -m compressor --version > /dev/full", 1, FULL),
        (f"{TARGETS} > /dev/full 2> /dev/full", 1, ""),
        (f"{WRONG} 2> /dev/full", 1, ""),
        (f"{sys.executable} -m compressor nothing 2> /dev/full", 2, ""),
    ],
)
def test_streams_that_cannot_be_written(command: str, status: int, said: str) -> None:
    assert ended(command) == (status, "", said)


@pytest.mark.parametrize("arguments", [["targets"], ["--help"]])
def test_a_reader_that_has_gone(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "compressor", *arguments], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_files_that_are_written_keep_apart_from_closed_streams(tmp_path) -> None:
    """The first file that is opened gets the lowest number that is free: stdout's, where that is closed."""
    out = tmp_path / "toolchain.json"
    assert ended(f"{sys.executable} -m compressor toolchain --out {out} --json <&- >&- 2>&-") == (0, "", "")
    assert ended(f"{sys.executable} -m compressor toolchain --json")[1] == out.read_text()


def test_the_version() -> None:
    said = f"compressor {version('compressor')}\n{native.described()}\n"
    assert ended(f"{sys.executable} -m compressor --version") == (0, said, "")
