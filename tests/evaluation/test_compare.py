"""Evaluation against models that really run in ONNX Runtime."""

import inspect
import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import sklearn.metrics

from compressor.errors import CompressorError, UsageError
from compressor.evaluation import compare as evaluate
from compressor.evaluation import known
from compressor.targets.onnxruntime.session import load

HEADER = '<ir_version: 10, opset_import: ["": 18]>'
# Logits are the inputs themselves: a sample's class is the position of its largest number.
IDENTITY = f"{HEADER} net (float[N,3] x) => (float[N,3] logits) {{ logits = Identity(x) }}"
# The same network, but the first two classes are swapped.
SWAPPED = f"""{HEADER} net (float[N,3] x) => (float[N,3] logits)
<int64[3] order = {{1, 0, 2}}> {{ logits = Gather<axis = 1>(x, order) }}"""
TWO = f"""{HEADER} net (float[N,3] image, int64[N,1] age) => (float[N,3] kind, float[N,1] years)
{{ kind = Identity(image) years = Cast<to = 1>(age) }}"""
FIXED = f"{HEADER} net (float[4,3] x) => (float[4,3] logits) {{ logits = Identity(x) }}"
INTEGERS = f"{HEADER} net (float[N,3] x) => (int64[N] best) {{ best = ArgMax<axis = 1, keepdims = 0>(x) }}"
SEQUENCE = f"{HEADER} net (float[N,2,3] x) => (float[N,2,3] logits) {{ logits = Identity(x) }}"
NAN = f"{HEADER} net (float[N,3] x) => (float[N,3] logits) {{ logits = Sqrt(x) }}"

X = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 1, 0], [0, 2, 1]], np.float32)
Y = np.array([0, 1, 2, 0, 2])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model(text, name="model.onnx"):
    onnx.save(onnx.parser.parse_model(text), name)
    return Path(name)


def run(settings, first, second):
    """Both files in ONNX Runtime, called by their names."""
    return evaluate.compare(*(partial(load, path, str(path)) for path in (first, second)), settings)


def compare(first, second=None, /, *, labels=Y, metric="accuracy_score", outputs=(), size=2, **inputs):
    """Both models on an `.npz` of the inputs and labels."""
    answers = (
        {f"labels_{name}": one for name, one in labels.items()} if isinstance(labels, dict) else {"labels": labels}
    )
    given = inputs if first is TWO else {"x": X} | inputs
    given = {name: array for name, array in given.items() if array is not None}
    np.savez("data.npz", **given, **(answers if labels is not None else {}))
    settings = evaluate.Settings("data.npz", metric=metric, batch_size=size, outputs=outputs)
    return run(settings, model(first), model(second or first, "second.onnx"))


@pytest.mark.parametrize("size", [1, 2, 5, 256])
def test_both_models_are_scored_in_batches_of_any_size(size):
    result = compare(IDENTITY, SWAPPED, size=size)
    assert result.quality.metric == "accuracy"
    assert result.quality.before == {"logits": 0.8}  # all but the last
    assert result.quality.after == {"logits": 0.2}  # the third alone
    assert result.quality.agreement == 0.2
    assert result.count == 5
    actual, predicted = result.confusion
    assert actual.tolist() == [0, 1, 2, 0, 2]
    assert predicted.tolist() == [1, 0, 2, 1, 0]


def test_a_fixed_number_of_samples_is_filled_up_and_the_filling_is_not_scored():
    result = compare(FIXED, SWAPPED, size=2)
    assert (result.quality.before, result.quality.after) == ({"logits": 0.8}, {"logits": 0.2})


def test_a_model_may_return_classes_itself():
    assert compare(INTEGERS).quality.after == {"best": 0.8}


def test_sequences_have_their_classes_in_the_last_axis():
    x = np.stack([X, X[::-1]], axis=1)  # [5, 2, 3]
    result = compare(SEQUENCE, labels=np.stack([Y, Y[::-1]], axis=1), x=x)
    assert result.quality.after == {"logits": 0.8}
    assert result.confusion is None


