"""`compressor sensitivity` on a network that learned real digits, in ONNX Runtime."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from typer.testing import CliRunner

from compressor.sensitivity import study
from compressor.sensitivity.variants import VARIANTS
from compressor.stages import yaml
from compressor.stages.app import app
from examples.digits.data import held_out, training

MODEL = """<ir_version: 10, opset_import: ["": 18]> net (float[N,784] image) => (float[N,10] logits) {
    h = MatMul(image, hidden) b = Add(h, bias) r = Relu(b) l = MatMul(r, head) logits = Add(l, last)
}"""
NAMES = {
    "hidden": "layer.hidden.weight",
    "bias": "layer.hidden.bias",
    "head": "layer.head.weight",
    "last": "layer.head.bias",
}
TRIALS = 2 * len(VARIANTS)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A network of two layers, named as torch names them, and the digits that it has not seen."""
    folder = tmp_path_factory.mktemp("learned")
    images, labels = training()
    network = MLPClassifier((32,), max_iter=12, random_state=0)
    with pytest.warns(ConvergenceWarning):
        network.fit(images[:2000].reshape(2000, -1), labels[:2000])
    values = dict(zip(("hidden", "head", "bias", "last"), (*network.coefs_, *network.intercepts_), strict=True))
    model = onnx.parser.parse_model(MODEL)
    for node in model.graph.node:
        node.input[:] = [NAMES.get(name, name) for name in node.input]
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), NAMES[name]))
    onnx.save(model, folder / "model.onnx")
    inputs, expected = held_out()
    np.savez(folder / "data.npz", image=inputs["image"].reshape(1000, -1), labels=expected)
    return folder


@pytest.fixture(autouse=True)
def here(learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "data.npz"):
        Path(name).symlink_to(learned / name)
    Path("params.yaml").write_text("evaluate: {data: data.npz}\ndetect: {min_elements: 200}\n")


def run(*arguments):
    result = CliRunner().invoke(app, ["sensitivity", "model.onnx", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def studied(*arguments):
    status, text, _ = run("--json", *arguments)
    assert status == 0
    return json.loads(text)


def drops(found):
    return {(one["weight"], one["variant"]): one["drop"] for weight in found["weights"] for one in weight["trials"]}


def test_what_each_variant_costs(learned):
    found = studied("--samples", 500)
    assert (found["metric"], found["samples"], found["max_drop"]) == ("accuracy", 500, 0.01)
    assert found["score"] > 0.85
    costs = drops(found)
    assert list(costs) == [
        (weight, variant) for weight in ("layer.hidden.weight", "layer.head.weight") for variant in VARIANTS
    ]
    assert abs(costs["layer.hidden.weight", "int8"]) <= 0.01
    assert costs["layer.head.weight", "pruned75"] > 0.03
    assert found["skipped"]["layer.hidden.bias"] == "one dimension: a bias or a scale"
    assert found["together"]["drop"] == pytest.approx(found["score"] - found["together"]["score"])


def test_the_same_numbers_as_evaluating_a_changed_model():
    """What a user would do by hand: change the weight, compress, evaluate."""
    trial = next(
        one
        for weight in studied()["weights"]
        for one in weight["trials"]
        if (one["weight"], one["variant"]) == ("layer.head.weight", "int4")
    )
    model = onnx.load("model.onnx")
    (head,) = [one for one in model.graph.initializer if one.name == "layer.head.weight"]
    values = onnx.numpy_helper.to_array(head)
    scale = np.abs(values).max(0, keepdims=True) / np.float32(7)
    head.CopyFrom(onnx.numpy_helper.from_array((np.rint(values / scale) * scale).astype(np.float32), head.name))
    onnx.save(model, "changed.onnx")
    for command in (["compress", "changed.onnx", "out"], ["evaluate", "changed.onnx", "out", "--out", "metrics.json"]):
        assert CliRunner().invoke(app, command).exit_code == 0
    assert json.loads(Path("metrics.json").read_text())["accuracy"] == round(trial["score"], 4)


def test_the_table():
    status, text, said = run("--samples", 200, "--max-drop", 0.05)
    assert status == 0
    lines = text.splitlines()
    assert lines[0].split() == ["weight", "now", *VARIANTS, "within", "0.05", "saves"]
    assert [line.split()[0] for line in lines[2:4]] == ["layer.hidden", "layer.head"]
    assert "2 weights not tried: one dimension: a bias or a scale" in text
    assert "the weight alone changed and not trained; 200 samples" in text
    assert " at once: accuracy 0." in text
    assert said == f"trials: {TRIALS} trials\n"


def test_the_table_where_there_is_no_room_for_columns(monkeypatch):
    run("--samples", 200)
    monkeypatch.setenv("COLUMNS", "80")
    status, text, _ = run("--samples", 200)
    lines = text.splitlines()
    assert status == 0
    assert lines[0].split() == ["weight", "now", "within", "0.01", "saves"]
    assert [line.split()[::2] for line in lines[3:5]] == [[*VARIANTS][:3], [*VARIANTS][3:]]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_a_second_run_does_nothing_again(monkeypatch):
    first = studied("--samples", 100)
    opened, load = [], study.load
    monkeypatch.setattr(study, "load", lambda *given: opened.append(given) or load(*given))
    status, text, said = run("--json", "--samples", 100)
    assert (status, json.loads(text)) == (0, first)
    assert said == f"compression/sensitivity.jsonl: has all {TRIALS} trials already\n"
    assert len(opened) == 2  # the model as it is, and with all that was chosen


def test_another_model_starts_anew():
    studied("--samples", 100)
    model = onnx.load("model.onnx")
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(model.graph.initializer[0]) * 2, model.graph.initializer[0].name
        )
    )
    Path("model.onnx").unlink()
    onnx.save(model, "model.onnx")
    _, _, said = run("--samples", 100)
    assert said.startswith("compression/sensitivity.jsonl: its trials are of other model: starting anew\n")
    _, _, said = run("--samples", 99)
    assert said.startswith("compression/sensitivity.jsonl: its trials are of other samples: starting anew\n")


