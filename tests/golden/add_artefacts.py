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

from compressor import targets
from compressor.arrays import CODE_DTYPES
from compressor.encodings import Dense, Encoding, Palettized, Sparse, decode, spec
from compressor.formats.onnx.writing import MODEL
from tests.conformance import BF16, F16, F32, codes, floats, model, palette, quantized

FOLDER = Path(__file__).parent / "artefacts"
OPSETS = (18, 21, 25)
SHAPE = (12, 16)


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
    return found


def add() -> None:
    """Write what is missing: `NAME.opsetN.onnx`, and the bits of its weight `NAME.npy` as unsigned integers.

    An opset that stores a form as an older one does adds nothing.
    """
    FOLDER.mkdir(exist_ok=True)
    for name, form in forms().items():
        values = decode(form)
        expected = FOLDER / f"{name}.npy"
        if expected.exists():
            continue
        np.save(expected, values.view(f"u{values.dtype.itemsize}"))
        before: list[bytes] = []
        for opset in OPSETS:
            content = artefact(form, opset)
            if (graph := _graph(content)) in before:
                continue
            before.append(graph)
            file = FOLDER / f"{name}.opset{opset}.onnx"
            file.write_bytes(content)
            print(f"{file.name}: {len(content)} bytes")


def artefact(form: Encoding, opset: int) -> bytes:
    made = model([("w", form)], opset)
    with TemporaryDirectory() as directory:
        targets.get(f"onnx-opset{opset}").write(made, {"w": spec(form)}, made.weights, Path(directory))
        return (Path(directory) / MODEL).read_bytes()


def _graph(content: bytes) -> bytes:
    return bytes(onnx.load_from_string(content).graph.SerializeToString(deterministic=True))


if __name__ == "__main__":
    add()
