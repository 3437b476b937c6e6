"""Adds the artefacts of today's version that are missing from `artefacts/`: `python -m tests.golden.add_artefacts`.

An artefact that is there is never written again, whatever today's version would write: people have such files. To
record a new way of storing an encoding, give it a new name here, then add what the command writes to the commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compressor import targets
from compressor.arrays import CODE_DTYPES, STORED_DTYPES, NarrowArray
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse, decode
from compressor.formats.onnx.writing import MODEL
from compressor.gaps import GAPS, of_mask
from compressor.model import Model
from compressor.weight import Weight
from tests.conformance import BF16, F16, F32, codes, floats, model, palette, quantized

FOLDER = Path(__file__).parent / "artefacts"
OPSETS = (18, 21, 25)
SHAPE = (12, 16)
INNER = (32, 16)
"""The shape of a weight that is multiplied by: two of the smallest blocks of `MatMulNBits`."""


def forms() -> Mapping[str, Encoding]:
    """A form of each name, and the granularities that are stored in another way."""
    rng = np.random.default_rng(2024)
    mask = rng.random(SHAPE) < 0.3
    block_mask = rng.random((3, 16)) < 0.5
    count, block_count = (int(mask.sum()),), (4 * int(block_mask.sum()),)
    found: dict[str, Encoding] = {
        "dense": Dense(floats(rng, SHAPE, F32)),
        "dense-float16": Dense(floats(rng, SHAPE, F16)),
        "dense-bfloat16": Dense(floats(rng, SHAPE, BF16)),
        "palettized4-by-group": palette(rng, SHAPE, F32, 16, (3, 1)),
        "palettized4-vectors": palette(rng, SHAPE, F32, 16, None, 1),
        "sparse": Sparse(mask, Dense(floats(rng, count, F32)), SHAPE),
        "sparse-blocks": Sparse(block_mask, Dense(floats(rng, block_count, F32)), SHAPE),
        "int8-by-channel": quantized(rng, Dense(codes(rng, SHAPE, CODE_DTYPES["int8"])), F32, (12, 1), zero_point=True),
        "uint4-by-block": quantized(rng, Dense(codes(rng, SHAPE, CODE_DTYPES["uint4"])), F32, (12, 2), zero_point=True),
    }
    for bits in (1, 2, 3, 4, 5, 6, 7, 8):
        found[f"palettized{bits}"] = palette(rng, SHAPE, F32, 1 << bits)
        table = floats(rng, (1, 1, 1 << bits, 1), F32)
        indices = rng.integers(0, 1 << bits, count).astype(np.uint8)
        found[f"sparse-palettized{bits}"] = Sparse(mask, Palettized(indices, table), SHAPE)
    for name, of in CODE_DTYPES.items():
        found[name] = quantized(rng, Dense(codes(rng, SHAPE, of)), F32, (1, 1), zero_point=False)
        inner = quantized(rng, Dense(codes(rng, count, of)), F32, (1, 1), zero_point=False)
        found[f"sparse-{name}"] = Sparse(mask, inner, SHAPE)
    found["int8-palettized4"] = quantized(
        rng, palette(rng, SHAPE, CODE_DTYPES["int8"], 16), F32, (12, 1), zero_point=False
    )
    places = np.array([3, 40, 41, 150], np.int32)
    found["sparse-by-places"] = Sparse(places, Dense(floats(rng, (4,), F32)), SHAPE)
    apart = np.zeros((12, 48), np.bool_)
    apart.reshape(-1)[[0, 1, 16, 17, 40, 85, 400, 575]] = True
    for dtype in GAPS:
        codes_of_gaps, values = of_mask(apart, dtype), Dense(floats(np.random.default_rng(7), (8,), F32))
        found[f"sparse-by-gaps-{dtype.name}"] = Sparse(codes_of_gaps, values, (12, 48))
    for bits in (3, 5, 6, 7):  # looked up in tables before
        found[f"palettized{bits}-by-shifts"] = found[f"palettized{bits}"]
        found[f"sparse-palettized{bits}-by-shifts"] = found[f"sparse-palettized{bits}"]
    for bits in (4, 8):  # looked up along an axis of the weight before
        found[f"palettized{bits}-by-row"] = found[f"palettized{bits}"]
    found["palettized4-by-group-by-row"] = found["palettized4-by-group"]
    for name, of in (("float16", F16), ("bfloat16", BF16)):
        found[f"{name}-by-cast"] = Dense(NarrowArray(floats(rng, SHAPE, of), F32))
        found[f"sparse-{name}-by-cast"] = Sparse(mask, Dense(NarrowArray(floats(rng, count, of), F32)), SHAPE)
    for name in ("sparse", "sparse-blocks"):  # each mask had a table of the bits of its own before
        found[f"{name}-by-bits"] = found[name]
    # A table for all was repeated as tables of groups are before.
    found["palettized2-by-axis"] = palette(rng, (12, 80), F32, 4)
    return found | of_floats(np.random.default_rng(2026))


def of_floats(rng: np.random.Generator) -> Mapping[str, Encoding]:
    """Scales over floats, short last blocks, scales in a table, and parts of several kinds."""
    by_row, by_block = np.abs(floats(rng, (12, 1), F32)), np.abs(floats(rng, (12, 4), F32))
    e4m3, e8m0 = STORED_DTYPES["float8_e4m3fn"], STORED_DTYPES["float8_e8m0fnu"]
    exponents = NarrowArray(np.exp2(rng.integers(-3, 3, (12, 4))).astype(e8m0), F32)
    in_8_bits = Dense(NarrowArray(floats(rng, SHAPE, F32).astype(e4m3), F32))
    int4 = Dense(codes(rng, SHAPE, CODE_DTYPES["int4"]))
    mask = rng.random(SHAPE) < 0.3
    sparse = Sparse(mask, Dense(floats(rng, (int(mask.sum()),), F32)), SHAPE)
    table = palette(rng, SHAPE, F32, 16)
    return {
        "scaled-palettized4": Quantized(table, by_row),
        "scaled-palettized4-by-block": Quantized(table, by_block),
        "scaled-palettized4-by-table": Quantized(table, palette(rng, (12, 4), F32, 3)),
        "scaled-float8_e4m3fn": Quantized(in_8_bits, by_row),
        "scaled-float8_e4m3fn-by-powers-of-two": Quantized(in_8_bits, exponents),
        "int4-by-short-block": Quantized(int4, np.abs(floats(rng, (12, 3), F32)), None, (1, 6)),
        "scaled-palettized4-by-float32-rounded-to-bfloat16": Quantized(
            palette(rng, SHAPE, F32, 16), by_block, rounded=BF16
        ),
        "scaled-palettized4-by-float32-rounded-to-float16": Quantized(
            palette(rng, SHAPE, F32, 16), NarrowArray(by_row.astype(BF16), F32), rounded=F16
        ),
        "sparse-scaled-palettized4-by-float32-rounded-to-bfloat16": Sparse(
            mask,
            Quantized(palette(rng, (int(mask.sum()),), F32, 16, (1, 1)), by_row, rounded=BF16),
            SHAPE,
        ),
        "concatenated-sparse-palettized4-int4": Concatenated((sparse, table, Quantized(int4, by_row)), 0),
    }


def products(opset: int) -> Mapping[str, Model]:
    """Models whose source multiplies by the codes of the weight `w`: by integers, as they are stored, or in a node."""
    rng = np.random.default_rng(2025)
    mask = rng.random(INNER) < 0.3
    found: dict[str, Model] = {}
    for name, of in CODE_DTYPES.items():
        unsigned = name.startswith("u")
        by_column = quantized(rng, Dense(codes(rng, INNER, of)), F32, (1, INNER[1]), zero_point=unsigned)
        found[f"{name}-by-kernels"] = product(by_column, opset, quantizes=True)
        found[f"{name}-by-stored-codes"] = product(by_column, opset)
        in_blocks = quantized(rng, Dense(codes(rng, INNER, of)), F32, (2, INNER[1]), zero_point=unsigned)
        found[f"{name}-by-stored-blocks"] = product(in_blocks, opset)
        found[f"{name}-by-n-bits"] = product(in_blocks, opset, n_bits=0)
        values = quantized(rng, Dense(codes(rng, (int(mask.sum()),), of)), F32, (1, INNER[1]), zero_point=unsigned)
        found[f"sparse-{name}-by-kernels"] = product(Sparse(mask, values, INNER), opset, quantizes=True)
    return found


def product(encoding: Encoding, opset: int, n_bits: int | None = None, *, quantizes: bool = False) -> Model:
    """`y = x @ w`, after `x` is brought to steps of a half, if asked. n_bits: see `Weight`."""
    nodes = [helper.make_node("MatMul", ["xd" if quantizes else "x", "w"], ["y"])]
    stubs = [onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=INNER)]
    if quantizes:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]))
        nodes.insert(1, helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]))
        stubs += [numpy_helper.from_array(np.float32(0.5), "xs"), numpy_helper.from_array(np.uint8(128), "xz")]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", dim])]
        for name, dim in (("x", INNER[0]), ("y", INNER[1]))
    )
    graph = helper.make_graph(nodes, "product", inputs, outputs, stubs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    weight = Weight("w", encoding, ("MatMul",), linear=n_bits is None, n_bits=n_bits)
    return Model(Path("product.onnx"), [weight], proto)


def models(opset: int) -> Mapping[str, Model]:
    """What is written, by name: each has one weight, `w`."""
    return {name: model([("w", form)], opset) for name, form in forms().items()} | products(opset)


def add() -> None:
    """Write what is missing: `NAME.opsetN.onnx`, and the bits of its weight `NAME.npy` as unsigned integers.

    An opset that stores a form as an older one does adds nothing.
    """
    FOLDER.mkdir(exist_ok=True)
    by_opset = {opset: models(opset) for opset in OPSETS}
    for name, first in by_opset[OPSETS[0]].items():
        values = decode(first.weights[0].encoding)
        expected = FOLDER / f"{name}.npy"
        if expected.exists():
            continue
        np.save(expected, values.view(f"u{values.dtype.itemsize}"))
        before: list[bytes] = []
        for opset in OPSETS:
            content = artefact(by_opset[opset][name], opset)
            if (graph := _graph(content)) in before:
                continue
            before.append(graph)
            file = FOLDER / f"{name}.opset{opset}.onnx"
            file.write_bytes(content)
            print(f"{file.name}: {len(content)} bytes")


def artefact(made: Model, opset: int) -> bytes:
    with TemporaryDirectory() as directory:
        targets.write(targets.get(f"onnx-opset{opset}"), made, Path(directory))
        return (Path(directory) / MODEL).read_bytes()


def _graph(content: bytes) -> bytes:
    return bytes(onnx.load_from_string(content).graph.SerializeToString(deterministic=True))


if __name__ == "__main__":
    add()
