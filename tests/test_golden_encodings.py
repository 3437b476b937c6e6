"""Encodings as bytes that were committed once: they decode for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor import encodings
from compressor.arrays import CODE_DTYPES, FLOAT_DTYPES, STORED_DTYPES, NarrowArray, from_bytes, to_bytes
from compressor.encodings import Concatenated, Dense, Palettized, Quantized, Sparse, decode

BOOL = np.dtype(np.bool_)


GOLDEN = Path(__file__).parent / "golden" / "encodings.json"


def from_json(plain: Any) -> Any:
    if isinstance(plain, dict) and "node" in plain:
        nodes = {node.__name__: node for node in (Dense, Quantized, Palettized, Sparse, Concatenated)}
        fields = {key: from_json(value) for key, value in plain.items() if key not in ("node", "rounded")}
        rounded = {"rounded": FLOAT_DTYPES[plain["rounded"]]} if "rounded" in plain else {}
        return nodes[plain["node"]](**fields, **rounded)
    if isinstance(plain, dict) and "stored" in plain:
        values = from_json({**{key: plain[key] for key in plain if key != "stored"}, "dtype": plain["stored"]})
        return NarrowArray(values, FLOAT_DTYPES[plain["dtype"]])
    if isinstance(plain, dict):
        dtype = {**FLOAT_DTYPES, **STORED_DTYPES, **CODE_DTYPES, "bool": BOOL}[plain["dtype"]]
        raw = np.frombuffer(bytes.fromhex(plain["bytes"]), np.uint8)
        return from_bytes(raw, tuple(plain["shape"]), dtype, plain["width"])
    return tuple(from_json(item) for item in plain) if isinstance(plain, list) else plain


GOLDEN_CASES = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("case", GOLDEN_CASES, ids=[case["name"] for case in GOLDEN_CASES])
def test_golden_bytes_decode_for_ever(case: dict[str, Any]) -> None:
    encoding = from_json(case["encoding"])
    assert f"{case['name']}, ".startswith(f"{encodings.name(encoding)}, ")
    decoded = decode(encoding)
    assert (decoded.dtype.name, list(decoded.shape)) == (case["dtype"], case["shape"])
    assert to_bytes(decoded).tobytes().hex() == case["value"]


def test_the_golden_file_has_every_node_and_nesting() -> None:
    names = {case["name"].split(",")[0].translate(str.maketrans("", "", "0123456789")) for case in GOLDEN_CASES}
    assert names == {
        "dense", "int", "uint", "palettized", "sparse",
        "int(palettized)", "sparse(palettized)", "sparse(int)", "sparse(uint)", "sparse(int(palettized))",
        "scaled(palettized)", "scaled(float_emfn)", "concatenated(sparse",
    }  # fmt: skip
