"""A form that fails costs its weight that form: the next best one is taken, and the reason is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import CompressorError, encodings
from compressor.arrays import NDArray
from compressor.compilation import encode as encoding
from compressor.compilation import planning
from compressor.encodings import Dense, Encoding, Palettized
from compressor.formats.layout import Part, Place
from compressor.model import Model
from compressor.recognition.find import find
from compressor.recognition.findings import Finding, Settings
from compressor.targets import Asked, Fitted, Illegal, Layout, Target, get
from compressor.weight import Weight

SIZE = 96
ENTRIES = np.random.default_rng(7).normal(0, 1, 16).astype(np.float32)


def palette(seed: int, rows: int = SIZE) -> NDArray:
    return ENTRIES[np.random.default_rng(seed).integers(0, 16, (rows, SIZE))]


def chain(path: Path, weights: Mapping[str, NDArray]) -> Path:
    """A chain of `MatMul`s, one for each weight."""
    nodes = [
        helper.make_node("MatMul", [last, name], [f"{name}.y"])
        for last, name in zip(["x", *(f"{name}.y" for name in weights)], weights, strict=False)
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", next(iter(weights.values())).shape[0]])],
        [
            helper.make_tensor_value_info(
                nodes[-1].output[0], TensorProto.FLOAT, ["n", [*weights.values()][-1].shape[1]]
            )
        ],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def off_grid(values: NDArray) -> NDArray:
    values[500, 77] = 0.1234567
    return values


def out_of_range(values: NDArray) -> NDArray:
    scale = np.abs(values[500, 64:96][values[500, 64:96] != 0]).min()
    values[500, 64:66] = scale, 100 * scale  # codes of a byte, where those of all other blocks have four bits
    return values


@pytest.mark.parametrize(
    ("change", "form"),
    [(lambda values: values, "int4"), (off_grid, "sparse"), (out_of_range, "int8")],
    ids=["on it", "a value off it", "a block of more codes"],
)
def test_a_grid_is_planned_by_some_blocks_and_looked_at_as_a_whole_where_others_differ(
    tmp_path: Path, change: Callable[[NDArray], NDArray], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no sample has seen costs the weight a second look, and no value."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, (1024, 128, 1)).astype(np.float32)
    values = change((rng.integers(-8, 8, (1024, 128, 32)) * scale).astype(np.float32).reshape(1024, 4096))
    looked: list[bool] = []
    real = planning.find
    monkeypatch.setattr(
        planning, "find", lambda *a, sampled=False: (looked.append(sampled), real(*a, sampled=sampled))[1]
    )
    model = chain(tmp_path / "m.onnx", {"w": values})
    made = compressor.compress(model, tmp_path / "out")
    assert [weight.encoding for weight in made.weights] == [form]
    assert looked == [True] if form == "int4" else [True, False]


def computed(path: Path) -> NDArray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = session.get_inputs()[0].shape[1]
    (result,) = session.run(None, {"x": np.random.default_rng(0).normal(size=(3, rows)).astype(np.float32)})
    return np.asarray(result)


@dataclass(frozen=True)
class Failing:
    """ONNX Runtime's target, which fails with the weights of some names and forms.

    refused: of which it refuses the data, though it took the spec.
    damaged: of which it writes other values.
    writings: how often it has written.
    """

    refused: frozenset[tuple[str, str]] = frozenset()
    damaged: frozenset[tuple[str, str]] = frozenset()
    inner: Target = field(default_factory=lambda: get("onnxruntime"))
    writings: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def fit(self, model: Model, asked: Asked) -> Fitted:
        fitted = self.inner.fit(model, asked)
        return Fitted(replace(self, inner=fitted.target), fitted.model)

    def legalize(self, encoding: Encoding) -> Encoding:
        data = any(isinstance(array, np.ndarray) for array in encodings.arrays(encoding))
        if data and ("", encodings.name(encoding)) in self.refused:
            raise Illegal("this very data is refused")
        return self.inner.legalize(encoding)

    def layout(self, model: Model, specs: Mapping[str, Encoding], metadata: Mapping[str, str] = {}) -> Layout:
        made = self.inner.layout(model, specs, metadata)
        damaged = {name for name, spec in specs.items() if (name, encodings.name(spec)) in self.damaged}
        (part,) = made.parts
        places = {name: Damaging(place) if name in damaged else place for name, place in part.places.items()}
        return Counted(part, places, self.writings)


@dataclass(frozen=True)
class Counted:
    """A layout that notes when an artefact is begun."""

    inner: Part
    places: Mapping[str, Place]
    writings: list[int]
    file: str = ""
    followed: None = None

    @property
    def parts(self) -> tuple[Counted]:
        return (self,)

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    def begin(self, directory: Path) -> None:
        self.writings.append(1)
        self.inner.begin(directory)

    def check(self, directory: Path) -> None:
        self.inner.check(directory)


@dataclass(frozen=True)
class Damaging:
    """A place to which other values are written."""

    inner: Place

    def write(self, directory: Path, encoding: Encoding) -> None:
        if isinstance(encoding, Palettized):
            encoding = replace(encoding, lut=np.asarray(encoding.lut) * np.float32(1.5))
        elif isinstance(encoding, Dense):
            encoding = Dense(np.asarray(encoding.values) + np.float32(1))
        self.inner.write(directory, encoding)


def test_a_form_that_is_not_read_back_as_it_was_is_not_taken(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", {"a": palette(1), "b": palette(2), "c": palette(3)})
    target = Failing(damaged=frozenset({("b", "palettized4")}))
    made = compressor.compress(source, tmp_path / "out", target=target)
    assert [weight.encoding for weight in made.weights] == ["palettized4", "dense", "palettized4"]
    assert all(weight.exact for weight in made.weights)
    differ = "values read back from palettized4 differ from the source"
    assert [reason for form, reason in made.weights[1].rejected if form == "palettized4"] == [f"9,216 {differ}"]
    assert not any(differ in reason for weight in (made.weights[0], made.weights[2]) for _, reason in weight.rejected)
    assert len(target.writings) == 2
    assert computed(tmp_path / "out" / "model.onnx").tolist() == computed(source).tolist()


def test_a_form_whose_data_the_target_refuses_is_not_taken(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", {name: palette(seed) for seed, name in enumerate("abcdef")})
    target = Failing(refused=frozenset({("", "palettized4")}))
    made = compressor.compress(source, tmp_path / "out", target=target)
    assert {weight.encoding for weight in made.weights} == {"dense"}
    assert all(("palettized4", "this very data is refused") in weight.rejected for weight in made.weights)
    assert len(target.writings) == 2  # all that fail are told at once


def test_the_next_best_form_takes_the_place_of_one_that_cannot_be_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = palette(1)
    pruned[np.random.default_rng(0).random(pruned.shape) < 0.8] = 0
    source = chain(tmp_path / "m.onnx", {"a": pruned, "b": palette(2)})
    masked = encoding.by_rows.masked

    def failing(values: Any, spec: Any, threshold: float, described: Callable[..., Any]) -> Any:
        if encodings.name(spec) == "sparse(palettized4)":
            raise ValueError("no such mask")
        return masked(values, spec, threshold, described)

    monkeypatch.setattr(encoding.by_rows, "masked", failing)
    made = compressor.compress(source, tmp_path / "out")
    assert [weight.encoding for weight in made.weights] == ["palettized5", "palettized4"]
    reason = "cannot be stored as sparse(palettized4): no such mask"
    assert ("sparse(palettized4) by distances", reason) in made.weights[0].rejected


def test_the_values_as_they_are_take_the_place_of_narrower_ones_that_cannot_be_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float16).astype(np.float32)
    source = chain(tmp_path / "m.onnx", {"a": halves})

    def failing(values: NDArray, spec: Any, where: NDArray | None) -> Any:
        raise ValueError("no such values")

    monkeypatch.setattr(encoding.narrow, "encode", failing)
    (weight,) = compressor.compress(source, tmp_path / "out").weights
    assert weight.encoding == "dense"
    assert ("float16", "cannot be stored as float16: no such values") in weight.rejected


def test_a_weight_whose_values_are_not_read_back_is_not_published(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(SIZE, SIZE)).astype(np.float32), "v": palette(1)}
    source = chain(tmp_path / "m.onnx", weights)
    target = Failing(damaged=frozenset({("w", "dense")}))
    with pytest.raises(
        CompressorError, match=r"^weight w .* read back from dense differ .*\. Nothing was published\.$"
    ):
        compressor.compress(source, tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_rare_values_that_samples_missed_cost_one_more_writing(tmp_path: Path) -> None:
    weights = {name: palette(seed, 2048 if name == "a" else SIZE) for seed, name in enumerate("abcd")}
    weights["a"][1700, 77] = 42.0  # in none of the runs that a sample of this weight takes
    source = chain(tmp_path / "m.onnx", weights)
    target = Failing()
    made = compressor.compress(source, tmp_path / "out", target=target)
    facts = [(weight.encoding, weight.evidence, weight.exact) for weight in made.weights]
    assert facts == [("palettized5", "17 distinct values", True)] + [("palettized4", "16 distinct values", True)] * 3
    assert len(target.writings) == 2


def test_a_form_that_fails_with_the_right_detection_costs_the_form_alone(tmp_path: Path) -> None:
    source = chain(tmp_path / "m.onnx", {"a": palette(1), "b": palette(2)})
    target = Failing(damaged=frozenset({("a", "palettized4")}))
    made = compressor.compress(source, tmp_path / "out", target=target, detection=compressor.detect(source))
    assert [weight.encoding for weight in made.weights] == ["dense", "palettized4"]


def test_least_magnitudes_of_float64_are_a_palette(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 17, (64, 64)) * 5e-324
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 64])],
        [numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    (weight,) = compressor.compress(tmp_path / "m.onnx", tmp_path / "out").weights
    assert (weight.exact, weight.evidence) == (True, "16 distinct values")


@pytest.mark.parametrize("target", ["onnxruntime", "iOS17"])
def test_each_weight_is_looked_at_once(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (np.random.default_rng(5).integers(-127, 128, (SIZE, SIZE)) * 0.01).astype(np.float32)
    dense = np.random.default_rng(6).normal(size=(SIZE, SIZE)).astype(np.float32)
    source = chain(tmp_path / "m.onnx", {"palette": palette(1), "grid": grid, "dense": dense})
    looked_at: list[str] = []

    def counted(weight: Weight, settings: Settings, *, sampled: bool = False) -> Finding:
        looked_at.append(weight.name)
        return find(weight, settings, sampled=sampled)

    monkeypatch.setattr(planning, "find", counted)
    made = compressor.compress(source, tmp_path / "out", target=target)
    assert sorted(looked_at) == ["dense", "grid", "palette"]
    assert [weight.encoding for weight in made.weights[::2]] == ["palettized4", "dense"]


def rare_values() -> NDArray:
    """Sixteen values, but for a run that no sample shows: as many as are no palette."""
    values = palette(8, 1024)
    values.reshape(-1)[37000:37300] = np.linspace(1, 2, 300, dtype=np.float32)
    return values


@pytest.mark.parametrize(("target", "form"), [("onnxruntime", "palettized5"), ("iOS17", "dense")])
def test_what_a_sample_of_a_fitted_weight_misses_is_not_blamed_on_the_detection(
    target: str, form: str, tmp_path: Path
) -> None:
    source = chain(tmp_path / "m.onnx", {"rare": rare_values(), "palette": palette(1)})
    made = compressor.compress(source, tmp_path / "out", target=target, detection=compressor.detect(source))
    assert [weight.encoding for weight in made.weights] == [form, "palettized4"]
