"""The study: what it says of a change is what a real artefact with that change does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import compressor
from compressor import sources
from compressor.encodings import Dense, Quantized
from compressor.errors import CompressorError
from compressor.evaluation import compare
from compressor.recognition.findings import Settings
from compressor.sensitivity import study
from compressor.sensitivity.variants import VARIANTS
from compressor.targets.onnxruntime.session import load

# What an optimizer folds: the batch norm into the convolution, and the product of two constants.
MODEL = """<ir_version: 10, opset_import: ["": 18]> net (float[N,8,6,6] x) => (float[N,10] logits)
<int64[2] flat = {-1, 288}> {
    c = Conv<pads = [1, 1, 1, 1]>(x, conv)
    n = BatchNormalization(c, g, b, m, v)
    r = Relu(n)
    f = Reshape(r, flat)
    scaled = Mul(fc, factor)
    h = MatMul(f, scaled)
    logits = Gemm<transB = 1>(h, head)
}"""
SHAPES = {"conv": (8, 8, 3, 3), "fc": (288, 48), "head": (10, 48)}
SETTINGS = Settings(min_elements=300)


def save(path, change=None):
    """The model with the values of one weight changed by a function of them."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    others = {"g": random.random(8) + 0.5, "b": random.random(8), "m": random.random(8), "v": random.random(8) + 0.5}
    others["factor"] = random.random((1, 48))
    if change is not None:
        weights[change[0]] = change[1](weights[change[0]])
    model = onnx.ModelProto()
    model.CopyFrom(onnx.parser.parse_model(MODEL))
    for name, values in (weights | others).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)
    return Path(path)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The model and samples that it gets right but for every fifth."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(1).standard_normal((90, 8, 6, 6)).astype(np.float32)
    (logits,) = load(save("model.onnx"), "").run(["logits"], {"x": x})
    best = logits.argmax(1)
    best[::5] = (best[::5] + 1) % 10
    np.savez("data.npz", x=x, labels=best)


def bench(most=None, **settings):
    return study.bench(Path("model.onnx"), Path(), compare.Settings("data.npz", **settings), most, "model.onnx")


def tried(settings=SETTINGS):
    return study.subjects(sources.read(Path("model.onnx")), settings)


@pytest.mark.parametrize("weight", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_trial_is_what_a_real_artefact_does(weight, variant):
    """The changed model, compressed and verified, run from its files: the same numbers to the last bit."""
    (subject,) = [one for one in tried()[0] if one.name == weight]
    (trial,) = study.trials(bench(), [subject], names=[variant])
    changed = save("changed.onnx", (weight, lambda _: subject.changed(VARIANTS[variant])[0]))
    made = compressor.compress(changed, "out", settings=SETTINGS)
    settings = compare.Settings("data.npz")
    real = compare.compare(lambda: load(Path("model.onnx"), ""), lambda: load(Path("out/model.onnx"), ""), settings)
    assert trial.score == real.quality.after["logits"]
    assert trial.drop == real.quality.before["logits"] - real.quality.after["logits"]
    assert trial.agreement == real.quality.agreement
    x = np.load("data.npz")["x"]
    before, after = (load(Path(name), "").run(["logits"], {"x": x})[0] for name in ("model.onnx", "out/model.onnx"))
    assert trial.error == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-6)
    if weight == "fc":  # for the others the nodes that decode a form cost more than it saves
        assert next(one.nbytes for one in made.weights if one.name == weight) <= trial.nbytes
    assert trial.changed > 0


def test_stronger_variants_move_the_outputs_further():
    errors = {(one.weight, one.variant): one.error for one in study.trials(bench(), tried()[0])}
    for weight in SHAPES:
        for weak, strong in (
            ("int8", "int4"),
            ("palette4", "palette2"),
            ("pruned50", "pruned75"),
            ("int8", "pruned50"),
        ):
            assert 0 < errors[weight, weak] < errors[weight, strong]


def test_what_is_not_tried_has_its_reason():
    model = sources.read(Path("model.onnx"))
    codes = Quantized(Dense(np.zeros((10, 48), np.int8)), np.ones((1, 1), np.float32))
    weights = {
        "head": codes,
        "fc": Dense(np.full((288, 48), np.inf, np.float32)),
        "conv": Dense(np.ones((8, 8, 3, 3), np.float32)),
    }
    changed = [replace(one, encoding=weights.get(one.name, one.encoding)) for one in model.weights]
    subjects, skipped = study.subjects(replace(model, weights=changed), SETTINGS)
    assert [one.name for one in subjects] == ["conv"]
    assert skipped["head"] == "stored as int8 by the source: compressed already"
    assert skipped["fc"] == "holds values that are not finite"
    assert skipped["g"] == "one dimension: a bias or a scale"
    assert tried(Settings())[1]["conv"] == "576 elements: fewer than min_elements (2,048)"
    assert "less than 1,024 bytes" in tried(Settings(min_elements=1))[1]["factor"]


def test_a_weight_has_to_beat_the_form_that_it_has():
    save("model.onnx", ("fc", np.sign))
    (subject,) = [one for one in tried()[0] if one.name == "fc"]
    assert subject.nbytes == 288 * 48 / 8 + 2 * 4  # a palette of two values
    found = {one.variant: one.changed for one in study.trials(bench(), [subject], names=["palette4", "palette2"])}
    assert found == {"palette4": 0, "palette2": 0}


def test_what_changes_nothing_is_not_run(monkeypatch):
    save("model.onnx", ("fc", np.sign))
    stand, (subject,) = bench(), [one for one in tried()[0] if one.name == "fc"]
    monkeypatch.setattr(study, "load", None)
    (trial,) = study.trials(stand, [subject], names=["int8"])
    assert (trial.changed, trial.drop, trial.agreement, trial.error) == (0, 0.0, 1.0, 0.0)
    assert trial.score == stand.score


