"""`compressor validate`: each kind of mistake, with its line, before a checkpoint is there and with one."""

import importlib.util
import json
import os
import sys

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import save_file
from typer.testing import CliRunner

from compressor.formats.coreml import importing
from compressor.stages.app import app

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.hidden = torch.nn.Linear(16, width)
        self.head = torch.nn.Linear(width, 4)

    def forward(self, features):
        return self.head(torch.relu(self.hidden(features)))

class Flow(Net):
    def forward(self, features):
        return super().forward(features) if float(features.sum()) > 0 else super().forward(-features)

def create(width=32): return Net(width)
def flow(): return Flow()
def number(): return 5
def broken(): raise ValueError("no config")
"""
DATA = """
import sys
import numpy as np
import torch
X = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
Y = np.arange(20) % 4
print("a greeting on stdout")
def held_out(): return X, Y
def wide(): return X[:, :8], Y
def double(): return X.astype(float), Y
def classes(): return X, Y + 1
def short(): return X, Y[:5]
def alone(): return X
def unlabelled(): return X, None
def split(name): return X, Y
def ragged(): return {"features": [[1.0], [1.0, 2.0]]}, Y
def trained(): return torch.ones(20, 16, requires_grad=True), Y
def ended(): sys.exit(3)
def worst(labels, outputs): raise KeyError("x")
def text(labels, outputs): return "good"
def one(labels): return 1.0
def of_classes(labels, outputs): return float("nan")
"""
PARAMS = """
target: onnxruntime
export:
  factory: validated_net:create
  inputs:
    features: {shape: [1, 16], dynamic: {0: batch}}
evaluate:
  data: validated_data:held_out
  limits: {accuracy_drop: 0.01}
"""
GRAPH = """<ir_version: 10, opset_import: ["": 18]> net (float[N,16] features) => (float[N,4] logits)
{ logits = MatMul(features, w) }"""
ALL = ["params", "imports", "factory", "checkpoint", "inputs", "graph", "onnxruntime", "data", "metric", "limits"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Training code, its settings, and checkpoints of every kind."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "validated_net.py").write_text(NET)
    (folder / "validated_data.py").write_text(DATA)
    (folder / "validated_script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--x'])\n")
    (folder / "params.yaml").write_text(PARAMS)
    sys.path.insert(0, str(folder))
    try:
        import validated_net
    finally:
        sys.path.remove(str(folder))
    model = validated_net.create()
    state = model.state_dict()
    torch.save({"epoch": 3, "model": state}, folder / "good.ckpt")
    torch.save({name.replace("head", "haed"): value for name, value in state.items()}, folder / "names.pt")
    torch.save(validated_net.create(48).state_dict(), folder / "shapes.pt")
    torch.save(model, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "names.pt").read_bytes()[:500])
    save_file(state, folder / "good.safetensors")
    graph = onnx.parser.parse_model(GRAPH)
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(graph, folder / "net.onnx")
    return folder


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


def validate(*arguments):
    """The exit status, the checks by name, and what is said on stderr."""
    ended = CliRunner().invoke(app, ["validate", *map(str, arguments), "--json"])
    if ended.exit_code > 1:
        return ended.exit_code, {}, ended.stderr
    document = json.loads(ended.stdout)
    assert document["ok"] == (ended.exit_code == 0)
    return ended.exit_code, {one["check"]: (one["result"], one["reason"]) for one in document["checks"]}, ended.stderr


def results(checks):
    return {name: result for name, (result, _) in checks.items() if result != "ok"}


def test_before_there_is_a_checkpoint_everything_else_is_tried(project):
    before = sorted(project.rglob("*"))
    status, checks, _ = validate("later.pt")
    assert (status, list(checks), results(checks)) == (
        0, [*ALL, "outputs"], {"checkpoint": "skipped", "outputs": "skipped"},
    )  # fmt: skip
    assert checks["checkpoint"][1].startswith("later.pt is not there yet\nWhat follows is tried with the weights")
    assert checks["inputs"][1] == "features float32 [1, 16], axis 0 is batch"
    assert checks["data"][1] == "20 samples; labels for output"
    assert [path for path in sorted(project.rglob("*")) if "__pycache__" not in path.parts] == [
        path for path in before if "__pycache__" not in path.parts
    ]


@pytest.mark.parametrize("model", ["good.ckpt", "good.safetensors"])
def test_a_checkpoint_that_fits(model):
    status, checks, _ = validate(model)
    assert (status, results(checks)) == (0, {"outputs": "skipped"})
    assert checks["checkpoint"] == ("ok", model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("names.pt", "missing from the file: head.weight (closest: haed.weight), head.bias (closest: haed.bias)"),
        ("shapes.pt", "shapes differ: hidden.weight is [48, 16] in the file, [32, 16] in the model"),
        ("whole.pt", "whole.pt: this pickle runs code when it is loaded (validated_net.Net), which is refused."),
        ("cut.pt", "cut.pt: truncated or not a torch checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_hides_nothing_else(model, expected):
    status, checks, said = validate(model)
    assert (status, results(checks)) == (1, {"checkpoint": "failed", "outputs": "skipped"})
    assert expected in checks["checkpoint"][1]
    assert "What follows is tried with the weights that the factory starts with." in checks["checkpoint"][1]
    assert said.endswith("error: 1 of 11 checks failed: checkpoint.\n")


HUGGING_FACE = """
targets: [onnxruntime, iOS17]
export:
  inputs:
    input_ids: {shape: [1, 16], dtype: int64, dynamic: {0: batch}}
