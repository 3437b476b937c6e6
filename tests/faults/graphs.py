"""Random graphs that are almost right: operators that decode weights and others, in odd structures.

Ranks, names, sizes, attributes, order, subgraphs and functions go wrong now and then; bytes stay a valid protobuf.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.sources.onnx.models import tensor, value

KINDS = (
    "FLOAT",
    "FLOAT16",
    "DOUBLE",
    "INT8",
    "UINT8",
    "INT32",
    "INT64",
    "BOOL",
    "INT4",
    "UINT2",
    "STRING",
    "FLOAT8E4M3FN",
)
SIZES = (0, 1, 2, 3, 16, 64, 64, 64)
HUGE = (-1, 1 << 31, 1 << 40, (1 << 63) - 1)
OPERATORS = {
    "": "Cast Cast Mul Mul Sub Add Div MatMul MatMul Gemm Conv Gather Gather DequantizeLinear DequantizeLinear "
    "Identity Transpose Reshape Expand Tile Range ConstantOfShape Pad Concat Slice Squeeze Unsqueeze Softmax "
    "LayerNormalization QuantizeLinear DynamicQuantizeLinear MatMulInteger LSTM GRU Resize Shape Where EyeLike "
    "NonZero OneHot Einsum Split ReduceSum Relu Neg SequenceAt Loop If Scan NoSuchOperator",
    "com.microsoft": "MatMulNBits QLinearAdd DequantizeLinear QAttention NoSuchOperator",
    "compressor": "lut_to_dense dequantize_float32 sparse_to_dense places places_by_gaps4 widen_uint8 reshaped "
    "unpack_uint4 counter",
    "ai.onnx.ml": "Normalizer",
}
ATTRIBUTES = (
    "axis to block_size N K bits perm keepdims mode value value_ints to allowzero equation shape mask_grid".split()
)


def write(path: Path, random: Random) -> None:
    """One graph."""
    functions = [_function(random, place) for place in range(random.choice((0, 0, 0, 1, 2, 4)))]
    graph = _graph(random, depth=0, outer=[], calls=len(functions))
    opsets = [helper.make_opsetid("", random.choice((1, 6, 7, 9, 11, 12, 13, 17, 18, 21, 21, 21, 25, 26, 28)))]
    opsets += [helper.make_opsetid(domain, 1) for domain in (*OPERATORS, "f") if domain and random.random() < 0.97]
    if random.random() < 0.05:
        opsets = opsets[random.randrange(2) :] + opsets[:1] * random.randrange(2)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=random.choice((3, 4, 8, 10, 13)))
    model.functions.extend(functions)
    path.write_bytes(model.SerializeToString())


def _graph(random: Random, depth: int, outer: list[str], calls: int) -> onnx.GraphProto:
    inputs = [_input(random, name) for name in ("x", "i", "c")[: random.randrange(4)]] if depth == 0 else []
    constants = [
        _constant(random, f"w{depth}{place}" if random.random() < 0.97 else "w0")
        for place in range(random.randrange(6))
    ]
    names = [*outer, *(one.name for one in (*inputs, *constants))] or ["x"]
    nodes: list[onnx.NodeProto] = []
    for _ in range(random.choice((1, 3, 8, 20))):
        nodes.append(_node(random, names, depth, calls))
        names.extend(nodes[-1].output)
    if random.random() < 0.2:
        random.shuffle(nodes)
    if nodes and random.random() < 0.15:  # reads what comes later: a cycle, often
        node = random.choice(nodes)
        if node.input:
            node.input[random.randrange(len(node.input))] = random.choice(names)
    if random.random() < 0.1:
        inputs.append(value(random.choice(names), [64]))
    outputs = [value(random.choice(names), ["n"]) for _ in range(random.choice((1, 1, 2)))]
    made = helper.make_graph(nodes, f"g{depth}", inputs, outputs, constants)
    if random.random() < 0.1:
        indices = tensor("", np.sort(np.array([random.randrange(100) for _ in range(3)])))
        sparse = helper.make_sparse_tensor(tensor("sparse", np.ones(3, np.float32)), indices, [1])
        del sparse.dims[:]
        sparse.dims.extend(_dims(random))
        made.sparse_initializer.append(sparse)
    return made


def _dims(random: Random) -> list[int]:
    dims = [random.choice(SIZES) for _ in range(random.choice((0, 1, 2, 2, 2, 3, 4)))]
    if random.random() < 0.05:
        dims.append(random.choice(HUGE))
    return dims if random.random() < 0.99 else [1] * 70


def _input(random: Random, name: str) -> onnx.ValueInfoProto:
    dims = [dim if random.random() < 0.8 else "n" for dim in _dims(random)]
    return value(name, dims, getattr(TensorProto, random.choice(KINDS[:8])))


def _constant(random: Random, name: str) -> onnx.TensorProto:
    kind = random.choice(("FLOAT", "FLOAT", "INT8", "UINT8", "INT64", random.choice(KINDS)))
    dims = _dims(random)
    count = int(np.prod([dim for dim in dims if 0 <= dim < 1 << 20], dtype=np.int64))
    if count > 1 << 20:
        dims, count = [64], 64
    width = {"DOUBLE": 8, "INT64": 8, "FLOAT": 4, "INT32": 4, "FLOAT16": 2}.get(kind, 1)
    levels = np.random.default_rng(random.randrange(4)).integers(0, random.choice((2, 16, 200)), count * width)
    data = levels.astype(np.uint8).tobytes() if kind != "FLOAT" else (levels[:count] * 0.5).astype(np.float32).tobytes()
    nbytes = -(-count * 4 // 8) if kind == "INT4" else -(-count * 2 // 8) if kind == "UINT2" else len(data)
    if random.random() < 0.03:
        nbytes = random.randrange(len(data) + 1)
    made = onnx.TensorProto(name=name, data_type=getattr(TensorProto, kind), dims=dims)
    if kind == "STRING":
        made.string_data.extend([b"s"] * count)
    else:
        made.raw_data = data[:nbytes]
    return made


def _node(random: Random, names: list[str], depth: int, calls: int) -> onnx.NodeProto:
    domain = random.choices(("", "com.microsoft", "compressor", "ai.onnx.ml"), (60, 5, 1, 2))[0]
    operator = random.choice(OPERATORS[domain].split())
    if calls and random.random() < 0.2:
        domain, operator = "f", f"f{random.randrange(calls)}"
    if random.random() < 0.15:
        domain, operator = "", "Constant"
    read = [random.choice(names[-6:] if random.random() < 0.6 else names) for _ in range(random.choice((1, 2, 2, 3)))]
    read = ["" if random.random() < 0.03 else "nowhere" if random.random() < 0.01 else name for name in read]
    made = onnx.NodeProto(op_type=operator, domain=domain, name=f"n{random.randrange(50)}")
    made.input.extend(read if operator != "Constant" else [])
    fresh = f"v{random.randrange(1 << 30)}" if random.random() < 0.99 else random.choice(names)
    made.output.extend([fresh] if random.random() < 0.95 else [fresh, f"{fresh}.2"] if random.random() < 0.8 else [])
    if operator == "Constant":
        made.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(_constant(random, ""))
    if operator == "Cast":
        made.attribute.append(helper.make_attribute("to", random.choice((1, 1, 1, 2, 3, 6, 7, 10, 11, 22, 99))))
    if operator in {"Loop", "If", "Scan"} and depth < 4:
        for name in {"If": ("then_branch", "else_branch")}.get(operator, ("body",)):
            made.attribute.append(helper.make_attribute(name, _graph(random, depth + 1, names, calls)))
    for name in random.sample(ATTRIBUTES, random.choice((0, 0, 1, 2))):
        made.attribute.append(helper.make_attribute(name, _attribute(random)))
    return made


def _attribute(random: Random) -> object:
    number = random.choice((*range(-3, 5), 16, 64, *HUGE))
    return random.choice((number, number, number, [number] * random.randrange(1, 4), 0.5, "i,j->ij"))


def _function(random: Random, place: int) -> onnx.FunctionProto:
    body, names = [], ["a"]
    for _ in range(random.choice((1, 2, 4))):
        body.append(_node(random, names, 3, place + (random.random() < 0.05)))
        names.extend(body[-1].output)
    opsets = [helper.make_opsetid("", random.choice((11, 13, 21, 21, 21))), helper.make_opsetid("f", 1)]
    made = helper.make_function("f", f"f{place}", ["a"], ["b"], body, opsets)
    del made.output[:]
    made.output.append(names[-1])
    return made
