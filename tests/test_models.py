"""Whole models of every kind, compressed for every target, against their sources in real ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper

import compressor
from compressor import sources, targets
from compressor.arrays import NDArray
from compressor.encodings import decode, name
from tests.conformance import operators
from tests.sources.onnx.models import save, tensor, value

RNG = np.random.default_rng(0)
Feeds = Mapping[str, NDArray]


@dataclass(frozen=True)
class Kind:
    """A model to compress.

    build: writes it to a path.
    feeds: what it is run with, once for each entry.
    forms: encodings that must be among those chosen for the target `onnxruntime`.
    opset: of the model.
    off: how far outputs may be off, in parts of the largest one.
    """

    build: Callable[[Path], object]
    feeds: tuple[Feeds, ...]
    forms: tuple[str, ...]
    opset: int = 18
    off: float = 0.0


KINDS: dict[str, Kind] = {}


def kind(feeds: Feeds | tuple[Feeds, ...], *forms: str, opset: int = 18, off: float = 0.0) -> Callable[..., None]:
    def register(build: Callable[[Path], object]) -> None:
        KINDS[build.__name__] = Kind(build, feeds if isinstance(feeds, tuple) else (feeds,), forms, opset, off)

    return register


def normal(*shape: int) -> NDArray:
    return RNG.standard_normal(shape).astype(np.float32)


def pruned(*shape: int) -> NDArray:
    values = normal(*shape)
    return np.where(RNG.random(shape) < 0.75, np.float32(0), values + np.copysign(np.float32(0.1), values))


def palette(*shape: int, entries: int = 16) -> NDArray:
    return normal(entries)[RNG.integers(0, entries, shape)]


def grid(*shape: int) -> NDArray:
    """Fake-quantized to int8, a scale for each row."""
    scale = np.abs(normal(shape[0], *(1,) * (len(shape) - 1))) * np.float32(0.01) + np.float32(0.01)
    return np.asarray(RNG.integers(-127, 128, shape).astype(np.float32) * scale, np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node of comma-separated names; an empty one is an omitted input or output."""
    return helper.make_node(op, inputs.split(","), outputs.split(","), **attributes)


def integers(*shape: int, below: int) -> NDArray:
    return RNG.integers(0, below, shape)


