"""Files, factories and declarations that do not fit are refused in one line that says what to do, and run no code."""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf

from compressor import sources
from compressor.encodings import decode
from compressor.errors import CompressorError, UsageError
from compressor.sources.torch import InputSpec, export

FEATURES = {"input": InputSpec((2, 64), dynamic={0: "batch"})}
FACTORY = "torch_networks:mlp"


@pytest.fixture
def model(importable: None) -> torch.nn.Module:
    import torch_networks

    return torch_networks.mlp()


def refused(source: Path, message: str, kind: type[CompressorError] = CompressorError, **settings) -> str:
    """The refusal of `source`: of this kind, in one line, and without any output."""
    out = source.parent / "out"
    out.mkdir()
    with pytest.raises(kind, match=message) as raised:
        export(source, out, **({"factory": FACTORY, "inputs": FEATURES} | settings))
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    assert not list(out.iterdir())
    return str(raised.value)


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path):
    witness = tmp_path / "witness"
    torch.save({"weight": RunsCode(witness)}, tmp_path / "evil.pt")
    message = refused(tmp_path / "evil.pt", r"runs code.*export\.allow_pickle: true.*-S export\.allow_pickle=true")
    assert "pathlib" in message or "getattr" in message
    assert not witness.exists()


def test_a_whole_module_needs_the_option(model, tmp_path: Path):
    torch.save(model, tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", r"torch\.nn\.modules\.container\.Sequential.*export\.allow_pickle", factory=None)


def test_a_whole_module_needs_no_factory(model, tmp_path: Path):
    torch.save(model, tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", "Remove export.factory", UsageError, allow_pickle=True)


def shortened(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:200] = b"\xff" * 140
    path.write_bytes(content)


DAMAGED = {
    "short.pt": (lambda path, m: (torch.save(m.state_dict(), path), shortened(path, 3000)), "truncated or not a torch"),
    "old.pt": (
        lambda path, m: (
            torch.save(m.state_dict(), path, _use_new_zipfile_serialization=False),
            shortened(path, 3000),
        ),
        "truncated or not a torch",
    ),
    "mangled.pt": (lambda path, m: (torch.save(m.state_dict(), path), overwritten(path)), "truncated or not a torch"),
    "noise.pt": (lambda path, _: path.write_bytes(bytes(range(256))), "truncated or not a torch"),
    "nothing.pt": (lambda path, _: path.write_bytes(b""), "truncated or not a torch"),
    "script.pt": (
        lambda path, _: (torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(path)), shortened(path, 900)),
        "truncated or not a torch",
    ),
    "list.pt": (lambda path, _: torch.save([1], path), "got a list"),
    "log.pt": (lambda path, _: torch.save({"epoch": 3, "optimizer": {}}, path), "keys epoch, optimizer"),
    "short.safetensors": (
        lambda path, m: (safetensors.torch.save_file(m.state_dict(), path), shortened(path, 3000)),
        "not a readable safetensors",
    ),
    "noise.safetensors": (lambda path, _: path.write_bytes(bytes(range(256))), "not a readable safetensors"),
    "missing.pt": (lambda _, __: None, "no such file"),
}


@pytest.mark.parametrize("file", DAMAGED)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_damaged_files(model, tmp_path: Path, file: str):
    write, message = DAMAGED[file]
    write(tmp_path / file, model)
    assert file in refused(tmp_path / file, message)


def test_a_damaged_program(tmp_path: Path):
    (tmp_path / "noise.pt2").write_bytes(bytes(range(256)))
    refused(tmp_path / "noise.pt2", "not a readable ExportedProgram", factory=None)


def test_a_program_needs_no_factory(tmp_path: Path):
    (tmp_path / "any.pt2").write_bytes(b"")
    refused(tmp_path / "any.pt2", "Remove export.factory", UsageError)


def test_unknown_suffix(tmp_path: Path):
    refused(tmp_path / "model.h5", r"'\.h5'.*\.safetensors", UsageError)


CHANGES = {
    "name": (
        lambda state: {("2.weigth" if key == "2.weight" else key): value for key, value in state.items()},
        r"missing from the file: 2\.weight \(closest: 2\.weigth\); unknown to the model: 2\.weigth",
    ),
    "shape": (
        lambda state: state | {"0.bias": torch.zeros(3), "2.weight": torch.zeros(3, 3)},
        r"shapes differ: 0\.bias is \[3\] in the file, \[64\] in the model, 2\.weight is \[3, 3\]",
    ),
    "dtype": (
        lambda state: state | {"2.weight": state["2.weight"].double()},
        r"dtypes differ: 2\.weight is float64 in the file, float32 in the model, which cannot hold it",
    ),
    "prefix": (
        lambda state: {f"module.{key}": value for key, value in state.items() if key != "2.bias"},
        r"missing from the file: 0\.weight \(closest: module\.0\.weight\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_dict_of_another_model(model, tmp_path: Path, change: str):
    edit, message = CHANGES[change]
    torch.save(edit(dict(model.state_dict())), tmp_path / "other.pt")
    refused(tmp_path / "other.pt", message)


@pytest.mark.parametrize(
    ("settings", "message", "kind"),
    [
        ({"factory": None}, r"state dict.*Set export\.factory", UsageError),
        ({"factory": "torch_networks"}, "expected module:function", UsageError),
        ({"factory": "nowhere:mlp"}, "no module 'nowhere'", UsageError),
        ({"factory": "torch_networks:mpl"}, "'mpl'.*Did you mean 'mlp'", UsageError),
        ({"factory": "torch_networks:number"}, "returned a int: expected a torch.nn.Module", CompressorError),
        (
            {"factory": "torch_networks:broken", "args": {"width": 3}},
            r"broken\(width=3\) failed: ValueError: no width 3 \(.*torch_networks\.py:\d+\)\. Correct",
            CompressorError,
        ),
        (
            {"args": {"depth": 3}},
            r"unknown argument of .*mlp \(export\.args\) 'depth'\. Did you mean 'width'\? Choices: dtype, width\.",
            UsageError,
        ),
        ({"inputs": {}}, "export.inputs is empty", UsageError),
        (
            {"inputs": {"x": InputSpec((2, 64))}},
            r"forward takes \(input\): export\.inputs\.x is no parameter of it; export\.inputs\.input is not declared",
            UsageError,
        ),
        ({"inputs": {"input": InputSpec((2, 63))}}, r"refused.*input float32 \[2, 63\].*shape", UsageError),
        ({"inputs": {"input": InputSpec((2, 64), "int64")}}, r"refused.*input int64 \[2, 64\].*dtype", UsageError),
        ({"inputs": {"input": InputSpec((2, 64), "flot32")}}, r"input\.dtype.*Did you mean 'float32'", UsageError),
        ({"inputs": {"input": InputSpec((0, 64))}}, r"export\.inputs\.input\.shape.*1 or more", UsageError),
        ({"inputs": {"input": InputSpec((2, 64), dynamic={2: "b"})}}, r"input\.dynamic names axis 2", UsageError),
        ({"inputs": {"input": InputSpec((2, 64), dynamic={0: "b", 1: "b"})}}, "one size", UsageError),
        ({"outputs": ["a", "b"]}, r"export\.outputs.*returns 1 tensors", UsageError),
        ({"opset": 17}, r"export\.opset is 17: expected 18 to 25", UsageError),
    ],
)
def test_requests_that_do_not_fit(model, tmp_path: Path, settings, message: str, kind: type[CompressorError]):
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    refused(tmp_path / "trained.pt", message, kind, **settings)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module"])
def test_a_state_dict_beside_what_trainings_save(model, tmp_path: Path, key: str):
    content = {"epoch": 3, "optimizer": {"param_groups": []}, key: model.state_dict()}
    torch.save(content, tmp_path / "trained.pt")
    export(tmp_path / "trained.pt", tmp_path, factory=FACTORY, inputs=FEATURES)
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1),
        SimpleNamespace(lr=0.1),
        Path("runs") / "3",
        np.float64(0.9),
        np.arange(3),
        defaultdict(list, loss=[0.1]),
        datetime(2020, 1, 1, tzinfo=UTC),
        OmegaConf.create({"lr": 0.1, "layers": [1, {"width": 2}]}),
    ],
    ids=["namespace", "simple", "path", "number", "array", "history", "date", "configuration"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_runs_nothing_may_lie_beside_the_weights(model, tmp_path: Path, beside: object, zipped: bool):  # noqa: FBT001
    content = {"state_dict": model.state_dict(), "cfg": beside}
    torch.save(content, tmp_path / "trained.pt", _use_new_zipfile_serialization=zipped)
    export(tmp_path / "trained.pt", tmp_path, factory=FACTORY, inputs=FEATURES)
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize("inner", [True, False])
def test_what_is_among_the_weights_is_none_of_them(tmp_path: Path, *, inner: bool):
    state = {"0.weight": np.ones((64, 64)), "0.bias": torch.ones(64)}
    torch.save({"state_dict": state} if inner else state, tmp_path / "trained.pt")
    with pytest.raises(CompressorError, match=r"0\.weight is a numpy.* among the weights, where tensors are expected"):
        sources.weights(tmp_path / "trained.pt")


def several(model: torch.nn.Module, path: Path) -> Path:
    average = {name: value * 2 for name, value in model.state_dict().items()}
    torch.save({"ema": average, "model": model.state_dict(), "epoch": 3, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(("key", "factor"), [("", 1), ("model", 1), ("ema", 2)])
def test_of_several_sets_of_weights_the_one_that_is_asked_for(
    model, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, factor: int
):
    source = several(model, tmp_path / "trained.pt")
    export(source, tmp_path, factory=FACTORY, inputs=FEATURES, key=key)
    (weight,) = (one for one in sources.read(tmp_path / "model.onnx").weights if one.name == "0.weight")
    assert np.array_equal(decode(weight.encoding), model.state_dict()["0.weight"].numpy() * factor)
    told = "took the weights under 'model'; export.key takes those under 'ema'"
    assert [record.message for record in caplog.records if record.name.startswith("compressor")] == (
        [] if key else [f"{source}: {told}"]
    )


def test_a_set_of_weights_that_is_not_there(model, tmp_path: Path):
    refused(several(model, tmp_path / "trained.pt"), "'emma'. Did you mean 'ema'", UsageError, key="emma")


def test_weights_under_another_key_alone(model, tmp_path: Path):
    torch.save({"student": model.state_dict(), "epoch": 3}, tmp_path / "trained.pt")
    refused(tmp_path / "trained.pt", "found the keys student, epoch. Weights lie under 'student': set export.key.")


def test_a_model_that_is_no_state_dict_is_none(tmp_path: Path):
    torch.save({"model": {"layers": 3}, "epoch": 3}, tmp_path / "trained.pt")
    refused(tmp_path / "trained.pt", "expected a state dict.*found the keys model, epoch")


def test_an_argument_of_the_factory_may_have_any_name(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "any_names.py").write_text("import torch\ndef build(function, what, setting): return torch.nn.ReLU()\n")
    torch.save({"weight": torch.ones(1)}, tmp_path / "trained.pt")
    monkeypatch.chdir(tmp_path)
    names = dict.fromkeys(("function", "what", "setting"), 1)
    refused(tmp_path / "trained.pt", "unknown to the model: weight", factory="any_names:build", args=names)


def test_a_factory_whose_module_fails(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "train_on_import.py").write_text("import a_module_that_is_not_installed\n")
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    refused(
        tmp_path / "trained.pt", "importing train_on_import failed: ModuleNotFound", factory="train_on_import:build"
    )
    assert sys.path == before


@pytest.mark.parametrize(
    ("codes", "library", "call"),
    [
        ({"0.weight._data": 2, "0.weight._scale": 2, "0.input_scale": 0}, "quanto", "`weight.dequantize()` of each"),
        ({"0.W_q": 2, "0.scale": 2, "0.zero": 2, "0.nbits": 0}, "HQQ", "`dequantize()` of each HQQLinear"),
    ],
)
def test_codes_of_a_library_that_is_not_read(
    model, tmp_path: Path, codes: dict[str, int], library: str, call: str
) -> None:
    state = {name: value for name, value in model.state_dict().items() if name != "0.weight"}
    torch.save({**state, **{name: torch.ones((4,) * rank) for name, rank in codes.items()}}, tmp_path / "codes.pt")
    refused(
        tmp_path / "codes.pt",
        rf"missing from the file: 0\.weight.*It holds codes of {library}, not.*{re.escape(call)}",
    )