evaluate:
  data: tokens.npz
  metric: f1_score
  metric_args: {average: macro}
  limits: {f1_drop: 0.01, agreement: 0.9}
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_a_folder_of_transformers_for_two_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=100, max_position_embeddings=32, num_labels=3, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained("tiny")
    tokens = np.random.default_rng(0).integers(0, 100, (12, 16))
    np.savez("tokens.npz", input_ids=tokens, labels=np.arange(12) % 3)
    (tmp_path / "params.yaml").write_text(HUGGING_FACE)
    status, checks, _ = validate("tiny")
    assert (status, results(checks)) == (0, dict.fromkeys(("imports", "factory", "outputs"), "skipped"))
    assert checks["data"] == ("ok", "12 samples; labels for logits")
    assert checks["metric"] == ("ok", "f1; works on two samples")
    status, checks, _ = validate("tiny", "--target", "iOS17", "-S", "export.inputs.input_ids.dynamic={1: sequence}")
    assert (status, checks["iOS17"][0]) == (1, "failed")
    assert checks["iOS17"][1].startswith("tiny: axis 1 (sequence) of the input input_ids has no fixed size")
    np.savez("tokens.npz", input_ids=tokens + 90, labels=np.arange(12) % 3)
    status, checks, _ = validate("tiny", "--target", "onnxruntime")
    assert (status, checks["metric"][0]) == (1, "failed")
    assert "indices element out of data bounds" in checks["metric"][1]


@pytest.mark.parametrize(
    ("setting", "check", "expected"),
    [
        ("export.factory=validated_nett:create", "imports", "no module 'validated_nett'"),
        ("export.factory=validated_net:creat", "imports", "(export.factory) 'creat'. Did you mean 'create'?"),
        ("export.factory=validated_net", "factory", "expected module:function"),
        ("export.factory=validated_net:number", "factory", "returned a int: expected a torch.nn.Module."),
        ("export.factory=validated_net:broken", "factory", "failed: ValueError: no config ("),
        ("export.args.widht=3", "factory", "(export.args) 'widht'. Did you mean 'width'? Choices: width."),
        ("export.factory=validated_net:flow", "graph", "torch cannot export the model (validated_net.py:"),
        ("export.inputs.features.shape=[1,15]", "inputs", "Net.forward refused the declared inputs (features float32"),
        ("export.inputs.features.dtype=int64", "inputs", "Net.forward refused the declared inputs (features int64"),
        ("export.inputs.features.dtype=float31", "inputs", "'float31'. Did you mean 'float32'?"),
        ("export.inputs.features.dynamic={2: batch}", "inputs", "export.inputs.features.dynamic names axis 2"),
        ("export.inputs.image={shape: [1]}", "inputs", "Net.forward takes (features): export.inputs.image is no"),
        ("~export.inputs", "inputs", "export.inputs is empty: declare every input of the model"),
        ("export.opset=99", "graph", "export.opset is 99: expected 18 to 25."),
        ("export.opsett=18", "params", "unknown key export.opsett. Did you mean 'opset'?"),
    ],
)
def test_a_mistake_in_how_the_model_is_built(setting, check, expected):
    status, checks, _ = validate("later.pt", "-S", setting, "-S", "evaluate.data=validated_data:held_out")
    failed = [name for name, (result, _) in checks.items() if result == "failed" and name != "data"]
    assert status == 1
    assert failed == [check]
    assert expected in checks[check][1]


