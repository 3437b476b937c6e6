"""`compressor evaluate` on artefacts that `compressor compress` made."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from compressor.stages.app import app
from compressor.targets.coreml import mil

# One layer of 64 x 64: 4 values (2 bits each), or all different.
MODEL = (
    """<ir_version: 10, opset_import: ["": 18]> net (float[N,64] x) => (float[N,64] logits) { logits = MatMul(x, w) }"""
)
SAMPLES = np.eye(64, dtype=np.float32)


def save(path, weight):
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    onnx.save(model, path)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A palettized model, its artefact, and data that it gets right but for the last 16 samples."""
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(0).choice([-0.5, 0.25, 0.5, 1.0], (64, 64))
    save("model.onnx", weight)
    assert run("compress", "model.onnx", "out")[0] == 0
    best = (SAMPLES @ weight).argmax(1)
    best[48:] = (best[48:] + 1) % 64
    np.savez("data.npz", x=SAMPLES, labels=best)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout if result.exit_code == 0 else result.output


def evaluate(*arguments, model="model.onnx"):
    status, text = run("evaluate", model, "out", "--out", "metrics.json", *arguments)
    assert status == 0, text
    return json.loads(Path("metrics.json").read_text()), text


DATA = ("-S", "evaluate.data=data.npz")
LIMIT = ("-S", "evaluate.limits.accuracy_drop=0.01")


def test_size_and_accuracy_of_the_files_on_disk():
    values, text = evaluate(*DATA, "-S", "evaluate.limits={accuracy_drop: 0, size_ratio: 4}")
    nbytes = sum(file.stat().st_size for file in Path("out").iterdir() if file.name != "manifest.json")
    baseline = Path("model.onnx").stat().st_size
    assert list(values) == [
        "made_for", "accuracy", "accuracy_drop", "agreement", "runtime", "size_mb", "size_ratio", "source_mb",
        "bits_per_weight", "passed", "baseline",
    ]  # fmt: skip
    assert (values["accuracy"], values["accuracy_drop"], values["agreement"]) == (0.75, 0.0, 1.0)
    assert values["size_mb"] == round(nbytes / 1e6, 3)
    assert values["size_ratio"] == pytest.approx(baseline / nbytes, rel=0.05)
    assert values["bits_per_weight"] == pytest.approx(2, abs=0.1)
    assert values["passed"] is True
    assert values["baseline"] == {"accuracy": 0.75, "size_mb": pytest.approx(baseline / 1e6, abs=0.001)}
    assert "passed: all 2 limits hold" in text
    assert "measured on 64 samples" in text


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ("{}", "passed: no limits are set"),
        ("{size_ratio: 4}", "passed: the limit holds"),
        ("{size_ratio: 99}", "not passed: size_ratio is"),
    ],
)
def test_the_verdict_counts_the_limits(limits: str, verdict: str) -> None:
    assert verdict in evaluate("-S", f"evaluate.limits={limits}")[1]


def test_accuracy_is_the_artefacts_own():
    """Another model in the artefact's place shows in the numbers: they do not come from the model or the manifest."""
    save("out/model.onnx", np.zeros((64, 64)))
    values, _ = evaluate(*DATA)
    assert values["accuracy"] < 0.5
    assert values["accuracy_drop"] == pytest.approx(values["baseline"]["accuracy"] - values["accuracy"])
    assert values["agreement"] < 0.5


def test_without_data_only_sizes_are_measured_and_the_report_says_so():
    values, text = evaluate()
    assert list(values) == ["made_for", "size_mb", "size_ratio", "source_mb", "bits_per_weight", "passed", "baseline"]
    assert "sizes only: evaluate.data is not set" in text


def test_a_broken_limit_is_recorded_and_is_no_failure():
    values, text = evaluate(*DATA, "-S", "evaluate.limits.accuracy=0.9")
    assert values["passed"] is False
    assert "not passed: accuracy is 0.75, the limit is at least 0.9" in text


def test_plots():
    values, _ = evaluate(*DATA, "--plots-dir", "plots")
    assert Path("plots/accuracy_size.csv").read_bytes() == f"size_mb,score\n{values['size_mb']},0.75\n".encode()
    rows = [line.split(",") for line in Path("plots/confusion.csv").read_text().splitlines()]
    assert rows[0] == ["actual", "predicted"]
    assert sum(actual == predicted for actual, predicted in rows[1:]) == 48
    assert len(rows) == 65


