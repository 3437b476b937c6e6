"""What is told of models, code and data without being asked: from real files of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressor.errors import CompressorError
from compressor.evaluation.samples import Samples
from compressor.stages.init import checkpoints, code, inputs
from compressor.stages.init.checkpoints import FOLDER, MODULE, ONNX, PROGRAM, SCRIPT, STATE

GRAPH = """<ir_version: 10, opset_import: ["": 18]>
net (int64[batch,sequence] ids, float16[1,3] scale, float[?,2] rest) => (int64[batch,sequence] y)
{ y = Identity(ids) }"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.fc(image) * scale)


def made(folder: Path, name: str) -> Path:
    """A model file as a training writes it."""
    path, net, example = folder / name, Net().eval(), (torch.ones(2, 4), torch.ones(2, 1))
    match name:
        case "state.pt":
            torch.save(net.state_dict(), path)
        case "old.pth":
            torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
        case "wrapped.ckpt":
            torch.save({"epoch": 3, "state_dict": net.state_dict(), "hyper": {"lr": 0.1}}, path)
        case "module.pt":
            torch.save(nn.Sequential(nn.Linear(2, 2)), path)
        case "own.bin":
            torch.save(net, path)
        case "script.pt":
            torch.jit.save(torch.jit.script(net), path)
        case "program.pt2":
            batch = torch.export.Dim("batch")
            torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: batch}, {0: batch})), path)
        case "net.safetensors":
            save_file(net.state_dict(), path)
        case "net.onnx":
            onnx.save(onnx.parser.parse_model(GRAPH), path)
        case "exported":
            path.mkdir()
            onnx.save(onnx.parser.parse_model(GRAPH), path / "model.onnx")
        case "bert":
            path.mkdir()
            (path / "config.json").write_text(json.dumps({"vocab_size": 30, "max_position_embeddings": 64}))
        case "vit":
            path.mkdir()
            (path / "config.json").write_text(json.dumps({"image_size": 32, "num_channels": 1}))
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("state.pt", STATE),
        ("old.pth", STATE),
        ("wrapped.ckpt", STATE),
        ("module.pt", MODULE),
        ("own.bin", MODULE),
        ("script.pt", SCRIPT),
        ("program.pt2", PROGRAM),
        ("net.safetensors", STATE),
        ("net.onnx", ONNX),
        ("exported", ONNX),
        ("bert", FOLDER),
    ],
)
def test_the_kind_of_a_file(tmp_path, name, expected):
    assert checkpoints.kind(made(tmp_path, name)) == expected


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 cut"])
def test_what_is_no_checkpoint_is_left_to_the_export_or_refused(tmp_path, content):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    assert checkpoints.kind(path) == STATE  # `export` says what is wrong with it, and where


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "kind", "said", "axes"),
    [
        (
            "net.onnx",
            ONNX,
            "ids=int64[batch,sequence] scale=float16[1,3] rest=float32[rest.0,2]",
            {"batch": 1, "rest.0": 1},
        ),
        ("program.pt2", PROGRAM, "image=float32[batch,4] scale=float32[batch,1]", {"batch": 1}),
        (
            "bert",
            FOLDER,
            "input_ids=int64[batch,sequence] attention_mask=int64[batch,sequence]",
            {"batch": 1, "sequence": [1, 64]},
        ),
        ("vit", FOLDER, "pixel_values=float32[batch,1,32,32]", {"batch": 1}),
    ],
)
def test_the_inputs_that_a_model_says(tmp_path, name, kind, said, axes):
    told = inputs.of_model(kind, made(tmp_path, name))
    assert told is not None
    assert inputs.describe(told.inputs or told.had) == said
    assert told.axes == axes
    assert bool(told.inputs) == (kind != ONNX)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_the_names_that_a_script_has(tmp_path):
    assert inputs.names(SCRIPT, made(tmp_path, "script.pt"), None) == ("image", "scale")


FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, image, scale=None, *, flag=False): ...

def plain():
    return Net()

def filled():
    net = Net()
    net.w = nn.Parameter(torch.ones(2))
    float(net.w.sum())  # needs a value
    return net

def wrong():
    return 3
"""


@pytest.mark.parametrize("name", ["Net", "plain", "filled"])
def test_the_names_that_a_factory_leads_to(tmp_path, monkeypatch, name):
    (tmp_path / f"nets_{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    assert inputs.names(STATE, tmp_path / "net.pt", f"nets_{name}:{name}") == ("image", "scale")


def test_a_factory_of_something_else(tmp_path, monkeypatch):
    (tmp_path / "nets_wrong.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompressorError, match="--factory nets_wrong:wrong: returns a int: expected a torch"):
        inputs.names(STATE, tmp_path / "net.pt", "nets_wrong:wrong")


ONE, TWO = np.zeros((5, 3), np.float32), np.zeros((5, 2, 2), np.int64)


@pytest.mark.parametrize(
    ("given", "names", "said"),
    [
        (ONE, ("x", "y"), "x=float32[batch,3]"),
        ([ONE, TWO], ("x", "y"), "x=float32[batch,3] y=int64[batch,2,2]"),
        ((TWO, ONE), ("x", "y"), "x=int64[batch,2,2] y=float32[batch,3]"),
        ({"b": TWO}, (), "b=int64[batch,2,2]"),
        (torch.zeros(4, 1), ("x",), "x=float32[batch,1]"),
        (ONE.astype(np.float64), ("x",), "x=float32[batch,3]"),
        (ONE.astype(bool), ("x",), "x=bool[batch,3]"),
    ],
)
def test_the_inputs_that_data_has(given, names, said):
    told = inputs.of_data("data", Samples("data", given, None), names)
    assert inputs.describe(told.inputs) == said
    assert told.axes == {"batch": 1}


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        ([ONE, TWO], ("x",), "returns 2 inputs, the model's are x"),
        (ONE, (), "returns 1 inputs, the model's are unknown"),
        (np.float32(1), ("x",), "input x is no array of numbers"),
        ({"x": ["a", "b"]}, (), "input x is no array of numbers"),
        ({}, (), "is no array of numbers"),
    ],
)
def test_data_that_tells_no_inputs(given, names, message):
    with pytest.raises(CompressorError, match=message):
        inputs.of_data("data", Samples("data", given, None), names)


def test_the_files_that_a_function_is_made_of(tmp_path):
    """Its module and what that imports of the project, in whatever way; nothing that only says what it is."""
    texts = {
        "src/net/__init__.py": '"""A network."""\n',
        "src/net/model.py": "from . import layers\nfrom .parts.head import A\nimport torch\nfrom net import helpers\n",
        "src/net/layers.py": "import numpy\nfrom net.model import create  # a circle\n",
        "src/net/parts/__init__.py": "from .tail import Tail\n",
        "src/net/parts/head.py": "",
        "src/net/parts/tail.py": "x = 1\n",
        "src/net/helpers.py": "import json, shared\n",
        "src/net/unused.py": "x = 1\n",
        "shared.py": "def broken(:\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = [file.relative_to(tmp_path).as_posix() for file in code.files_of("net.model:create", tmp_path)]
    assert found == [
        "shared.py",
        "src/net/helpers.py",
        "src/net/layers.py",
        "src/net/model.py",
        "src/net/parts/__init__.py",
        "src/net/parts/head.py",
        "src/net/parts/tail.py",
    ]
    assert code.files_of("torch.nn:Linear", tmp_path) == ()
