"""The typed form of manifest.json."""

from __future__ import annotations

import json

import pytest

from compressor.compilation.manifest import FileFacts, Manifest, WeightFacts
from compressor.errors import CompressorError

MANIFEST = Manifest(
    target="onnxruntime",
    pipeline="auto",
    versions={"compressor": "0.1.0"},
    files=(FileFacts("model.onnx", 12, "00ff"),),
    nbytes=12,
    dense_nbytes=40,
    source_nbytes=44,
    weights_nbytes=10,
    weights_dense_nbytes=38,
    notes=("opened nowhere",),
    weights=(
        WeightFacts(
            "f1.weight",
            (4, 2, 3),
            "float32",
            "sparse(palettized4)",
            10,
            38,
            "16 values ü",
            False,
            3,
            (("sparse", "12 bytes"),),
        ),
        WeightFacts("bias", (), "float16", "dense", 2, 2),
    ),
)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    text = MANIFEST.to_json()
    assert Manifest.from_json(text) == MANIFEST
    assert Manifest.from_json(text).to_json() == text
    assert text.endswith("}\n")
    assert "ü" in text


def test_the_keys_are_those_that_users_read() -> None:
    plain = json.loads(MANIFEST.to_json())
    assert list(plain) == [
        "target", "pipeline", "versions", "files",
        "nbytes", "dense_nbytes", "source_nbytes", "weights_nbytes", "weights_dense_nbytes", "notes", "weights",
    ]  # fmt: skip
    assert list(plain["weights"][0]) == [
        "name", "shape", "dtype", "encoding", "nbytes", "dense_nbytes", "evidence", "exact", "changed",
        "rejected", "max_error",
    ]  # fmt: skip
    assert plain["weights"][0]["shape"] == [4, 2, 3]
    assert plain["weights"][0]["rejected"] == [["sparse", "12 bytes"]]
    assert [(weight["exact"], weight["changed"]) for weight in plain["weights"]] == [(False, 3), (None, 0)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": [], "weights": []}', '{"files": [{"x": 1}], "weights": []}']
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(CompressorError, match=r"not a manifest: .* Write the artefact again"):
        Manifest.from_json(text)


@pytest.mark.parametrize(("key", "wrong"), [("nbytes", -1), ("dense_nbytes", "8"), ("shape", [-4, 2, 3])])
def test_a_weight_of_an_impossible_size_is_refused(key: str, wrong: object) -> None:
    plain = json.loads(MANIFEST.to_json())
    plain["weights"][0][key] = wrong
    with pytest.raises(CompressorError, match=rf"not a manifest: .*WeightFacts\.{key}"):
        Manifest.from_json(json.dumps(plain))
