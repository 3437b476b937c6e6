"""A source that changes while it is read: what was made of two states of it is never published."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.arrays import MappedArray
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.formats.onnx import reading
from compressor.formats.wire import FileBytes, WireError
from compressor.stages import progress
from tests.faults.commands import chain, done, refused, snapshot, weights
from tests.formats.coreml import models as coreml_models


def replaced(file: Path) -> None:
    """As most programs write: a new file takes the name."""
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


def written_to(file: Path) -> None:
    """As a training does that goes on, its size the same."""
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    later = file.stat().st_mtime_ns + 1_000_000  # clocks of file systems are coarse
    os.utime(file, ns=(later, later))


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


CHANGES = [(replaced, "was replaced"), (written_to, "was written to"), (cut_short, "was written to")]
SOURCES = {
    "one file": ("m.onnx", "m.onnx"),
    "external": ("e.onnx", "e.onnx.data"),
    "graph": ("e.onnx", "e.onnx"),
    "package": ("m.mlpackage", "m.mlpackage/Data/com.apple.CoreML/weights/weight.bin"),
    "shard": ("folder", "folder/model.safetensors"),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """What is read, and the file of it that changes."""
    named, file = SOURCES[request.param]
    if named.startswith("e."):
        chain(Path(named), external=True)
    elif named == "m.mlpackage":
        coreml_models.save(Path(named), 9, {name: Dense(array) for name, array in weights().items()})
    elif named == "folder":
        from safetensors.numpy import save_file

        Path(named).mkdir()
        Path(named, "config.json").write_text("{}")
        save_file(weights(), file)
    else:
        chain(Path(named))
    return named, Path(file)


@contextmanager
def at(phase: str, change: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block in which something happens after the first weight of a phase."""
    left = [change]

    @contextmanager
    def shown() -> Iterator[Callable[[str, int, int], None]]:
        yield lambda now, *_: left.pop()() if now == phase and left else None

    monkeypatch.setattr(progress, "shown", shown)
    yield
    assert not left, "the phase did not come"


def check(arguments: list[object], phase: str, file: Path, change: tuple[Callable[[Path], None], str], patch) -> None:
    how, says = change
    before = snapshot(Path("out"))
    with at(phase, lambda: how(file), patch):
        refused(*arguments, status=1, says=f"{file}: {says} while it was read", changes=[file])
    assert snapshot(Path("out")) == before


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "shard"], indirect=True)  # it has no graph
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0].__name__)
@pytest.mark.parametrize("phase", ["detect", "compress", "verify"])
def test_a_source_that_changes_while_it_is_compressed(
    source: tuple[str, Path], phase: str, change: tuple[Callable[[Path], None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named, file = source
    target = ["--target", "iOS18"] if named.endswith("mlpackage") else []
    if target:
        for old in Path("out").iterdir():
            old.unlink()
    check(["compress", named, "out", *target], phase, file, change, monkeypatch)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0].__name__)
@pytest.mark.parametrize("command", [["detect"], ["detect", "--out", "found.json"], ["compress", "out", "--dry-run"]])
def test_a_source_that_changes_while_it_is_looked_at(
    source: tuple[str, Path],
    command: list[str],
    change: tuple[Callable[[Path], None], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named, file = source
    target = ["--target", "iOS18"] if named.endswith("mlpackage") and command[0] == "compress" else []
    check([command[0], named, *command[1:], *target], "detect", file, change, monkeypatch)


def test_a_file_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    chain(Path("m.onnx"))
    with at("verify", Path("m.onnx").unlink, monkeypatch):
        refused(
            "compress", "m.onnx", "out", status=1, says="m.onnx: is gone while it was read", changes=[Path("m.onnx")]
        )


def test_a_model_that_was_read_before_it_changed() -> None:
    """From Python a model may be held for long: it is of the moment when it was read."""
    import compressor
    from compressor import sources

    model = sources.read(chain(Path("m.onnx")))
    compressor.compress(model, "new")
    replaced(Path("m.onnx"))
    for work in (compressor.detect, lambda one: compressor.compress(one, "new"), compressor.dry_run):
        with pytest.raises(CompressorError, match=r"m\.onnx: was replaced while it was read"):
            work(model)


def test_slices_of_a_file_that_was_cut_short() -> None:
    Path("data").write_bytes(bytes(64))
    array = MappedArray(Path("data"), 32, (8,), np.dtype(np.float32))
    held = np.asarray(array)
    with Path("data").open("rb") as file:
        window = FileBytes(file.fileno())
        assert window[0] == 0
        os.truncate("data", 16)
        with pytest.raises(WireError, match="cut short to 16 bytes while it was read"):
            window[8:64]
    assert held.sum() == 0  # in a mapping this would end the process
    with pytest.raises(CompressorError, match="data: cannot read bytes 32 to 64: the file ends before"):
        np.asarray(array)


@pytest.mark.parametrize("file", ["m.onnx", "out/model.onnx"])
def test_files_that_change_while_they_are_evaluated(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is one model and one artefact."""
    chain(Path("m.onnx"), weights(seed=1))
    inputs = np.zeros((4, 64), np.float32)
    np.savez("data.npz", x=inputs)
    data = ["-S", "evaluate.data=data.npz"]
    done("evaluate", "m.onnx", "out", "--out", "metrics.json", *data)
    with at("evaluate", lambda: replaced(Path(file)), monkeypatch):
        says = f"{file}: was replaced while it was read"
        refused("evaluate", "m.onnx", "out", "--out", "metrics.json", *data, status=1, says=says)


def test_a_file_that_changes_while_it_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    load = reading.load

    def loaded(path: Path) -> onnx.ModelProto:
        model = load(path)
        replaced(path)
        return model

    chain(Path("m.onnx"))
    monkeypatch.setattr(reading, "load", loaded)
    refused("export", "m.onnx", "new", status=1, says=" while it was read: what was made of it is discarded")
