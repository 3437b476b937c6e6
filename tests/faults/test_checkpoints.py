"""Checkpoints of torch: cut off, damaged, not what they seem, and those that would run code."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from compressor.stages import app
from tests.faults.commands import done, encodings, refused, snapshot

ALLOW = "if you trust the file, set export.allow_pickle: true in params.yaml (or -S export.allow_pickle=true)"


@pytest.fixture(autouse=True)
def factory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    Path("faulty_factory.py").write_text("import torch\n\ndef create():\n    return torch.nn.Linear(64, 64)\n")
    Path("params.yaml").write_text("export: {factory: 'faulty_factory:create', inputs: {input: {shape: [1, 64]}}}")


def state() -> dict[str, torch.Tensor]:
    values = torch.tensor([-1.0, -0.5, 0.5, 1.0])[
        torch.randint(0, 4, (64 * 64,), generator=torch.Generator().manual_seed(0))
    ]
    return {"weight": values.reshape(64, 64), "bias": torch.arange(64.0)}


def written(path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state(), path)
    elif path.suffix == ".pth":
        torch.save(state(), path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state(), path)
    return path


FILES = {"m.pt": "truncated or not a torch", "m.pth": "", "m.safetensors": "not a readable safe"}


@pytest.mark.parametrize("kept", [0.0, 0.0002, 0.01, 0.5, 0.99, 0.99999])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_is_cut_off(name: str, kept: float) -> None:
    content = written(Path(name)).read_bytes()
    Path(name).write_bytes(content[: int(len(content) * kept)])
    refused("compress", name, "out", status=1, says=f"{name}: {FILES[name]}")


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_at_the_beginning(name: str) -> None:
    content, rng = written(Path(name)).read_bytes(), np.random.default_rng(0)
    statuses = set()
    for _ in range(12):
        damaged = bytearray(content)
        for place in rng.integers(0, 400, 3):
            damaged[place] ^= int(rng.integers(1, 256))
        Path(name).write_bytes(damaged)
        before = snapshot(Path("out"))
        ended = CliRunner().invoke(app.app, ["export", name, "exported"])
        statuses.add(ended.exit_code)
        if ended.exit_code != 0:
            assert ended.exit_code == 1
            assert ended.stderr.startswith(f"error: {name}")
            assert len(ended.stderr.splitlines()) == 1
        assert snapshot(Path("out")) == before
    assert 1 in statuses


class Evil:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"weight": Evil()}, "system"),
        ({"state_dict": {}, "args": argparse.FileType("w")}, "argparse.FileType"),
        (torch.nn.Linear(64, 64), "torch.nn.modules.linear.Linear"),
    ],
    ids=["a command", "a type of files", "a module"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code(content: object, named: str, zipped: bool) -> None:  # noqa: FBT001
    torch.save(content, "m.pt", _use_new_zipfile_serialization=zipped)
    for command in ("compress", "export"):
        said = refused(command, "m.pt", "out", status=1, says="this pickle runs code when it is loaded (")
        assert named in said
        assert ALLOW in said
    assert not Path("pwned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_runs_no_code_either(protocol: int) -> None:
    Path("m.pt").write_bytes(pickle.dumps(Evil(), protocol))
    refused("compress", "m.pt", "out", status=1, says="m.pt: ")
    assert not Path("pwned").exists()


def test_the_option_that_is_named_works() -> None:
    module = torch.nn.Linear(64, 64)
    module.load_state_dict(state())
    torch.save(module, "m.pt")
    done("compress", "m.pt", "out", "-S", "export.allow_pickle=true", "-S", "export.factory=null")
    assert encodings(Path("out"))["weight"] == "palettized2"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_later_protocol_than_the_reader_knows() -> None:
    torch.save(state(), "m.pt", pickle_protocol=5)
    said = refused("compress", "m.pt", "out", status=1, says="a later pickle_protocol than torch's default")
    assert ALLOW in said
    done("compress", "m.pt", "out", "-S", "export.allow_pickle=true")
    assert encodings(Path("out"))["weight"] == "palettized2"


@pytest.mark.parametrize(
    ("setting", "status", "says"),
    [
        ("export.factory=faulty_factory:make", 2, "'make'. Choices: create."),
        ("export.factory=absent:create", 2, "no module 'absent'"),
        ("export.factory=create", 2, "expected module:function"),
        ("export.inputs.input.dtype=float31", 2, "'float31'. Did you mean 'float32'?"),
        ("export.inputs.input.shape=[1,63]", 2, "Linear.forward refused the declared inputs (input float32 [1, 63])"),
        ("export.inputs.image.shape=[1]", 2, "export.inputs.image is no parameter of it"),
        ("export.opset=99", 2, "export.opset is 99: expected 18 to 25"),
        ("export.args={x: 1}", 2, "export.factory faulty_factory:create takes no argument 'x', and no other."),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint(setting: str, status: int, says: str) -> None:
    written(Path("m.pt"))
    refused("export", "m.pt", "out", "-S", setting, status=status, says=says)


def test_weights_of_another_model() -> None:
    torch.save({"weight": torch.zeros(3, 64), "bais": torch.zeros(64)}, "m.pt")
    said = refused("export", "m.pt", "out", status=1, says="m.pt does not fit the model of export.factory")
    for part in ("bias (closest: bais)", "weight is [3, 64] in the file, [64, 64] in the model"):
        assert part in said


def test_a_checkpoint_has_no_graph() -> None:
    written(Path("m.pt"))
    Path("params.yaml").unlink()
    refused("compress", "m.pt", "out", status=2, says="export.")
    done("inspect", "m.pt")