@kind({"x": normal(2, 4, 9, 9)}, "sparse", "palettized4", "int8")
def convolutions_with_batch_norm(path: Path) -> None:
    norm = {name: tensor(name, np.abs(normal(32)) + np.float32(0.1)) for name in ("gamma", "beta", "mean", "var")}
    nodes = [
        node("Conv", "x,conv1,bias1", "c1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1,gamma,beta,mean,var", "n1"),
        node("Relu", "n1", "r1"),
        node("Conv", "r1,conv2", "c2", group=4),
        node("BatchNormalization", "c2,gamma,beta,mean,var", "n2"),
        node("ConvTranspose", "n2,conv3", "c3", strides=[2, 2]),
        node("GlobalAveragePool", "c3", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f,fc,fc_bias", "y", transB=1),
    ]
    weights = {
        "conv1": pruned(32, 4, 5, 5),
        "bias1": normal(32),
        "conv2": palette(32, 8, 3, 3),
        "conv3": grid(32, 24, 3, 3),
        "fc": pruned(100, 24),
        "fc_bias": normal(100),
    }
    initializers = [*(tensor(key, values) for key, values in weights.items()), *norm.values()]
    save(
        path,
        nodes,
        initializers,
        inputs=[value("x", ["n", 4, "h", "w"])],
        outputs=[value("y", ["n", 100])],
        opset=18,
    )


@kind({"tokens": integers(2, 7, below=100)}, "sparse", "palettized4", "int8")
def a_transformer_block_with_tied_embeddings(path: Path) -> None:
    nodes = [
        node("Gather", "embedding,tokens", "x"),
        node("LayerNormalization", "x,ln1", "n1", axis=-1),
        *(node("MatMul", f"n1,{part}", f"{part}_") for part in ("query", "key", "value")),
        node("Transpose", "key_", "kt", perm=[0, 2, 1]),
        node("MatMul", "query_,kt", "scores"),
        node("Softmax", "scores", "attention"),
        node("MatMul", "attention,value_", "mixed"),
        node("MatMul", "mixed,projection", "projected"),
        node("Add", "x,projected", "h"),
        node("MatMul", "h,up", "u"),
        node("Add", "u,up_bias", "ub"),
        node("Erf", "ub", "g"),
        node("MatMul", "g,down", "d"),
        node("Add", "h,d", "out"),
        node("Transpose", "embedding", "head", perm=[1, 0]),
        node("MatMul", "out,head", "logits"),
    ]
    weights = {
        "embedding": palette(100, 48),
        "ln1": normal(48),
        "query": pruned(48, 48),
        "key": palette(48, 48, entries=3),
        "value": grid(48, 48),
        "projection": normal(48, 48),
        "up": pruned(48, 96),
        "up_bias": normal(96),
        "down": palette(96, 48),
    }
    save(
        path,
        nodes,
        [tensor(key, values) for key, values in weights.items()],
        inputs=[value("tokens", ["n", "t"], TensorProto.INT64)],
        outputs=[value("logits", ["n", "t", 100])],
        opset=18,
    )


@kind({"x": normal(5, 2, 16)}, "sparse", "palettized4", "int8")
def lstm_and_gru_with_omitted_inputs_and_outputs(path: Path) -> None:
    nodes = [
        node("LSTM", "x,w,r,b,,,,", "hidden,,cell", hidden_size=24, direction="bidirectional"),
        node("Transpose", "hidden", "t", perm=[0, 2, 1, 3]),
        node("Reshape", "t,shape", "h"),
        node("GRU", "h,gw,gr", ",last", hidden_size=32),
    ]
    weights = {
        "w": palette(2, 96, 16),
        "r": pruned(2, 96, 24),
        "b": normal(2, 192),
        "gw": pruned(1, 96, 48),
        "gr": grid(1, 96, 32),
        "shape": np.array([0, 0, -1], np.int64),
    }
    save(
        path,
        nodes,
        [tensor(key, values) for key, values in weights.items()],
        inputs=[value("x", [5, "n", 16])],
        outputs=[value("last", [1, "n", 32]), value("cell", [2, "n", 24])],
        opset=18,
    )


def subgraph(nodes: list[NodeProto], outputs: list[str], weights: Mapping[str, NDArray]) -> GraphProto:
    found = [value(output, ["a", "b"]) for output in outputs]
    return helper.make_graph(nodes, "sub", [], found, [tensor(key, values) for key, values in weights.items()])


@kind(({"x": normal(3, 64)}, {"x": np.full((3, 64), -1, np.float32)}), "sparse", "palettized4", "palettized2")
def branches_with_weights_of_their_own_and_of_the_main_graph(path: Path) -> None:
    then = subgraph([node("MatMul", "x,w", "p"), node("MatMul", "p,shared", "t")], ["t"], {"w": palette(64, 64)})
    inner = subgraph([node("MatMul", "x,w", "q")], ["q"], {"w": palette(64, 64, entries=3)})
    same = subgraph([node("MatMul", "x,shared", "s")], ["s"], {})
    other = subgraph([node("If", "deep", "e", then_branch=inner, else_branch=same)], ["e"], {})
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum,zero", "positive"),
        node("Less", "sum,minus", "deep"),
        node("If", "positive", "r", then_branch=then, else_branch=other),
        node("MatMul", "r,shared", "y"),
    ]
    weights = {"shared": pruned(64, 64), "zero": np.array(0, np.float32), "minus": np.array(-100, np.float32)}
    save(
        path,
        nodes,
        [tensor(key, values) for key, values in weights.items()],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
        opset=18,
    )


