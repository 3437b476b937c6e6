"""No artefact is larger than its source's files, for any target of the same format; what cannot be smaller is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressor
from compressor import sources, targets
from compressor.encodings import decode
from compressor.targets.onnxruntime import TARGETS
from tests.golden.add_artefacts import FOLDER

RNG = np.random.default_rng(0)
ALL = os.environ.get("COMPRESSOR_TESTS") == "all"
LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))
GOLDEN = sorted(FOLDER.glob("*.onnx"))


def save(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int = 21, **more: object
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path, **more)
    return path


def codes(low: int, high: int, *shape: int, dtype: type = np.int8) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def dense(path: Path) -> Path:
    return save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": floats(64, 128)})


def apart(path: Path) -> Path:
    onnx.save(onnx.load(dense(path)), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def constants(path: Path) -> Path:
    """Many small constants in nodes, whose tensors have no names."""
    nodes, before = [], "x"
    for place in range(60):
        value = numpy_helper.from_array(np.array(1 + place, np.float32))
        nodes.append(helper.make_node("Constant", [], [f"a_rather_long_name_{place}"], value=value))
        nodes.append(helper.make_node("Mul", [before, f"a_rather_long_name_{place}"], [f"h{place}"]))
        before = f"h{place}"
    nodes.append(helper.make_node("Identity", [before], ["y"]))
    return save(path, nodes, {})


def quantized(path: Path) -> Path:
    """As ONNX Runtime's static quantization leaves a model: int8 weights, each with its zero point."""
    made: dict[str, np.ndarray] = {"s": np.array(0.02, np.float32), "z": np.array(3, np.int8)}
    nodes, before = [], "x"
    for place in range(12):
        made |= {
            f"w{place}": codes(-127, 128, 64, 64),
            f"w{place}_scale": np.abs(floats(64)),
            f"w{place}_zero_point": np.zeros(64, np.int8),
        }
        nodes += [
            helper.make_node("QuantizeLinear", [before, "s", "z"], [f"q{place}"]),
            helper.make_node("DequantizeLinear", [f"q{place}", "s", "z"], [f"d{place}"]),
            helper.make_node(
                "DequantizeLinear", [f"w{place}", f"w{place}_scale", f"w{place}_zero_point"], [f"v{place}"], axis=1
            ),
            helper.make_node("MatMul", [f"d{place}", f"v{place}"], [f"h{place}"]),
        ]
        before = f"h{place}"
    nodes.append(helper.make_node("Identity", [before], ["y"]))
    return save(path, nodes, made)


def four_bits(path: Path) -> Path:
    """Symmetric `MatMulNBits`: no zero points are stored."""
    made: dict[str, np.ndarray] = {}
    nodes, before = [], "x"
    for place in range(8):
        made |= {f"w{place}": codes(0, 256, 64, 2, 16, dtype=np.uint8), f"s{place}": np.abs(floats(128))}
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                [before, f"w{place}", f"s{place}"],
                [f"h{place}"],
                domain="com.microsoft",
                K=64,
                N=64,
                bits=4,
                block_size=32,
            )
        )
        before = f"h{place}"
    nodes.append(helper.make_node("Identity", [before], ["y"]))
    return save(path, nodes, made)


MADE: tuple[Callable[[Path], Path], ...] = (dense, apart, constants, quantized, four_bits)


def check(path: Path, out: Path, target: str) -> compressor.Manifest:
    made = compressor.compress(path, out, target=target)
    assert made.source_nbytes == sum(file.stat().st_size for file in sources.read(path).files)
    assert made.nbytes == sum(file.stat().st_size for file in out.iterdir() if file.name != "manifest.json")
    assert made.nbytes <= made.source_nbytes
    return made


@pytest.mark.parametrize("target", TARGETS if ALL else ["onnxruntime"])
@pytest.mark.parametrize("path", LIGHT if ALL else LIGHT[-3:-1], ids=lambda path: path.stem)
def test_trained_networks(path: Path, target: str, tmp_path: Path) -> None:
    check(path, tmp_path / "out", target)


@pytest.mark.parametrize("path", GOLDEN if ALL else GOLDEN[::5], ids=lambda path: path.stem)
def test_artefacts_of_earlier_versions(path: Path, tmp_path: Path) -> None:
    opset = int(path.suffixes[0].removeprefix(".opset"))
    for target, newest in TARGETS.items():
        if newest is None or newest[0] >= opset:
            check(path, tmp_path / target, target)


@pytest.mark.parametrize("target", ["onnxruntime", "onnx-opset21"])
@pytest.mark.parametrize("build", MADE, ids=lambda build: build.__name__)
def test_what_gains_nothing(build: Callable[[Path], Path], target: str, tmp_path: Path) -> None:
    check(build(tmp_path / "m.onnx"), tmp_path / "out", target)


@pytest.mark.parametrize("build", [dense, apart])
def test_what_cannot_be_smaller_is_written_as_it_was(build: Callable[[Path], Path], tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    made = check(path, tmp_path / "out", "onnxruntime")
    (note,) = made.notes
    assert note.startswith("written as it was: the smallest artefact that was found takes ")
    if build is dense:
        assert (tmp_path / "out" / "model.onnx").read_bytes() == path.read_bytes()
    (mine,), (its,) = (sources.read(one).weights for one in (tmp_path / "out", path))
    np.testing.assert_array_equal(decode(mine.encoding), decode(its.encoding))
    again = compressor.compress(tmp_path / "out", tmp_path / "again")
    assert again.nbytes == made.nbytes


def test_constants_keep_the_names_that_they_had(tmp_path: Path) -> None:
    made = compressor.compress(constants(tmp_path / "m.onnx"), tmp_path / "out")
    nodes = onnx.load(tmp_path / "out" / "model.onnx").graph.node
    assert {node.attribute[0].t.name for node in nodes if node.op_type == "Constant"} == {""}
    assert made.nbytes <= made.source_nbytes


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("build", [dense, quantized])
def test_packages(build: Callable[[Path], Path], tmp_path: Path) -> None:
    compressor.compress(build(tmp_path / "m.onnx"), tmp_path / "first", target="iOS17")
    package = tmp_path / "first" / "model.mlpackage"
    made = compressor.compress(package, tmp_path / "second", target="iOS17")
    assert (
        made.nbytes <= made.source_nbytes == sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    )
    for target, takes in (("iOS17", True), ("iOS18", False)):
        (tmp_path / target).mkdir()
        assert targets.get(target).copy(sources.read(package), tmp_path / target) is takes
    copied = tmp_path / "iOS17" / "model.mlpackage"
    assert {file.name: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == {
        file.name: file.read_bytes() for file in package.rglob("*") if file.is_file()
    }
    assert targets.get("iOS17").refusal(tmp_path / "iOS17") == ""
    (copied / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"no model")
    assert targets.get("iOS17").refusal(tmp_path / "iOS17").startswith("Core ML Tools ")
    assert targets.get("iOS17").refusal(tmp_path / "m.onnx") == ""
