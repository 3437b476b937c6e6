"""Layers that are not supported, and tensors and settings that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor import sources
from compressor.arrays import NDArray
from compressor.encodings import decode
from compressor.errors import CompressorError
from tests.sources.huggingface.folders import (
    RANDOM,
    Layer,
    awq,
    gptq,
    masked,
    quantized,
    read,
    scaled,
    scheme,
    words,
)

CODES = RANDOM.integers(-8, 8, (6, 40)).astype(np.int8)

UNSUPPORTED: dict[str, tuple[dict[str, NDArray], dict[str, Any], str]] = {
    "marlin": (gptq(4, 32)[0], {**gptq(4, 32)[1], "checkpoint_format": "marlin"}, "the format marlin of GPTQ"),
    "gemv": (awq()[0], {**awq()[1], "version": "gemv"}, "AWQ's layout gemv of 4 bits (known: gemm of 4)"),
    "3 bits": (awq()[0], {**awq()[1], "bits": 3}, "AWQ's layout gemm of 3 bits"),
    "nvfp4": (
        {
            "l.weight_packed": np.zeros((4, 8), np.uint8),
            "l.weight_scale": scaled(4, 1),
            "l.weight_global_scale": scaled(1),
        },
        scheme(type="float", num_bits=4, strategy="tensor_group", group_size=16),
        "packed weights of this layout (weight_packed uint8",
    ),
    "bits that nobody says": (
        {
            "l.weight_packed": np.zeros((4, 2), np.int32),
            "l.weight_scale": scaled(1),
            "l.weight_shape": np.array([4, 10]),
        },
        {"quant_method": "compressed-tensors", "config_groups": {"W5A16": ["Linear"]}},
        "packed weights of this layout (weight_packed int32",
    ),
    "masked integers": (
        masked(CODES.astype(np.int64)),
        {"quant_method": "compressed-tensors"},
        "bit masks over this type (bitmask uint8, compressed int64)",
    ),
    "parts": ({"l.qweight": np.zeros((4, 8), np.int32)}, gptq(4, 32)[1], "a GPTQ layer without qweight, qzeros and"),
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_layouts_that_are_not_supported_are_kept_as_bytes_with_the_reason(tmp_path: Path, key: str) -> None:
    tensors, said, reason = UNSUPPORTED[key]
    model = sources.read(quantized(tmp_path, tensors, said))
    pinned = {weight.name: weight for weight in model.weights if weight.pinned}
    assert all(weight.pinned.startswith(reason) for weight in pinned.values())
    assert all(weight.pinned.endswith("not supported, kept as its bytes") for weight in pinned.values())
    for each, weight in pinned.items():
        assert decode(weight.encoding).tobytes() == tensors[each].tobytes()
    assert any(each.endswith(("qweight", "weight_packed", "compressed")) for each in pinned)
    assert compressor.dry_run(tmp_path).nbytes == compressor.inspect(tmp_path).weights_nbytes


def changed(made: Layer, key: str, value: Any) -> tuple[Any, Any]:
    tensors, said, _ = made
    return ({**tensors, key: value}, said) if key in tensors else (tensors, {**said, key: value})


PACKED = {
    "l.weight_packed": words(CODES[:, :32] + 8, 4),
    "l.weight_scale": scaled(1),
    "l.weight_shape": np.array([6, 32]),
}
MASKED = masked((CODES % 2 * CODES).astype(np.float32))
OF_4 = scheme(num_bits=4, strategy="tensor")
CONTRADICTIONS: dict[str, tuple[Any, str]] = {
    "bits": (changed(gptq(4, 32), "bits", 8), r"m\.l\.qzeros is \[3, 4\] for 32 outputs: expected 8 words of 8 bits"),
    "odd bits": (changed(gptq(4, 32), "bits", "four"), "expected . words of four bits"),
    "group": (changed(gptq(4, 32), "group_size", 16), r"m\.l\.scales has 3 groups for 96 inputs: .*group_size says 16"),
    "group of text": (changed(gptq(4, 32), "group_size", "x"), "group_size says x"),
    "zeros": (changed(gptq(4, 32), "m.l.qzeros", np.zeros((2, 4), np.int32)), r"expected int32\[3, 4\]"),
    "floats": (
        changed(gptq(4, 32), "m.l.qweight", np.zeros((12, 32), np.float32)),
        r"qweight is float32\[12, 32\], exp",
    ),
    "no matrix": (changed(gptq(4, 32), "m.l.qweight", np.zeros(12, np.int32)), "expected two matrices"),
    "g_idx": (changed(gptq(4, 32), "m.l.g_idx", np.full(96, 3, np.int32)), r"m\.l\.g_idx is int32\[96\], .*0 to 2"),
    "negative": (changed(gptq(4, 32), "m.l.g_idx", np.full(96, -1, np.int32)), r"expected the numbers 0 to 2"),
    "length": (changed(gptq(4, 32), "m.l.g_idx", np.zeros(9, np.int32)), r"for each of 96 inputs"),
    "awq group": (changed(awq(), "group_size", 64), r"l\.scales has 2 groups for 64 inputs: .*group_size says 64"),
    "awq scales": (
        changed(awq(), "l.scales", np.ones((2, 8), np.float16)),
        r"l\.scales is float16\[2, 8\], expected float",
    ),
    "awq zeros": (changed(awq(), "l.qzeros", np.zeros((2, 3), np.int32)), r"l\.qzeros is int32\[2, 3\]"),
    "words": (({**PACKED, "l.weight_shape": np.array([6, 99])}, OF_4), r"l\.weight \[6, 99\].* rows of 4 words"),
    "rows": (
        ({**PACKED, "l.weight_shape": np.array([7, 32])}, OF_4),
        r"weight_shape is \[7, 32\], weight_packed has 6",
    ),
    "shape": (
        ({**PACKED, "l.weight_shape": np.array([-6, 32])}, OF_4),
        r"l\.weight_shape is int64\[2\], expected a sh",
    ),
    "bits of words": ((PACKED, scheme(strategy="tensor")), r"rows of 4 words: .*says 8 bits per tensor"),
    "packed zeros": (
        ({**PACKED, "l.weight_zero_point": np.zeros((9, 1), np.int32)}, OF_4),
        r"l\.weight_zero_point is int32\[9, 1\], expected int32\[1, 1\]",
    ),
    "groups": (
        (
            {"l.weight": np.zeros((2, 99), np.int8), "l.weight_scale": scaled(2, 3)},
            scheme(strategy="group", group_size=32),
        ),
        r"l\.weight \[2, 99\] with scales float16\[2, 3\]: .*8 bits per group of 32",
    ),
    "scale": (
        ({"l.weight": CODES, "l.weight_scale": scaled(6, 7)}, {"quant_method": "compressed-tensors"}),
        r"a scale \[6, 7\]",
    ),
    "zero": (
        ({"l.weight": CODES, "l.weight_scale": scaled(6, 1), "l.weight_zero_point": np.zeros(3, np.int8)}, scheme()),
        r"says 8 bits per tensor",
    ),
    "strategy": (
        ({"l.weight": CODES, "l.weight_scale": scaled(1)}, scheme(strategy="row")),
        "a strategy \\(tensor, ch",
    ),
    "targets": (
        ({}, {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {}}}}),
        "expected targets",
    ),
    "mask": (
        ({**MASKED, "l.shape": np.array([6, 41])}, scheme()),
        r"bitmask is uint8\[6, 5\] with .* expected uint8\[6, 6\]",
    ),
    "no values": (({"l.bitmask": MASKED["l.bitmask"]}, scheme()), r"l\.bitmask without compressed, shape"),
    "twice": (({**PACKED, "l.weight": scaled(6, 32)}, OF_4), r"l\.weight is stored as codes and as values"),
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_tensors_that_contradict_each_other_or_the_settings_are_refused(tmp_path: Path, key: str) -> None:
    (tensors, said), message = CONTRADICTIONS[key]
    with pytest.raises(CompressorError, match=message):
        sources.read(quantized(tmp_path, tensors, said))


def test_a_mask_of_other_values_is_refused_when_it_is_read(tmp_path: Path) -> None:
    tensors = {**MASKED, "l.compressed": MASKED["l.compressed"][1:]}
    weight = read(tmp_path, tensors, {"quant_method": "compressed-tensors"})
    count = MASKED["l.compressed"].size
    with pytest.raises(CompressorError, match=rf"l\.bitmask has {count} set bits for {count - 1} values"):
        decode(weight.encoding)
    with pytest.raises(CompressorError, match="set bits for"):
        compressor.detect(tmp_path, compressor.Settings(min_elements=0))


def test_every_damage_to_tensors_and_settings_is_an_error_or_none(tmp_path: Path) -> None:
    """Shapes, dtypes and settings at random: no exception but the package's own."""
    random = np.random.default_rng(3)
    made = [
        gptq(4, 32)[:2],
        awq()[:2],
        (PACKED, OF_4),
        (MASKED, scheme()),
        ({"l.weight": CODES, "l.weight_scale": scaled(6, 5)}, scheme(strategy="group", group_size=8)),
    ]
    junk: list[Any] = [None, -1, 0, 3, 1 << 40, "x", [], {}, [1], {"a": 1}, True, 0.5]
    refusals = 0
    for number in range(300):
        tensors, said = dict(made[number % 5][0]), json.loads(json.dumps(made[number % 5][1]))
        key = sorted(tensors)[random.integers(len(tensors))]
        action = random.integers(4)
        if action == 0:
            del tensors[key]
        elif action == 1:
            tensors[key] = np.zeros(random.integers(0, 9, random.integers(0, 4)), tensors[key].dtype)
        elif action == 2:
            tensors[key] = tensors[key].astype(random.choice(["int8", "int32", "float32", "uint8", "int64"]))
        else:
            inner = said
            while isinstance(inner, dict) and inner and random.random() < 0.7:
                holder, place = inner, sorted(inner)[random.integers(len(inner))]
                inner = holder[place]
            if inner is not said:
                holder[place] = junk[random.integers(len(junk))]
        try:
            for weight in sources.read(quantized(tmp_path, tensors, said)).weights:
                decode(weight.encoding)
        except CompressorError:
            refusals += 1
    assert refusals > 100