@pytest.mark.parametrize(
    ("settings", "check", "expected"),
    [
        (["data=validated_data:held"], "imports", "(evaluate.data) 'held'. Did you mean 'held_out'?"),
        (["data=nowhere.npz"], "data", "evaluate.data: nowhere.npz: no such file."),
        (["data=validated_data:wide"], "data", "input features is float32 [20, 8]: net.onnx takes float32 [?, 16]"),
        (["data=validated_data:double"], "data", "input features is float64: net.onnx takes float32"),
        (["data=validated_data:short"], "data", "20 samples, but 5 labels for output logits."),
        (["data=validated_data:alone"], "data", "returned ndarray: expected (inputs, labels)"),
        (["data=validated_data:ragged"], "data", "input features is a list that is no array: "),
        (["data=validated_data:trained"], "data", "input features is a Tensor that is no array: "),
        (["data=validated_data:ended"], "data", "failed: SystemExit: 3 ("),
        (["data=validated_script:held_out"], "imports", "importing validated_script ended the process: SystemExit: 2"),
        (["data=validated_data:split"], "data", "needs a value for name. It is called without arguments"),
        (["data=validated_data:classes"], "metric", "class 4 is not in 0 to 3 (5 such labels)"),
        (["data=validated_data:unlabelled"], "limits", "accuracy_drop will not be known, so the limit cannot hold: "),
        (["data="], "limits", "accuracy_drop will not be known, so the limit cannot hold: evaluate.data is not set."),
        (["metric=acuracy_score"], "metric", "unknown metric 'acuracy_score' (evaluate.metric). Did you mean 'acc"),
        (["metric=validated_data:one"], "metric", "takes 1 argument, it is called with 2."),
        (["metric=validated_data:worst", "limits.worst_drop=0"], "metric", "failed: KeyError: 'x'"),
        (["metric=validated_data:text", "limits.text_drop=0"], "metric", "returned a str: expected a number."),
        (["metric_args={avrage: macro}"], "metric", "unknown argument of evaluate.metric accuracy_score"),
        (["metric=f1_score", "limits.f1_drop=0"], "metric", "Set evaluate.metric_args: {average: macro}"),
        (["outputs=[scores]"], "data", "unknown output of net.onnx (evaluate.outputs) 'scores'. Choices: logits."),
        (["limits.acuracy=1"], "limits", "unknown limit 'acuracy'. Did you mean 'accuracy'?"),
        (["limits.accuracy=high"], "params", "evaluate.limits.accuracy is 'high': expected a number."),
        (["metrics=f1_score"], "params", "unknown key evaluate.metrics. Did you mean 'metric'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_how_it_is_measured(settings, check, expected):
    """A limit of the metric goes by its name, so that one of another metric is taken back."""
    arguments = [word for setting in settings for word in ("-S", f"evaluate.{setting}")]
    if settings[0].startswith("metric="):
        arguments += ["-S", "~evaluate.limits.accuracy_drop"]
    status, checks, _ = validate("net.onnx", *arguments)
    assert status == 1
    assert [name for name, (result, _) in checks.items() if result == "failed"] == [check]
    assert expected in checks[check][1]


@pytest.mark.parametrize(
    ("setting", "failed"), [("export.inputs.features.dynamic={2: batch}", "inputs"), ("export.opset=99", "graph")]
)
def test_what_was_not_tried_is_not_said_to_be_fine(setting, failed):
    _, checks, _ = validate("good.ckpt", "-S", setting, "-S", "evaluate.data=")
    assert checks["checkpoint"] == ("skipped", f"not tried, {failed} failed first")
    assert checks[failed][0] == "failed"
    assert checks["inputs"][0] != "ok"


@pytest.mark.parametrize(
    ("metric", "args"),
    [
        ("balanced_accuracy_score", "{}"),
        ("top_k_accuracy_score", "{k: 2}"),  # needs every class among the labels
        ("matthews_corrcoef", "{}"),
        ("validated_data:of_classes", "{}"),  # not a number, for two samples
    ],
)
def test_two_samples_are_no_reason_to_fail(metric, args):
    settings = [f"evaluate.metric={metric}", f"evaluate.metric_args={args}", "evaluate.limits.size_ratio=1"]
    arguments = [word for setting in settings for word in ("-S", setting)]
    status, checks, _ = validate("net.onnx", *arguments, "-S", "~evaluate.limits.accuracy_drop")
    assert (status, results(checks)) == (0, {"outputs": "skipped"})


def test_every_target_must_take_the_model(monkeypatch):
    find = importlib.util.find_spec
    importing.coremltools.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else find(name))
    status, checks, _ = validate("net.onnx", "-S", "~target", "-S", "targets=[iOS17, onnxruntime]")
    importing.coremltools.cache_clear()
    assert (status, results(checks)) == (1, {"iOS17": "failed", "outputs": "skipped"})
    assert checks["iOS17"][1].startswith("Core ML needs coremltools. Install it: pip install")
    assert validate("net.onnx", "--target", "onnx-opset18")[1]["onnx-opset18"][0] == "ok"


def test_a_group_that_is_wrong_hides_no_other():
    status, checks, _ = validate("net.onnx", "-S", "evaluate.batch=1", "-S", "compress.pipeline=best", "-S", "target=x")
    assert status == 1
    lines = checks["params"][1].splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "-S evaluate.batch=1",
        "-S compress.pipeline=best",
        "-S target=x",
    ] or len(lines) == 3
    assert results(checks) == {
        "params": "failed", "target": "skipped", "data": "skipped", "metric": "skipped", "limits": "skipped",
        "outputs": "skipped",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--params", "none.yaml"], "none.yaml: no such file."),
        (["--target", "iOS71"], "unknown target 'iOS71'."),
        (["-S", "eval.data=x"], "unknown group 'eval'. Did you mean 'evaluate'?"),
        (["-S", "evaluate.data"], "expected = and a value after the key."),
    ],
)
def test_a_wrong_request(arguments, expected):
    status, _, said = validate("net.onnx", *arguments)
    assert status == 2
    assert expected in said


