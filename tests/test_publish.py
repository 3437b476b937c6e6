"""Publishing: whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressor import publish
from compressor.errors import CompressorError


def tree(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in sorted(path.rglob("*")) if file.is_file()}


def write(path: Path, content: str, error: BaseException | None = None) -> None:
    with publish.directory(path) as directory:
        (directory / "model").write_text(content)
        if error is not None:
            raise error


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    (path / "model").write_text("old")
    (path / "more").write_text("old")
    return path


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out"
    with publish.directory(path) as directory:
        (directory / "model").write_text("new")
        assert directory.parent == path.parent
        assert not path.exists()
    assert tree(tmp_path) == {"a/b/out/model": "new"}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


def test_a_directory_is_replaced_as_a_whole(out: Path) -> None:
    write(out, "new")
    assert tree(out.parent) == {"out/model": "new"}


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(1)], ids=lambda error: type(error).__name__
)
def test_an_error_in_the_middle_leaves_the_old_one(out: Path, error: BaseException) -> None:
    before = tree(out.parent)
    with pytest.raises(type(error)):
        write(out, "half", error)
    assert tree(out.parent) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_full_disk_leaves_the_old_one(out: Path) -> None:
    before = tree(out.parent)
    with pytest.raises(CompressorError) as caught:
        write(out, "half", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(caught.value) == f"{out}: cannot be written: No space left on device. Nothing was changed."
    assert tree(out.parent) == before


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_puts_the_old_one_back(out: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    rename, calls = Path.rename, []

    def fail(self: Path, target: Any) -> Any:
        calls.append(self)
        if len(calls) == failing:
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    before = tree(out.parent)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CompressorError, match="cannot be written: broken"):
        write(out, "new")
    assert tree(out.parent) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from compressor import publish
path, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "between the renames":
    rename = Path.rename
    def kill(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = kill
with publish.directory(path) as directory:
    (directory / "model").write_text("half")
    if moment == "while writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["while writing", "between the renames"])
def test_a_killed_run_is_swept_by_the_next_one(out: Path, moment: str) -> None:
    before = tree(out)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), moment], check=False, cwd=Path.cwd())
    assert killed.returncode == -signal.SIGKILL
    assert len(list(out.parent.iterdir())) == 2
    if moment == "while writing":
        assert tree(out) == before
    with pytest.raises(ValueError, match="again"):
        write(out, "half", ValueError("again"))
    assert tree(out.parent) == {f"out/{name}": content for name, content in before.items()}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    write(out, "new")
    assert tree(out.parent) == {"out/model": "new"}


@pytest.mark.parametrize("name", ["out-2", "out-int8", "out2", "a", "out-old"])
def test_what_another_run_writes_at_the_same_moment_is_left_alone(out: Path, name: str) -> None:
    with publish.directory(out.parent / name) as other:
        (other / "model").write_text("other")
        write(out, "new")
        assert (other / "model").exists()
    assert tree(out.parent) == {"out/model": "new", f"{name}/model": "other"}


@pytest.mark.parametrize("name", ["out[1]", "*", "ou?", "öut", "o u t", "-out"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(path), "while writing"], check=False, cwd=Path.cwd())
    write(path, "new")
    assert [other.name for other in tmp_path.iterdir()] == [name]


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("a file")
    with pytest.raises(CompressorError, match=r"out: is a file, expected a directory"):
        write(path, "new")
    assert tree(tmp_path) == {"out": "a file"}


@pytest.mark.parametrize("below", ["out", "sub/out"])
def test_a_place_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressorError, match="cannot be written: "):
        write(tmp_path / "file" / below, "new")
    with pytest.raises(CompressorError, match="cannot be written: "):
        publish.text(tmp_path / "file" / below, "new")
    assert tree(tmp_path) == {"file": ""}


def test_text_is_written_with_unix_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.json"
    publish.text(path, "a\nü\n")
    assert path.read_bytes() == b"a\n\xc3\xbc\n"
    publish.text(path, "b")
    assert tree(tmp_path) == {"deep/metrics.json": "b"}


def test_text_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    publish.text(path, "old")

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CompressorError, match=r"metrics\.json: cannot be written: No space left on device"):
        publish.text(path, "new")
    assert tree(tmp_path) == {"metrics.json": "old"}