def test_a_killed_run_is_gone_on_with():
    """A real process, ended in the middle without a chance to clean up."""
    journal = Path("compression/sensitivity.jsonl")
    command = [sys.executable, "-m", "compressor", "sensitivity", "model.onnx", "-S", "evaluate.batch_size=1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not journal.is_file() or len(journal.read_text().splitlines()) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    done = journal.read_text().splitlines()
    assert 3 <= len(done) < TRIALS + 1
    status, text, said = run("-S", "evaluate.batch_size=1", "--json")
    assert status == 0
    assert f"of {TRIALS} trials already" in said
    assert journal.read_text().splitlines()[: len(done) - 1] == done[:-1]
    assert len(drops(json.loads(text))) == TRIALS


def test_rows_for_plots():
    studied("--samples", 100, "--plots", "rows.csv")
    rows = list(csv.DictReader(Path("rows.csv").read_text().splitlines()))
    assert list(rows[0]) == ["weight", "variant", "drop", "error", "saved"]
    assert [row["weight"] for row in rows][:2] == ["layer.hidden pruned50", "layer.hidden pruned75"]
    assert len(rows) == TRIALS
    assert int(rows[0]["saved"]) == 784 * 32 * 4 - 784 * 32 / 2 * 4 - 784 * 32 / 8


def test_what_to_train_next():
    found = studied("--samples", 300, "--max-drop", 0.5, "--coremltools", "train.yaml", "--torchao", "train.json")
    assert {one["chosen"] for one in found["weights"]} == {"palette2"}
    text = Path("train.yaml").read_text()
    assert 'DKMPalettizerConfig.from_dict(yaml.safe_load(open("train.yaml"))["DKMPalettizerConfig"])' in text
    module = {"n_bits": 2, "granularity": "per_tensor", "weight_threshold": 0}
    assert yaml.read(text, "") == {
        "DKMPalettizerConfig": {"module_name_configs": {"layer.hidden": module, "layer.head": module}}
    }
    modules = json.loads(Path("train.json").read_text())["_data"]["fqn_to_config"]
    assert {name: one["_data"]["weight_dtype"]["_data"] for name, one in modules.items()} == {
        "layer.hidden": "int4", "layer.head": "int4",
    }  # fmt: skip


def test_nothing_within_the_budget():
    np.savez("noise.npz", image=np.load("data.npz")["image"][:20])  # without labels no error is small enough
    arguments = [
        "-S",
        "evaluate.data=noise.npz",
        "--max-drop",
        0,
        "--coremltools",
        "train.yaml",
        "--torchao",
        "train.json",
    ]
    status, text, _ = run(*arguments)
    assert status == 0
    assert "no weight can be compressed further within 0\n" in text
    assert Path("train.yaml").read_text() == "# No weight can be trained smaller within 0.\n"
    assert json.loads(Path("train.json").read_text())["_data"]["fqn_to_config"] == {}


def test_without_labels_outputs_are_compared():
    np.savez("images.npz", image=np.load("data.npz")["image"][:50])
    status, text, _ = run("-S", "evaluate.data=images.npz", "--max-drop", 0.02)
    assert status == 0
    assert "relative error of the outputs, the weight alone changed and not trained; 50 samples\n" in text
    assert " at once: outputs 0.0" in text


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["-S", "evaluate.data="], 2, "set evaluate.data to its samples"),
        (["-S", "evaluate.data=none.npz"], 2, "none.npz: no such file"),
        (["-S", "evaluate.metric=acc"], 2, "unknown metric 'acc'"),
        (["--out", "trials.json"], 2, "trials.json: expected a name that ends with .jsonl"),
        (["--coremltools", "train.json"], 2, "train.json: expected a name that ends with .yaml"),
        (["--torchao", "model.onnx"], 2, "model.onnx: expected a name that ends with .json"),
        (["--plots", "rows.txt"], 2, "rows.txt: expected a name that ends with .csv or .json"),
        (["--coremltools", "params.yaml", "--params", "params.yaml"], 2, "params.yaml: would replace params.yaml"),
        (["-S", "detect.min_elements=1000000"], 1, "no weight to try: 25,088 elements: fewer than min_elements"),
    ],
)
def test_wrong_requests(arguments, status, expected):
    found = run(*arguments)
    assert (found[0], found[1]) == (status, "")
    assert expected in found[2]
    assert not Path("compression").exists()


def test_a_journal_of_something_else_is_not_replaced():
    Path("notes.jsonl").write_text('{"mine": true}\n')
    status, _, said = run("--out", "notes.jsonl")
    assert status == 2
    assert "notes.jsonl: holds something else" in said
    assert Path("notes.jsonl").read_text() == '{"mine": true}\n'