def test_without_labels_only_agreement_is_known():
    result = compare(IDENTITY, SWAPPED, labels=None)
    assert result.quality.before == result.quality.after == {}
    assert result.quality.agreement == 0.2
    assert result.confusion is None


def test_several_inputs_and_outputs():
    age = np.arange(5).reshape(5, 1)
    both = compare(
        TWO, labels={"kind": Y, "years": age + 1.0}, metric="mean_squared_error", outputs=("years",), image=X, age=age
    )
    assert both.quality.after == {"years": 1.0}
    assert both.quality.agreement is None
    kinds = compare(TWO, labels={"kind": Y}, image=X, age=age)
    assert (kinds.quality.after, kinds.quality.agreement) == ({"kind": 0.8}, 1.0)


def user_module(body):
    Path("mine.py").write_text(f"import numpy as np\nX = np.float32({X.tolist()})\nY = np.array({Y.tolist()})\n{body}")


def mine(body, monkeypatch, text=IDENTITY, **settings):
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    user_module(body)
    return run(evaluate.Settings("mine:data", **settings), model(text), model(text))


@pytest.mark.parametrize("returned", ["X, Y", "{'x': X}, {'logits': Y}", "(X,), (Y,)", "[X], list(Y)"])
def test_a_function_may_return_arrays_tuples_or_dictionaries(returned, monkeypatch):
    assert mine(f"def data(): return {returned}", monkeypatch).quality.after == {"logits": 0.8}


def test_a_metric_of_the_user_reads_the_outputs_as_they_are(monkeypatch):
    body = "def data(): return X, Y\ndef largest(labels, outputs): return outputs.max() + len(labels)"
    quality = mine(body, monkeypatch, metric="mine:largest").quality
    assert (quality.metric, quality.after, quality.agreement) == ("largest", {"logits": 7.0}, 1.0)


def test_a_metric_of_the_user_gets_several_outputs_at_once(monkeypatch):
    body = """
def data(): return {"image": X, "age": Y[:, None]}, (Y, Y[:, None])
def both(labels, outputs): return sum(float(np.sum(labels[name])) for name in outputs)
"""
    assert mine(body, monkeypatch, TWO, metric="mine:both").quality.after == {"kind, years": 10.0}


def test_arguments_of_the_metric(monkeypatch):
    quality = mine("def data(): return X, Y", monkeypatch, metric="f1_score", metric_args={"average": "macro"}).quality
    assert quality.metric == "f1"
    assert quality.after["logits"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_every_metric_of_scikit_learn_is_in_one_table():
    """Upgrading scikit-learn must not leave a new metric without a decision."""
    no_single_number = {
        "class_likelihood_ratios", "classification_report", "confusion_matrix", "confusion_matrix_at_thresholds",
        "det_curve", "homogeneity_completeness_v_measure", "metric_at_thresholds", "multilabel_confusion_matrix",
        "pair_confusion_matrix", "precision_recall_curve", "precision_recall_fscore_support", "roc_curve",
    }  # fmt: skip
    modules = ("_classification", "_ranking", "_regression", "cluster._supervised")
    judging = {
        name
        for name in sklearn.metrics.__all__
        if inspect.isfunction(getattr(sklearn.metrics, name))
        and getattr(sklearn.metrics, name).__module__.removeprefix("sklearn.metrics.") in modules
    }
    tables = [known.CLASSES, known.SCORES, known.NUMBERS, no_single_number, {"auc"}]
    assert sorted(judging) == sorted(name for table in tables for name in table)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"y": X, "x": None}, "no array for input x; unknown input y. The inputs of model.onnx are x."),
        ({"x": X.astype(np.float64)}, r"input x is float64: model.onnx takes float32, .* \.astype\(numpy\.float32\)"),
        ({"x": X[:, :2]}, r"input x is float32 \[5, 2\]: model.onnx takes float32 \[\?, 3\]"),
        ({"x": X[0]}, r"input x is float32 \[3\]: model.onnx takes float32 \[\?, 3\]"),
        ({"x": X[:0], "labels": Y[:0]}, "there are no samples"),
        ({"labels": Y[:3]}, "5 samples, but 3 labels for output logits"),
        ({"labels": Y + 1}, r"labels int64 \[N\] and output logits .* class 3 is not in 0 to 2 \(2 such labels\)"),
        ({"labels": Y - 1}, "class -1 is not in 0 to 2"),
        ({"labels": Y.astype(float)}, "classes are whole numbers from 0"),
        ({"labels": np.eye(3)[Y]}, "no axis of the output holds a score by class"),
        ({"labels": {"scores": Y}}, "labels for scores; the model's outputs are logits"),
        ({"x": X * np.nan}, "output logits is NaN for sample 0"),
        (
            {"metric": "f1_score"},
            r"f1_score\(labels, outputs\) failed: ValueError: .*metric_args: {average: macro}",
        ),
        ({"metric": "log_loss", "x": -X}, "log_loss.* It reads the scores of classes as the model gives them"),
    ],
)
def test_samples_that_do_not_fit(change, expected):
    with pytest.raises(CompressorError, match=expected) as caught:
        compare(IDENTITY, **change)
    assert caught.value.exit_status == 1


