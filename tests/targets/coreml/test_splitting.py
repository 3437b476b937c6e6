"""Fused weights whose parts are stored in different ways: an operator for each part, and the very same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import compressor
from compressor import sources, targets
from compressor.arrays import NDArray
from compressor.compilation.manifest import Manifest
from compressor.differences.models import differences
from compressor.encodings import decode, name
from compressor.formats.coreml.importing import coremltools
from compressor.model import SPLIT, Model, joined
from compressor.sources import InputSpec
from compressor.weight import Weight
from tests.targets.coreml import networks
from tests.targets.coreml.networks import exported
from tests.targets.coreml.test_computes import saved

coremltools()

import coremltools as ct  # noqa: E402 - loaded by now, without its warnings
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402, N813 - its users call it that
from coremltools.converters.mil.mil import types  # noqa: E402

from compressor.targets.coreml.conversion import quiet  # noqa: E402
from tests.targets.coreml.mil_evaluation import evaluate_package  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

RNG = np.random.default_rng(0)
ROWS, INPUTS = 128, 256


def fused(rng: np.random.Generator) -> NDArray:
    """Of the first rows a quarter is not zero, the next are of 16 values, the last on a grid of 8 bits by row."""
    pruned = networks.pruned(rng, 0.75, (ROWS, INPUTS))
    few = networks.palette(rng, 16, (ROWS, INPUTS))
    return np.concatenate([pruned, few, networks.grid(rng, (ROWS, INPUTS))])


W = fused(RNG)
B = RNG.standard_normal(len(W)).astype(np.float32)
FORMS = {"w[0:128]": "sparse", "w[128:256]": "palettized4", "w[256:384]": "int8"}


@dataclass(frozen=True)
class Case:
    """A graph that multiplies by the weight. feeds: its input, of which one product is left of each sum."""

    nodes: Sequence[Any]
    feeds: Mapping[str, NDArray]
    constants: Mapping[str, NDArray]


def ones(*dims: int, axis: int = -1) -> NDArray:
    """Zeros with a one along an axis."""
    made = np.zeros(dims, np.float32)
    places = RNG.integers(0, dims[axis], [size for place, size in enumerate(dims) if place != axis % len(dims)])
    np.put_along_axis(made, np.expand_dims(places, axis), 1, axis)
    return made


node = helper.make_node
CASES = {
    "linear": Case([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": ones(3, INPUTS)}, {"w": W, "b": B}),
    "a turned matrix": Case([node("MatMul", ["x", "w"], ["y"])], {"x": ones(2, 3, INPUTS)}, {"w": W.T.copy()}),
    "matrices of four axes": Case([node("MatMul", ["x", "w"], ["y"])], {"x": ones(1, 2, 3, INPUTS)}, {"w": W.T.copy()}),
    "on the left": Case([node("MatMul", ["w", "x"], ["y"])], {"x": ones(INPUTS, 3, axis=0)}, {"w": W}),
    "a convolution": Case(
        [node("Conv", ["x", "w", "b"], ["y"])],
        {"x": ones(1, INPUTS // 4, 3, 3, axis=1)},
        {"w": W.reshape(-1, INPUTS // 4, 2, 2), "b": B},
    ),
    "two readers": Case(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["z", "w"], ["c"]),
            node("Concat", ["a", "c"], ["y"], axis=0),
        ],
        {"x": ones(2, INPUTS), "z": ones(3, INPUTS)},
        {"w": W.T.copy()},
    ),
}


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
@pytest.mark.parametrize("case", CASES)
def test_parts_compute_what_the_whole_does(case: str, target: str, tmp_path: Path) -> None:
    graph = CASES[case]
    model = saved(tmp_path / "m.onnx", graph.nodes, graph.feeds, graph.constants, {"y": TensorProto.FLOAT})
    manifest = compressor.compress(model, tmp_path / "out", target=target)
    assert forms(manifest) == FORMS
    assert sum(each.nbytes for each in manifest.weights) < 0.4 * sum(each.dense_nbytes for each in manifest.weights)
    split = tmp_path / "out/model.mlpackage"
    # The same values in one constant: the weights that were read back, stored dense.
    whole = whole_of(sources.read(split))
    values, given = decode(whole.encoding).astype(np.float32), graph.constants["w"]
    turned = values.T if values.shape == given.T.shape else values
    constants = {**graph.constants, "w": np.ascontiguousarray(turned).reshape(given.shape)}
    saved(model, graph.nodes, graph.feeds, constants, {"y": TensorProto.FLOAT})
    compressor.write_baseline(model, tmp_path / "dense", target=target)
    feeds = list(graph.feeds.values())
    found, expected = (evaluate_package(one, feeds)["y"] for one in (split, tmp_path / "dense/model.mlpackage"))
    assert np.array_equal(found, expected)
    assert found.any()


def whole_of(package: Model) -> Weight:
    return next(one for one in joined(package) if one.name in {"w", "qkv.weight"})


def forms(manifest: Manifest) -> dict[str, str]:
    return {each.name: each.encoding for each in manifest.weights if each.name.startswith("w")}


def made(folder: Path, case: Case = CASES["linear"], **asked: Any) -> Manifest:
    model = saved(folder / "m.onnx", case.nodes, case.feeds, case.constants, {"y": TensorProto.FLOAT})
    return compressor.compress(model, folder / "out", target="iOS17", **asked)


@pytest.mark.parametrize(
    "case",
    [
        Case([node("Gather", ["w", "i"], ["y"])], {"i": np.array([3, 300])}, {"w": np.abs(W)}),
        Case([node("MatMul", ["x", "w"], ["y"])], {"x": ones(1, len(W))}, {"w": W}),
        Case([node("Conv", ["x", "w"], ["y"], group=2)], {"x": ones(1, 2 * INPUTS, 1, 1)}, {"w": W[..., None, None]}),
    ],
    ids=["rows that are looked up", "parts along the inputs", "channels in groups"],
)
def test_what_reads_all_of_a_weight_keeps_it_whole(case: Case, tmp_path: Path) -> None:
    manifest = made(tmp_path, case)
    (facts,) = (each for each in manifest.weights if each.name == "w")
    told = {form: reason for form, reason in facts.rejected if form.startswith("concatenated")}
    assert told
    assert all(reason.startswith("Core ML has no constant that is made of several") for reason in told.values())


def test_a_batch_norm_is_folded_into_the_parts(tmp_path: Path) -> None:
    """Each part is multiplied with the factors of its own channels; 16 values by as many of them are values."""
    norm = {"gamma": RNG.uniform(0.5, 2, len(W)), "beta": B, "mean": B[::-1].copy(), "var": RNG.uniform(0.5, 2, len(W))}
    case = CASES["a convolution"]
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"]),
    ]
    constants = {**case.constants, **{key: values.astype(np.float32) for key, values in norm.items()}}
    model = saved(tmp_path / "m.onnx", nodes, case.feeds, constants, {"y": TensorProto.FLOAT})
    manifest = compressor.compress(model, tmp_path / "out", target="iOS17")
    assert list(forms(manifest).values()) == ["sparse", "dense", "int8"]
    (expected,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, dict(case.feeds))
    found = evaluate_package(tmp_path / "out/model.mlpackage", list(case.feeds.values()))["y"]
    assert np.allclose(found, expected, 2**-8, 2**-8)
    fitted = compressor.write_baseline(model, tmp_path / "dense", target="iOS17")
    session = targets.get("iOS17").session(tmp_path / "out/model.mlpackage", fitted, "package")
    (again,) = session.run(["y"], dict(case.feeds))
    assert np.allclose(again, expected, 2**-8, 2**-8)


def test_a_rule_of_the_weight_holds_for_its_parts(tmp_path: Path) -> None:
    assert forms(made(tmp_path, rules={"w": ["sparsify", "palettize"]})) == {**FORMS, "w[256:384]": "dense"}
    assert forms(made(tmp_path, rules={"w": "dense"})) == {"w": "dense"}


def test_parts_that_save_little_stay_together(tmp_path: Path) -> None:
    """Half of the zeros of a grid in some rows: of the codes that are there anyway, a mask saves nothing."""
    codes = networks.grid(RNG, (512, 256))
    codes[:40] *= RNG.random((40, 256)) < 0.5
    constants = {"w": codes, "b": np.zeros(512, np.float32)}
    assert forms(made(tmp_path, Case(CASES["linear"].nodes, CASES["linear"].feeds, constants))) == {"w": "int8"}


def test_an_artefact_is_compared_and_run_as_one_weight(tmp_path: Path) -> None:
    manifest = made(tmp_path)
    package = sources.read(tmp_path / "out")
    whole = whole_of(package)
    assert name(whole.encoding) == "concatenated(sparse, palettized4, int8)"
    found = next(each for each in differences(sources.read(tmp_path / "m.onnx"), package).weights if each.values)
    assert found.before is not None
    assert found.after is not None
    assert (found.before.name, found.after.name) == ("w", "w")
    assert found.after.nbytes == sum(each.nbytes for each in manifest.weights if each.name.startswith("w"))

    fitted = compressor.write_baseline(tmp_path / "m.onnx", tmp_path / "dense", target="iOS17")
    session = targets.get("iOS17").session(tmp_path / "out/model.mlpackage", fitted, "package")
    x = np.eye(INPUTS, dtype=np.float32)[:3]
    (got,) = session.run(["y"], {"x": x})
    assert np.array_equal(got, decode(whole.encoding).astype(np.float32).T[:3] + B)


def test_a_package_of_parts_is_a_source(tmp_path: Path) -> None:
    made(tmp_path)
    manifest = compressor.compress(tmp_path / "out/model.mlpackage", tmp_path / "again", target="iOS18")
    assert forms(manifest) == FORMS
    before, after = (whole_of(sources.read(tmp_path / folder)) for folder in ("out", "again"))
    assert np.array_equal(decode(before.encoding), decode(after.encoding))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        "{",
        '{"w": 3}',
        '{"w": []}',
        '{"w": [0, 64]}',
        '{"w": [0, 1, 384]}',
        '{"w": [7, 128, 256, 384]}',
        '{"v": [0, 1, 2]}',
    ],
)
def test_what_a_package_says_of_its_parts_is_a_note(said: str, tmp_path: Path) -> None:
    made(tmp_path)
    package = sources.read(tmp_path / "out")
    told = Model(package.path, package.weights, package.graph, {**package.metadata, SPLIT: said})
    assert joined(told) == list(package.weights)


def test_core_ml_tools_leaves_a_concat_of_constants_in_the_program() -> None:
    """And makes another operator of the layer behind it: there is no constant of several forms."""

    def part(first: float) -> Any:
        return mb.constexpr_sparse_to_dense(
            nonzero_data=np.float16([first, 2]), mask=np.array([[1, 0], [0, 1]]).astype(types.np_uint1_dtype)
        )

    @mb.program(input_specs=[mb.TensorSpec((1, 2), dtype=types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=mb.concat(values=[part(1), part(3)], axis=0))

    with quiet():
        made = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True
        )
    (function,) = made._mil_program.functions.values()
    assert [each.op_type for each in function.operations if each.op_type != "const"] == [
        *["constexpr_sparse_to_dense"] * 2,
        "concat",
        "matmul",
    ]


class Attention(nn.Module):
    """Queries, keys and values by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(INPUTS, 3 * ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v


def test_a_fused_projection_of_torch(tmp_path: Path) -> None:
    module = Attention()
    networks.set_(module.qkv.weight, W)
    source = exported(module, {"x": InputSpec((1, 4, INPUTS))}, tmp_path)
    package = networks.written(source.folder, tmp_path / "out", "iOS17")
    assert [form for weight, form in package.forms.items() if "qkv" in weight] == [*FORMS.values()]
    assert np.allclose(decode(whole_of(package.model).encoding), W, 2**-9, 1e-6)
    assert "int8 grid per channel" in package.evidence("qkv.weight[256:384]")