def test_a_factory_is_not_called_needless_before_the_file_has_been_read():
    _, checks, _ = validate("good.ckpt", "-S", "~export.inputs", "-S", "~export.factory")
    assert checks["inputs"][1].startswith("export.inputs is empty")
    assert checks["factory"] == ("skipped", "export.factory is not set")


@pytest.mark.parametrize(
    ("model", "result", "expected"),
    [
        ("later.onnx", "skipped", "later.onnx is not there yet; it will need no export"),
        ("later.xyz", "failed", "unknown kind of model file '.xyz'."),
    ],
)
def test_a_model_that_needs_no_export_and_is_not_there(model, result, expected):
    _, checks, _ = validate(model)
    assert checks["graph"][0] == result
    assert checks["graph"][1].startswith(expected)
    assert checks["data"] == ("ok", "20 samples; labels are not compared: there is no graph")


DVC = """
stages:
  train:
    cmd: python train.py
    outs: [weights]
  shrink-export:
    cmd: compressor export %s out/exported --params settings.yaml
    outs: [out/exported]
  shrink-compress:
    matrix: {target: "${targets}"}
    cmd: >-
      compressor compress out/exported out/compressed/${item.target} --target ${item.target}
      --plots records/${item.target}/bytes.csv
    outs: ["out/compressed/${item.target}", "${elsewhere}"]
    plots:
      - records/${item.target}/bytes.csv: {cache: false}
"""