def test_nan_names_the_model_and_the_first_sample():
    with pytest.raises(CompressorError, match=r"second\.onnx: output logits is NaN for sample 3"):
        compare(IDENTITY, NAN, x=X - np.array([[0], [0], [0], [1], [0]], np.float32))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"metric": "acuracy_score"},
            r"unknown metric 'acuracy_score' \(evaluate.metric\). Did you mean 'accuracy_score'\?",
        ),
        (
            {"metric": "mine:scor"},
            r"unknown function in module mine \(evaluate.metric\) 'scor'. Did you mean 'score'\?",
        ),
        ({"metric": "mine:agreement"}, "metrics.json has a number called 'agreement' already"),
        ({"data": "mine"}, "expected module:function or a path that ends with .npz"),
        ({"data": "missing.npz"}, "missing.npz: no such file"),
        ({"data": "their:data"}, "no module 'their' in the current directory"),
        (
            {"outputs": ("logit",)},
            r"unknown output of model.onnx \(evaluate.outputs\) 'logit'. Did you mean 'logits'\?",
        ),
    ],
)
def test_settings_that_name_what_does_not_exist(settings, expected, monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    user_module("def data(): return X, Y\ndef score(labels, outputs): return 1.0")
    with pytest.raises(UsageError, match=expected):
        run(evaluate.Settings(**{"data": "mine:data"} | settings), model(IDENTITY), model(IDENTITY))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def data(): return X", "returned ndarray: expected (inputs, labels)"),
        ("def data(): return X, Y, Y", "returned 3 values: expected (inputs, labels)"),
        ("def data(): return (X, X), Y", "2 inputs, but model.onnx has 1: x"),
        ("def data(): return [][1]", "evaluate.data mine:data failed: IndexError: list index out of range ("),
        ("import nowhere", "importing mine failed: ModuleNotFoundError: No module named 'nowhere' ("),
    ],
)
def test_a_function_of_the_user_that_fails(body, expected, monkeypatch):
    with pytest.raises(CompressorError, match=re.escape(expected)) as caught:
        mine(body, monkeypatch)
    assert ("mine.py:" in str(caught.value)) == ("Error" in expected)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_a_damaged_npz(content):
    Path("data.npz").write_bytes(content)
    with pytest.raises(CompressorError, match=r"data\.npz: not a readable \.npz"):
        run(evaluate.Settings("data.npz"), model(IDENTITY), model(IDENTITY))


def test_a_damaged_model():
    np.savez("data.npz", x=X)
    Path("cut.onnx").write_bytes(b"\x08\x0a\x12")
    with pytest.raises(CompressorError, match=r"cut\.onnx: ONNX Runtime cannot load it: "):
        run(evaluate.Settings("data.npz"), model(IDENTITY), Path("cut.onnx"))