def test_the_source_may_change_while_trials_run():
    stand, (subject, *_) = bench(), tried()[0]
    before = next(study.trials(stand, stand.copies([subject]), names=["int4"]))
    save("model.onnx", (subject.name, np.zeros_like))
    assert next(study.trials(stand, stand.copies([subject]), names=["int4"])) == before
    assert next(study.trials(stand, [subject], names=["int4"])) != before


def test_known_trials_are_left_out():
    subjects = tried()[0]
    known = {(one.name, variant) for one in subjects for variant in VARIANTS} - {("fc", "int4")}
    (trial,) = study.trials(bench(), subjects, known)
    assert (trial.weight, trial.variant) == ("fc", "int4")


def test_without_labels_the_outputs_are_compared():
    np.savez("data.npz", x=np.load("data.npz")["x"])
    trial = next(study.trials(bench(), tried()[0], names=["int4"]))
    assert (trial.score, trial.drop) == (None, None)
    assert trial.loss == trial.error > 0


def test_without_labels_and_without_numbers_predictions_are_compared():
    text = MODEL.replace("float[N,10] logits", "int64[N] best")
    best = "logits = Gemm<transB = 1>(h, head) best = ArgMax<axis = 1, keepdims = 0>(logits)"
    model = onnx.parser.parse_model(text.replace("logits = Gemm<transB = 1>(h, head)", best))
    model.graph.initializer.extend(onnx.load("model.onnx").graph.initializer)
    onnx.save(model, "model.onnx")
    np.savez("data.npz", x=np.load("data.npz")["x"])
    subjects = [one for one in tried()[0] if one.name == "fc"]
    weak, strong = study.trials(bench(), subjects, names=["int8", "pruned75"])
    assert (weak.score, weak.drop, weak.error) == (None, None, None)
    assert weak.loss == 1 - weak.agreement < 1 - strong.agreement


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_other_types(dtype):
    kind = {np.float16: "float16", np.float64: "double"}[dtype]
    header = '<ir_version: 10, opset_import: ["": 18]>'
    text = f"{header} net ({kind}[4,288] x) => ({kind}[4,48] y) {{ y = MatMul(x, fc) }}"
    model, random = onnx.parser.parse_model(text), np.random.default_rng(0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal((288, 48)).astype(dtype), "fc"))
    onnx.save(model, "model.onnx")
    np.savez("data.npz", x=random.standard_normal((10, 288)).astype(dtype))  # three runs of four samples, two too many
    errors = {one.variant: one.error for one in study.trials(bench(), tried()[0])}
    assert 0 < errors["int8"] < 0.02 < errors["palette4"] < 0.12 < errors["palette2"] < 0.4


def test_a_loss_of_which_less_is_better():
    x = np.load("data.npz")["x"]
    (logits,) = load(Path("model.onnx"), "").run(["logits"], {"x": x})
    np.savez("data.npz", x=x, labels=logits)
    trial = next(study.trials(bench(metric="mean_squared_error"), tried()[0], names=["int4"]))
    assert trial.drop == trial.score > 0


# The square root of what the magnitudes of a weight are more than some total: none where they are pruned.
ROOT = """a = Abs(head) s = ReduceSum<keepdims = 0>(a, both) k = Sub(s, total) q = Sqrt(k) t = Mul(h, q)
    logits = Gemm<transB = 1>(t, head)"""


def test_a_change_that_ends_in_nan_is_a_failure_and_the_study_goes_on():
    text = MODEL.replace("-1, 288}>", "-1, 288}, int64[2] both = {0, 1}>")
    model = onnx.parser.parse_model(text.replace("logits = Gemm<transB = 1>(h, head)", ROOT))
    model.graph.initializer.extend(onnx.load("model.onnx").graph.initializer)
    (head,) = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "head"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.abs(head).sum() * 0.95), "total"))
    onnx.save(model, "model.onnx")
    subjects = [one for one in tried()[0] if one.name == "head"]
    found = {one.variant: one for one in study.trials(bench(), subjects)}
    assert "model.onnx with head as pruned75: output logits is NaN for sample 0" in found["pruned75"].failure
    assert found["pruned75"].loss is None
    assert found["int8"].loss is not None


def test_some_samples_are_always_the_same_and_of_every_class():
    np.savez("data.npz", x=np.load("data.npz")["x"], labels=np.arange(90) % 10)  # classes in turn
    stand = bench(most=30)
    assert stand.before.count == 30
    assert set(stand.labels["logits"].tolist()) == set(range(10))
    assert bench(most=30).key() == stand.key() != bench(most=31).key()
    assert bench(most=900).before.count == 90


def test_the_key_tells_what_changed():
    before = bench().key()
    assert bench().key() == before
    data = dict(np.load("data.npz"))
    np.savez("data.npz", **data | {"labels": data["labels"][::-1]})
    assert {name for name, value in bench().key().items() if value != before[name]} == {"samples"}
    np.savez("data.npz", **data)
    assert {name for name, value in bench(batch_size=7).key().items() if value != before[name]} == {"settings"}
    save("model.onnx", ("fc", lambda values: values + 1))
    assert {name for name, value in bench().key().items() if value != before[name]} == {"model"}


def test_a_model_without_an_onnx_graph():
    model = replace(sources.read(Path("model.onnx")), graph=None)
    with pytest.raises(CompressorError, match="has no ONNX graph"):
        study.subjects(model, SETTINGS)