@pytest.fixture
def pipeline(project, tmp_path, monkeypatch):
    """A folder whose dvc.yaml says all."""
    (tmp_path / "dvc.yaml").write_text(DVC % (project / "net.onnx"))
    (tmp_path / "settings.yaml").write_text("targets: [onnxruntime, onnx-opset18]\nevalute: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dvc_yaml_says_what_to_validate(pipeline):
    status, checks, _ = validate()
    assert (status, results(checks)) == (0, {"imports": "skipped", "data": "skipped", "limits": "skipped"})
    assert checks["params"][1] == "settings.yaml\nevalute is read by nothing here: was evaluate meant?"
    assert checks["outputs"][1] == "5 of dvc.yaml may be written"
    assert {"onnxruntime", "onnx-opset18"} <= checks.keys()


def test_a_model_that_a_template_names(pipeline, project):
    (pipeline / "dvc.yaml").write_text(
        f"vars:\n  - made: {project}\nstages:\n  export:\n"
        "    cmd: uv run compressor export ${made}/net.onnx out/exported --params settings.yaml\n"
    )
    status, checks, _ = validate()
    assert (status, checks["graph"][0]) == (0, "ok")
    assert "net.onnx" in checks["graph"][1]


def test_data_that_a_stage_makes_is_waited_for(pipeline):
    with (pipeline / "dvc.yaml").open("a") as file:
        file.write("  prepare:\n    cmd: python prepare.py\n    outs: [made]\n")
    settings = ("-S", "evaluate.data=made/data.npz", "-S", "evaluate.limits.accuracy=0.9")
    status, checks, _ = validate(*settings)
    assert status == 0
    assert checks["data"] == ("skipped", "made/data.npz is not there yet, a stage of dvc.yaml makes it")
    assert validate(*settings, "-S", "evaluate.data=mad/data.npz")[1]["data"][0] == "failed"


def test_a_dvc_yaml_that_is_none_is_told(pipeline):
    (pipeline / "dvc.yaml").write_text("stages: [")
    status, checks, _ = validate("net.onnx", "--params", "settings.yaml")
    assert (status, checks["outputs"][0]) == (1, "failed")
    assert "dvc.yaml: not valid YAML" in checks["outputs"][1]


def test_outputs_that_would_replace_something_else(pipeline):
    (pipeline / "out" / "compressed" / "onnx-opset18").mkdir(parents=True)
    (pipeline / "out" / "compressed" / "onnx-opset18" / "notes.txt").touch()
    status, checks, _ = validate()
    assert (status, checks["outputs"][0]) == (1, "failed")
    assert "out/compressed/onnx-opset18: holds notes.txt, which this package has not written" in checks["outputs"][1]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_outputs_that_may_not_be_written(pipeline):
    (pipeline / "records").mkdir(mode=0o500)
    assert "may not be written to" in validate()[1]["outputs"][1]


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [", "not valid YAML in line"), ("target: x\ntargets: [y]", "both")]
)
def test_a_params_file_that_cannot_be_read(pipeline, text, expected):
    (pipeline / "settings.yaml").write_text(text)
    status, checks, _ = validate()
    assert (status, list(checks)) == (1, ["params"])
    assert expected in checks["params"][1]


def test_the_table_has_a_reason_in_every_row():
    ended = CliRunner().invoke(app, ["validate", "net.onnx"], env={"COLUMNS": "100"})
    assert ended.exit_code == 0
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["check", "result"]
    assert "graph        ok       net.onnx; it needs no export" in lines
    assert lines[-1] == "7 ok, 1 skipped"
    assert "a greeting" not in ended.stdout
