"""Publishing: whole or not at all, whatever happens in the middle."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from compressor.compilation import publish, renaming
from compressor.errors import CompressorError, UsageError


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
    """On a file system that cannot exchange two directories."""
    rename, calls = Path.rename, []

    def fail(self: Path, target: Any) -> Any:
        calls.append(self)
        if len(calls) == failing:
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    def exchange(*_: Path) -> bool:
        monkeypatch.setattr(Path, "rename", fail)
        return False

    before = tree(out.parent)
    monkeypatch.setattr(renaming, "exchange", exchange)
    with pytest.raises(CompressorError, match="cannot be written: broken"):
        write(out, "new")
    assert tree(out.parent) == before


KILLED = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path
from compressor.compilation import publish, renaming
path, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "between the renames":  # of a file system that cannot exchange two directories
    rename = Path.rename
    def kill(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    def exchange(*_):
        Path.rename = kill
        return False
    renaming.exchange = exchange
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
    assert len(list(out.parent.iterdir())) == 3  # the lock, which nobody holds
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


def test_an_attempt_that_fails_leaves_nothing_to_whoever_is_late(tmp_path: Path) -> None:
    """A worker that was given up writes into the attempt that it was given, or nowhere."""
    with publish.directory(tmp_path / "out") as directory:
        with suppress(KeyError), publish.attempt(directory) as first:
            (first / "file").touch()
            raise KeyError
        with publish.attempt(directory) as second:
            assert second != first
            (second / "file").write_text("second")
            (second / "folder").mkdir()
            with pytest.raises(FileNotFoundError):
                (first / "file").open("r+b")
            assert [path.name for path in directory.iterdir()] == [second.name]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"file", "folder"}


def test_what_lies_beside_is_not_published_and_is_swept_after_a_kill(tmp_path: Path) -> None:
    with publish.directory(tmp_path / "out-1") as directory, publish.beside(directory) as room:
        assert room.parent == tmp_path
        (room / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out-1"]
    room.mkdir()
    with publish.directory(tmp_path / "out-1"):
        assert not room.exists()


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


def test_the_output_is_there_at_every_moment(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is exchanged in one step: nothing is renamed but what is not there yet."""
    if not exchanges(out.parent):
        pytest.skip("this file system cannot exchange two directories")
    with publish.directory(out) as directory:
        (directory / "model").write_text("new")
        monkeypatch.setattr(Path, "rename", None)
    assert tree(out.parent) == {"out/model": "new"}


def exchanges(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    able = renaming.exchange(one, other)
    one.rmdir()
    other.rmdir()
    return able


HOLDING = """
import sys
from contextlib import suppress
from pathlib import Path
from compressor.compilation import publish
with publish.directory(Path(sys.argv[1])) as directory:
    (directory / "model").write_text("first")
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing `out`."""
    command = [sys.executable, "-c", HOLDING, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_second_run_into_a_directory_is_refused_while_the_first_one_lives(
    out: Path, holder: subprocess.Popen[str]
) -> None:
    says = rf"^{out}: process {holder.pid} on {platform.node()} is writing it at this moment\. Wait until it has ended"
    with pytest.raises(CompressorError, match=says):
        write(out, "second")
    write(out.with_name("out2"), "another one is free")
    holder.communicate("go on\n")
    assert holder.returncode == 0
    assert tree(out) == {"model": "first"}
    write(out, "second")
    assert tree(out) == {"model": "second"}


def test_a_killed_run_holds_nothing(out: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    write(out, "second")
    assert tree(out.parent) == {"out/model": "second"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_two_threads_are_two_runs(out: Path) -> None:
    with publish.directory(out), pytest.raises(CompressorError, match=f"process {os.getpid()} on "):
        write(out, "second")


def test_a_file_system_without_locks_is_written_to_with_a_word(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What lies there may be another one's, who cannot be asked: it stays."""

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    left = out.with_name(".compressor-out-abcdefgh")
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    write(out, "new")
    assert "out: the file system has no locks" in caplog.text
    assert tree(out) == {"model": "new"}
    assert sorted(path.name for path in out.parent.iterdir()) == [".compressor-out-abcdefgh", "out"]


def test_folders_that_were_made_for_a_failure_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"):
        write(tmp_path / "a" / "b" / "out", "half", ValueError("wrong"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["tmpfs", "bind"])
def mounted(out: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """`out`, on which a file system is mounted; a part of the same one does not show in its device number."""
    (out.parent / "other").mkdir()
    kind = ["-t", "tmpfs", "tmpfs"] if request.param == "tmpfs" else ["--bind", str(out.parent / "other")]
    if subprocess.run(["mount", *kind, str(out)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield out
    subprocess.run(["umount", str(out)], check=True)


def test_a_mount_point_is_refused_before_the_work(mounted: Path) -> None:
    with pytest.raises(UsageError, match=r"out: a mount point.* Name a directory inside of it: .*out/model"):
        write(mounted, "new", AssertionError("the work began"))
    write(mounted / "model", "new")
    assert tree(mounted) == {"model/model": "new"}


def test_text_does_not_go_through_a_link(tmp_path: Path) -> None:
    """A cache links its files into the working tree."""
    cached, link, hard = tmp_path / "cached", tmp_path / "link", tmp_path / "hard"
    cached.write_text("old")
    link.symlink_to(cached)
    hard.hardlink_to(cached)
    for path in (link, hard):
        publish.text(path, "new")
    assert (cached.read_text(), link.read_text(), hard.read_text()) == ("old", "new", "new")
    assert not link.is_symlink()


def test_what_a_killed_run_left_of_a_text_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".compressor-a.json-abcdefgh").write_text("half")
    publish.text(tmp_path / "a.json", "whole")
    assert tree(tmp_path) == {"a.json": "whole"}


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("folder", "folder: is a directory"),
        ("file/a.json", "a.json: cannot be written: .*file is not a directory"),
        ("source", "source: would replace .*source"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path, output: str, says: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "source").touch()
    publish.check_files([None, tmp_path / "a.json", tmp_path / "new" / "b.json"], [tmp_path / "source"])
    with pytest.raises(CompressorError, match=says):
        publish.check_files([tmp_path / output], [tmp_path / "source"])