@kind({"x": normal(3, 64), "n": np.array(3)}, "palettized4", "sparse")
def loops_with_weights_inside(path: Path) -> None:
    body = helper.make_graph(
        [
            node("MatMul", "state,w", "m"),
            node("MatMul", "m,outer", "mm"),
            node("Tanh", "mm", "next"),
            node("Identity", "going", "still"),
            node("Identity", "next", "scanned"),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("going", [], TensorProto.BOOL), value("state", ["a", "b"])],
        [value("still", [], TensorProto.BOOL), value("next", ["a", "b"]), value("scanned", ["a", "b"])],
        [tensor("w", palette(64, 64))],
    )
    save(
        path,
        [node("Loop", "n,,x", "y,all", body=body)],
        [tensor("outer", pruned(64, 64))],
        inputs=[value("x", ["a", 64]), value("n", [], TensorProto.INT64)],
        outputs=[value("y", ["a", 64]), value("all", ["s", "a", 64])],
        opset=18,
    )


@kind({"x": normal(3, 64).astype(np.float16)}, "palettized4", "sparse")
def float16(path: Path) -> None:
    weights = {"a": palette(64, 64), "b": pruned(64, 64), "c": normal(64, 64)}
    save(
        path,
        [node("MatMul", "x,a", "h"), node("MatMul", "h,b", "g"), node("MatMul", "g,c", "y")],
        [tensor(key, values.astype(np.float16)) for key, values in weights.items()],
        inputs=[value("x", ["n", 64], TensorProto.FLOAT16)],
        outputs=[value("y", ["n", 64], TensorProto.FLOAT16)],
        opset=18,
    )


@kind({"x": normal(3, 64)}, "palettized4", "sparse")
def bfloat16_weights(path: Path) -> None:
    from compressor.arrays import BFLOAT16

    weights = {"a": palette(64, 64), "b": pruned(64, 64), "c": normal(64, 64)}
    casts = [node("Cast", key, f"{key}32", to=TensorProto.FLOAT) for key in weights]
    save(
        path,
        [*casts, node("MatMul", "x,a32", "h"), node("MatMul", "h,b32", "g"), node("MatMul", "g,c32", "y")],
        [tensor(key, values.astype(BFLOAT16)) for key, values in weights.items()],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
        opset=18,
    )


@kind({"x": normal(3, 64).astype(np.float64)}, "palettized4", "sparse(float32)")
def float64(path: Path) -> None:
    save(
        path,
        [node("MatMul", "x,a", "h"), node("MatMul", "h,b", "y")],
        [tensor("a", palette(64, 64).astype(np.float64)), tensor("b", pruned(64, 64).astype(np.float64))],
        inputs=[value("x", ["n", 64], TensorProto.DOUBLE)],
        outputs=[value("y", ["n", 64], TensorProto.DOUBLE)],
        opset=18,
    )


def perceptron(path: Path, opset: int) -> None:
    save(
        path,
        [
            node("Gemm", "x,a,bias", "h"),
            node("Relu", "h", "r"),
            node("MatMul", "r,b", "g"),
            node("Gemm", "g,c", "y", transB=1),
        ],
        [
            tensor("a", palette(64, 64)),
            tensor("bias", normal(64)),
            tensor("b", pruned(64, 64)),
            tensor("c", grid(64, 64)),
        ],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
        opset=opset,
    )


@kind({"x": normal(3, 64)}, "palettized4", "sparse", "int8", opset=13)
def opset_13(path: Path) -> None:
    perceptron(path, 13)


@kind({"x": normal(3, 64)}, "palettized4", "sparse", "int8", opset=21)
def opset_21(path: Path) -> None:
    perceptron(path, 21)


@kind({"x": normal(3, 64)}, "palettized4", "sparse", "int8", opset=25)
def opset_25(path: Path) -> None:
    perceptron(path, 25)


@kind({"x": normal(3, 64)}, "int8", "sparse(int8)")
def static_quantization_in_qdq(path: Path) -> None:
    quantized(path, "QDQ")


