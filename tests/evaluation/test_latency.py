"""Times of models that really run in ONNX Runtime: no test expects a number, only what must hold of any."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.errors import CompressorError
from compressor.evaluation import latency
from compressor.targets.onnxruntime.session import load

HEADER = '<ir_version: 10, opset_import: ["": 18]>'
LIGHT = f"{HEADER} net (float[N,64] x) => (float[N,64] y) {{ y = Identity(x) }}"
FIXED = f"{HEADER} net (float[4,64] x) => (float[4,64] y) {{ y = Identity(x) }}"
# A sine of many values, again and again.
HEAVY = f"""{HEADER} net (float[N,64] x) => (float[N,64] y) <int64[2] reps = {{1, 4096}}, int64[1] one = {{1}}>
{{ many = Tile(x, reps) a = Sin(many) b = Cos(a) c = Sin(b) s = ReduceMean<keepdims = 1>(c, one) y = Add(x, s) }}"""


@dataclass
class Recorded:
    """A session that notes when it runs, and on how much."""

    session: object
    name: str
    ran: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, names, feeds):
        self.ran.append((self.name, len(feeds["x"])))
        return self.session.run(names, feeds)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"light": LIGHT, "heavy": HEAVY, "fixed": FIXED}.items():
        onnx.save(onnx.parser.parse_model(text), f"{name}.onnx")
    np.savez("data.npz", x=np.ones((3, 64), np.float32))


def measure(first, second, **settings):
    """Both models, and the order of all runs."""
    ran = []
    opened = [
        partial(lambda name, place: Recorded(load(Path(f"{name}.onnx"), name), place, ran), name, place)
        for place, name in enumerate((first, second))
    ]
    return latency.measure(*opened, "data.npz", latency.Settings(**settings)), ran


def test_more_work_takes_longer():
    found, _ = measure("light", "heavy", runs=9)
    assert found.after.percentile(50) > 2 * found.before.percentile(50)
    assert found.after.percentile(90) >= found.after.percentile(50) > 0
    assert found.after.load > 0
    assert (found.runtime, found.batch_size) == ("onnxruntime", 1)


def test_models_run_in_turns_and_take_turns_at_being_first():
    found, ran = measure("light", "light", runs=4, warmup=2, batch_size=2)
    assert [name for name, _ in ran] == [1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1]
    assert {count for _, count in ran} == {2}
    assert [len(model.runs) for model in (found.before, found.after)] == [4, 4]


@pytest.mark.parametrize(("model", "size", "expected"), [("light", 8, 8), ("fixed", 1, 4)])
def test_too_few_samples_are_filled_up(model, size, expected):
    found, ran = measure(model, model, runs=1, warmup=0, batch_size=size)
    assert found.batch_size == expected
    assert {count for _, count in ran} == {expected}


def test_a_model_that_fails():
    np.savez("data.npz", x=np.ones((3, 32), np.float32))
    onnx.save(onnx.parser.parse_model(LIGHT.replace("float[N,64]", "float[N,M]").replace("Identity(x)", "Reshape(x, s)")
              .replace("{ y", "<int64[2] s = {7, 7}> { y")), "broken.onnx")  # fmt: skip
    with pytest.raises(CompressorError, match="broken: onnxruntime failed"):
        measure("broken", "broken", runs=1)


@pytest.mark.parametrize("settings", [{"runs": 0}, {"runs": 1, "warmup": -1}, {"runs": 1, "batch_size": 0}])
def test_nothing_to_time(settings):
    with pytest.raises(ValueError, match="at least 1 run"):
        latency.Settings(**settings)