def test_plots_without_anything_to_plot_are_tables_without_rows():
    """DVC fails a stage that does not write what it declares."""
    evaluate("--plots-dir", "plots")
    assert Path("plots/accuracy_size.csv").read_text() == "size_mb,score\n"
    assert Path("plots/confusion.csv").read_text() == "actual,predicted\n"


def test_json_is_what_is_written():
    status, text = run("evaluate", "model.onnx", "out", "--json", "--out", "metrics.json", *DATA)
    assert status == 0
    assert json.loads(text) == json.loads(Path("metrics.json").read_text())


def test_the_same_metrics_twice_are_the_same_bytes():
    evaluate(*DATA)
    first = Path("metrics.json").read_bytes()
    evaluate(*DATA)
    assert Path("metrics.json").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["-S", "evaluate.data=none.npz"], 2, "none.npz: no such file"),
        (["-S", "evaluate.metric=acc"], 2, "unknown metric 'acc'"),
        (["-S", "evaluate.limits.acc=1"], 2, "unknown limit 'acc'"),
        (["-S", "evaluate.metric=acuracy_score", *LIMIT], 2, "unknown metric 'acuracy_score' (evaluate.metric)."),
        (["-S", "evaluate.metric=r2_score", *LIMIT], 2, "unknown limit 'accuracy_drop'. Did you mean 'r2_drop'?"),
        (["-S", "evaluate.limits.accuracy=high"], 2, "evaluate.limits.accuracy is 'high': expected a number"),
        (["-S", "target=tpu"], 2, "unknown target 'tpu'"),
        (["-S", "evaluate.metric=f1_score"], 1, "evaluate.metric_args: {average: macro}"),
    ],
)
def test_errors_write_nothing(arguments, status, expected):
    result = run("evaluate", "model.onnx", "out", "--out", "metrics.json", "--plots-dir", "plots", *DATA, *arguments)
    assert result[0] == status
    assert expected in result[1]
    assert not Path("metrics.json").exists()
    assert not Path("plots").exists()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("w", (64, 32), "weight w: the model has [64, 32], the artefact has [64, 64]"),
        ("v", (64, 64), "weight v: the model has [64, 64], the artefact has no such weight"),
    ],
)
def test_an_artefact_of_another_model(name, shape, expected):
    text = MODEL.replace("x, w)", f"x, {name})").replace("[N,64] logits", f"[N,{shape[1]}] logits")
    other = onnx.parser.parse_model(text)
    other.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(other, "other.onnx")
    status, text = run("evaluate", "other.onnx", "out", "--out", "metrics.json")
    assert (status, Path("metrics.json").exists()) == (1, False)
    assert text.startswith(f"error: out: not made from other.onnx: {expected}")


def test_a_model_without_a_weight_of_the_artefact():
    model = onnx.load("model.onnx")
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["x"], ["logits"]))
    del model.graph.initializer[:]
    onnx.save(model, "other.onnx")
    status, text = run("evaluate", "other.onnx", "out")
    assert status == 1
    assert "weight w: the model has no such weight, the artefact has [64, 64]" in text


def test_an_artefact_for_another_target():
    assert run("compress", "model.onnx", "out", "--target", "onnx-opset21")[0] == 0
    status, text = run("evaluate", "model.onnx", "out", "--out", "metrics.json")
    assert (status, Path("metrics.json").exists()) == (1, False)
    assert "out: made for onnx-opset21, the target is onnxruntime" in text
    assert evaluate("-S", "target=ONNX-opset21")[0]["made_for"] == "onnx-opset21"
    assert evaluate("--target", "onnx-opset21")[0]["made_for"] == "onnx-opset21"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_a_model_is_translated_once_for_both_of_its_packages(monkeypatch):
    """Where Core ML is not, the graph runs with the values of either: fitting keeps where they lie."""
    translate, translated = mil.program, []
    monkeypatch.setattr(mil, "program", lambda *given: translated.append(given) or translate(*given))
    assert run("compress", "model.onnx", "out", "--target", "iOS18")[0] == 0
    assert len(translated) == 1
    values, _ = evaluate("-S", "target=iOS18", *DATA)
    assert len(translated) == 2
    assert (values["accuracy"], values["agreement"], values["baseline"]["accuracy"]) == (0.75, 1.0, 0.75)
    assert values["runtime"] == ("coreml" if sys.platform == "darwin" else "onnxruntime")


