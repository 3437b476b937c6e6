"""GPTQ's and AWQ's packed layers: codes, scales and zero points come out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor import sources
from compressor.arrays import UINT2, UINT4, UINT8, DType, NDArray
from compressor.encodings import Dense, Quantized, decode, dtype, name
from tests.sources.huggingface.folders import (
    RANDOM,
    awq,
    gptq,
    quantized,
    read,
)


@pytest.mark.parametrize("size", [-1, 32])
@pytest.mark.parametrize(("width", "code"), [(2, UINT2), (3, UINT4), (4, UINT4), (8, UINT8)])
def test_gptq_keeps_its_codes(tmp_path: Path, width: int, code: DType, size: int) -> None:
    tensors, said, expected = gptq(width, size)
    weight = read(tmp_path, tensors, said)
    assert weight.name == "m.l.weight"
    assert isinstance(weight.encoding, Quantized)
    assert dtype(weight.encoding.data) == code
    assert name(weight.as_stored) == ("uint4(palettized3)" if width == 3 else code.name)
    assert weight.encoding.scale.shape == (32, 1 if size == -1 else 3)
    assert np.array_equal(decode(weight.encoding), expected)
    assert decode(weight.encoding).dtype == np.float16


@pytest.mark.parametrize("named", [True, False])
def test_gptq_in_groups_that_are_cut_off(tmp_path: Path, named: bool) -> None:  # noqa: FBT001 - a row
    tensors, said, expected = gptq(4, 64, columns=96)
    if not named:
        del tensors["m.l.g_idx"]
    weight = read(tmp_path, tensors, said)
    assert isinstance(weight.encoding, Quantized)
    assert weight.encoding.block == (1, 64)
    assert weight.note == ""
    assert np.array_equal(decode(weight.encoding), expected)


def test_gptq_by_hand(tmp_path: Path) -> None:
    """One output, eight inputs: the codes 0 to 7, the stored zero 2 is 3, the scale 0.5."""
    tensors: dict[str, NDArray] = {
        "l.qweight": np.array([[0x76543210]], np.int32),
        "l.qzeros": np.array([[2]], np.int32),
        "l.scales": np.array([[0.5]], np.float16),
    }
    weight = read(tmp_path, tensors, {"quant_method": "gptq", "bits": 4, "group_size": -1})
    assert decode(weight.encoding).tolist() == [[-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]]


def test_the_second_format_of_gptq_stores_the_zero_itself(tmp_path: Path) -> None:
    tensors, said, expected = gptq(4, 32, offset=0)
    weight = read(tmp_path, tensors, {**said, "checkpoint_format": "gptq_v2"})
    assert np.array_equal(decode(weight.encoding), expected)


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_a_stored_zero_of_all_ones_wraps_around(tmp_path: Path, width: int) -> None:
    tensors, said, _ = gptq(width, -1)
    tensors["m.l.qzeros"] = np.full((1, width), -1, np.int32)
    encoding = read(tmp_path, tensors, said).encoding
    assert isinstance(encoding, Quantized)
    assert not np.asarray(encoding.zero_point).astype(np.int16).any()


def test_groups_in_the_order_of_activations_become_values_with_the_reason(tmp_path: Path) -> None:
    tensors, said, expected = gptq(4, 32, order=RANDOM.permutation(96) // 32)
    weight = read(tmp_path, tensors, said)
    assert isinstance(weight.encoding, Dense)
    assert "in the order of the activations (g_idx), no blocks: not supported as codes" in weight.note
    assert np.array_equal(decode(weight.encoding), expected)
    (found,) = compressor.detect(tmp_path).findings
    assert found.note == weight.note
    tensors, said, expected = gptq(4, -1, order=np.zeros(96, np.int64))
    assert name(read(tmp_path, tensors, said).encoding) == "uint4"


def test_layers_of_gptq_may_have_settings_of_their_own(tmp_path: Path) -> None:
    tensors, said, expected = gptq(8, 32)
    weight = read(tmp_path, tensors, {**said, "bits": 4, "group_size": 16, "dynamic": {"+:m": {"bits": 8}}})
    assert np.array_equal(decode(weight.encoding), expected)


def test_awq_keeps_its_codes(tmp_path: Path) -> None:
    tensors, said, expected = awq()
    weight, bias = sources.read(quantized(tmp_path, tensors, said)).weights
    assert isinstance(weight.encoding, Quantized)
    assert dtype(weight.encoding.data) == UINT4
    assert weight.encoding.scale.shape == (16, 2)
    assert np.array_equal(decode(weight.encoding), expected)
    assert bias.name == "l.bias"


def test_awq_by_hand(tmp_path: Path) -> None:
    """One input, eight outputs: from the lowest bits on stand the outputs 0, 2, 4, 6, 1, 3, 5, 7."""
    tensors: dict[str, NDArray] = {
        "l.qweight": np.array([[0x75316420]], np.int32),
        "l.qzeros": np.array([[0]], np.int32),
        "l.scales": np.ones((1, 8), np.float16),
    }
    weight = read(tmp_path, tensors, {"quant_method": "awq", "bits": 4, "group_size": -1, "version": "gemm"})
    assert decode(weight.encoding).T.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_what_is_read_later_is_small_and_may_go_to_another_process(tmp_path: Path) -> None:
    tensors, said, expected = gptq(4, 32, 4096, 64)
    weight = read(tmp_path, tensors, said)
    sent = pickle.dumps(weight.encoding)
    assert len(sent) < 4096
    assert np.array_equal(decode(pickle.loads(sent)), expected)  # noqa: S301 - its own


def test_settings_beside_the_configuration_are_found(tmp_path: Path) -> None:
    tensors, said, expected = gptq(4, 32)
    quantized(tmp_path, tensors, {})
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": said["bits"], "group_size": 32}))
    (weight,) = sources.read(tmp_path).weights
    assert np.array_equal(decode(weight.encoding), expected)
    assert tmp_path / "quantize_config.json" in sources.read(tmp_path).files


def test_detection_sees_codes(tmp_path: Path) -> None:
    tensors, said, _ = gptq(4, 32, 128, 64)
    found = compressor.detect(quantized(tmp_path, tensors, said)).findings[0]
    assert (found.name, found.shape, found.dtype) == ("m.l.weight", (64, 128), "float16")
    assert found.candidates[0].evidence == "stored as uint4 by the source"
    assert compressor.dry_run(tmp_path).nbytes == 64 * 128 // 2 + 64 * 4 * 2 + 64 * 4 // 2