@kind({"x": normal(3, 64)}, "int8")
def static_quantization_in_integer_operators(path: Path) -> None:
    quantized(path, "QOperator")


def quantized(path: Path, form: str) -> None:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([{"x": normal(3, 64)} for _ in range(4)])

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    with quiet():
        perceptron(path.with_name("float.onnx"), 18)
        q.quantize_static(
            path.with_name("float.onnx"),
            path,
            Reader(),
            quant_format=q.QuantFormat[form],
            per_channel=form == "QDQ",
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )


@kind({"x": normal(3, 64)}, "int8")
def dynamic_quantization(path: Path) -> None:
    from onnxruntime import quantization as q

    with quiet():
        perceptron(path.with_name("float.onnx"), 18)
        q.quantize_dynamic(path.with_name("float.onnx"), path)


@kind({"x": normal(3, 64)}, "uint4", opset=21, off=0.02)
def mat_mul_n_bits(path: Path) -> None:
    """It becomes DequantizeLinear, which ONNX Runtime fuses into a kernel with 8-bit activations by default."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    ends = {"inputs": [value("x", ["n", 64])], "outputs": [value("y", ["n", 64])]}
    save(path.with_name("float.onnx"), [node("MatMul", "x,w", "y")], [tensor("w", normal(64, 64))], opset=21, **ends)
    with quiet():
        made = MatMulNBitsQuantizer(onnx.load(path.with_name("float.onnx")), bits=4, block_size=32)
        made.process()
        onnx.save(made.model.model, path)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the quantizers say: they recommend shape inference, and warn of it."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@kind({"x": normal(3, 64), "y": normal(3, 64)}, "palettized4", "sparse")
def several_inputs_and_outputs_and_optional_ones(path: Path) -> None:
    nodes = [
        node("MatMul", "x,a", "h"),
        node("MatMul", "y,b", "g"),
        node("Sum", "h,g", "s"),
        node("Clip", "s,,high", "c"),
        node("Dropout", "c", "d,"),
        node("Split", "d", "first,second", num_outputs=2, axis=1),
        node("MatMul", "h,a", "again"),
    ]
    save(
        path,
        nodes,
        [tensor("a", palette(64, 64)), tensor("b", pruned(64, 64)), tensor("high", np.array(2, np.float32))],
        inputs=[value("x", ["n", 64]), value("y", ["n", 64])],
        outputs=[value(name, ["n", "k"]) for name in ("second", "first", "again")],
        opset=18,
    )


@kind({"x": normal(3, 64)}, "palettized4")
def weights_that_are_outputs_or_inputs_of_the_graph(path: Path) -> None:
    save(
        path,
        [node("MatMul", "x,a", "h"), node("MatMul", "h,b", "g"), node("MatMul", "g,c", "y")],
        [tensor("a", palette(64, 64)), tensor("b", palette(64, 64)), tensor("c", palette(64, 64))],
        inputs=[value("x", ["n", 64]), value("c", [64, 64])],
        outputs=[value("y", ["n", 64]), value("b", [64, 64])],
        opset=18,
    )


@kind({"x": normal(3, 64)})
def no_weights(path: Path) -> None:
    save(path, [node("Relu", "x", "y")], inputs=[value("x", ["n", 64])], outputs=[value("y", ["n", 64])], opset=18)


@kind({"x": normal(3, 64)}, "dense")
def no_weight_worth_encoding(path: Path) -> None:
    save(
        path,
        [node("MatMul", "x,a", "h"), node("Add", "h,b", "y")],
        [tensor("a", normal(64, 64)), tensor("b", normal(64))],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
        opset=18,
    )


@kind({"x": normal(3, 64)}, "palettized3", opset=13)
def functions_in_a_model_whose_weights_need_a_later_opset(path: Path) -> None:
    opsets = [helper.make_opsetid("", 13)]
    inside = helper.make_node("Constant", [], ["w"], value=tensor("", palette(64, 64)))
    # From opset 18 on, the axes of ReduceMean are an input.
    body = [inside, node("MatMul", "a,w", "m"), node("ReduceMean", "m", "r", axes=[1])]
    functions = [helper.make_function("own", "Fixed", ["a"], ["r"], body, opsets)]
    graph = helper.make_graph(
        [node("MatMul", "x,w", "h"), node("Fixed", "h", "y", domain="own")],
        "calls",
        [value("x", ["n", 64])],
        [value("y", ["n", 1])],
        [tensor("w", palette(64, 64, entries=8))],
    )
    imports = [*opsets, helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8), path)


@kind({"x": normal(3, 64)}, "palettized4", "sparse")
def functions_of_the_model_itself(path: Path) -> None:
    """One takes a weight, the other has one inside."""
    opsets = [helper.make_opsetid("", 18)]
    inside = helper.make_node("Constant", [], ["w"], value=tensor("", palette(64, 64)))
    functions = [
        helper.make_function("own", "Linear", ["a", "w"], ["r"], [node("MatMul", "a,w", "r")], opsets),
        helper.make_function("own", "Fixed", ["a"], ["r"], [inside, node("MatMul", "a,w", "r")], opsets),
    ]
    nodes = [
        node("Linear", "x,one", "h", domain="own"),
        node("Fixed", "h", "g", domain="own"),
        node("Linear", "g,two", "y", domain="own"),
    ]
    graph = helper.make_graph(
        nodes,
        "calls",
        [value("x", ["n", 64])],
        [value("y", ["n", 64])],
        [tensor("one", palette(64, 64)), tensor("two", pruned(64, 64))],
    )
    imports = [*opsets, helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8), path)


@kind({"x": normal(3, 64)}, "palettized4", "sparse")
def names_that_parts_of_weights_would_have(path: Path) -> None:
    nodes = [
        node("MatMul", "x,w.lut", "w"),
        node("MatMul", "w,w.indices", "w.mask"),
        node("MatMul", "w.mask,a/b:0 ü", "y"),
    ]
    weights = {"w.lut": palette(64, 64), "w.indices": pruned(64, 64), "a/b:0 ü": palette(64, 64)}
    save(
        path,
        nodes,
        [tensor(key, values) for key, values in weights.items()],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
        opset=18,
    )


@pytest.fixture(scope="module", params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Path]:
    one = KINDS[request.param]
    path = tmp_path_factory.mktemp(request.param) / "source.onnx"
    one.build(path)
    return one, path


def run(path: Path, feeds: Feeds) -> dict[str, NDArray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimized(path))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def optimized(path: Path) -> Path:
    return path.with_name("optimized.onnx")


@pytest.mark.parametrize("target", [name for name in targets.names() if name.startswith("onnx")])
def test_a_model_computes_what_its_source_computes(source: tuple[Kind, Path], target: str, tmp_path: Path) -> None:
    one, path = source
    out = tmp_path / "out"
    made = compressor.compress(path, out, target=target)
    onnx.checker.check_model(out / "model.onnx")
    if target == "onnxruntime":
        assert {weight.encoding for weight in made.weights} >= set(one.forms)
    for feeds in one.feeds:
        expected, found = run(path, feeds), run(out / "model.onnx", feeds)
        assert list(found) == list(expected)
        for output, values in expected.items():
            assert (found[output].dtype, found[output].shape) == (values.dtype, values.shape)
            np.testing.assert_allclose(found[output], values, rtol=0, atol=one.off * np.abs(values).max())
        assert operators(optimized(out / "model.onnx")) == operators(optimized(path))
    stored = {weight.name: weight.encoding for weight in sources.read(out).weights}
    # Where a model's own functions had to be inlined, their constants have become weights too.
    assert {weight.name: name(stored[weight.name]) for weight in made.weights} == {
        weight.name: weight.encoding for weight in made.weights
    }
    for weight in sources.read(path).weights:
        np.testing.assert_array_equal(decode(stored[weight.name]), decode(weight.encoding))