LATENCY = ("--latency", "latency.json", "-S", "evaluate.latency={runs: 3, warmup: 0, batch_size: 2}")


def test_latency_goes_to_a_file_of_its_own():
    values, text = evaluate(*DATA, *LATENCY)
    times = json.loads(Path("latency.json").read_text())
    assert not [name for name in values if "latency" in name]
    # A key that another file has too would get that file's name in front of it in `dvc exp show`.
    assert not {*times} & {*values} - {"baseline"}
    assert not {*times["baseline"]} & {*values["baseline"]}
    names = ("latency_measured", "latency_runs", "latency_samples", "latency_runtime")
    assert [times[name] for name in names] == [True, 3, 2, "onnxruntime"]
    assert times["latency_p90_ms"] >= times["latency_p50_ms"] > 0
    assert times["load_ms"] > 0 < times["latency_ratio"]
    assert times["cpus"] >= 1 <= len(times["cpu"])
    assert list(times["baseline"]) == ["latency_p50_ms", "latency_p90_ms", "load_ms"]
    assert f"timed in turns, 2 a run, on {times['cpu']}" in text
    assert re.search(rf"latency_p50_ms +{times['baseline']['latency_p50_ms']} +{times['latency_p50_ms']}\n", text)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_a_runtime_that_stands_in_for_another_is_not_timed():
    assert run("compress", "model.onnx", "out", "--target", "iOS18")[0] == 0
    _, text = evaluate("-S", "target=iOS18", *DATA, *LATENCY)
    times = json.loads(Path("latency.json").read_text())
    assert list(times) == ["latency_measured", "latency_reason"]
    reason = "onnxruntime stands in for coreml here, with decoded weights: its times are not those of iOS18"
    assert (times["latency_measured"], times["latency_reason"]) == (False, reason)
    assert f"latency is not measured: {reason}" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--latency", "latency.json"], "--latency needs samples to run: set evaluate.data."),
        ([*DATA, "--latency", "latency.csv"], "latency.csv: expected a name that ends with .json"),
        ([*DATA, "--latency", "metrics.json"], "metrics.json: would replace metrics.json"),
        ([*DATA, *LATENCY, "-S", "evaluate.latency.runs=0"], "evaluate.latency.runs is 0: expected greater than"),
        ([*DATA, *LATENCY, "-S", "evaluate.latency.run=9"], "unknown key evaluate.latency.run. Did you mean 'runs'?"),
    ],
)
def test_wrong_requests_for_latency_write_nothing(arguments, expected):
    status, text = run("evaluate", "model.onnx", "out", "--out", "metrics.json", *arguments)
    assert status == 2
    assert expected in text
    assert not Path("metrics.json").exists()
    assert not Path("latency.json").exists()


def test_errors_name_the_model_that_the_user_named():
    np.savez("data.npz", y_=SAMPLES)
    status, text = run("evaluate", "model.onnx", "out", *DATA)
    assert status == 1
    assert "The inputs of model.onnx are x." in text


def test_an_artefact_that_is_not_there():
    status, text = run("evaluate", "model.onnx", "nowhere", *DATA)
    assert (status, text) == (1, "error: nowhere: no such artefact. Write it with `compressor compress`.\n")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("evaluate.data=none.npz", "none.npz: no such file"),
        ("evaluate.data=nowhere:samples", "no module 'nowhere'"),
        ("evaluate.metric=nowhere:metric", "no module 'nowhere'"),
        ("evaluate.metric_args={avrage: macro}", "unknown argument of evaluate.metric accuracy_score"),
        ("evaluate.limits.speed=1", "unknown limit 'speed'"),
    ],
)
def test_what_is_cheap_to_know_is_known_before_a_model_is_read(monkeypatch, setting, expected):
    monkeypatch.setattr("compressor.write_baseline", lambda *given, **named: pytest.fail("a model was read"))
    status, text = run("evaluate", "model.onnx", "out", *DATA, "-S", setting)
    assert status == 2
    assert expected in text
