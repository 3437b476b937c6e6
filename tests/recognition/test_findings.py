"""`detection.json`, and what is refused for one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.compilation.pipelines import get
from compressor.compilation.plan import choose
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.recognition.find import find
from compressor.recognition.findings import Detection, Settings
from compressor.weight import Weight
from tests.recognition.weights_made import (
    EVERY,
    Anything,
    blocked,
    grouped,
    normal,
    on_grid,
    quantized,
    weight,
)


def test_what_can_be_stored_smaller_is_smaller_than_the_source_stores_it() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    kinds = {
        "dense": Dense(normal((64, 64))),
        "a value would change": Dense(np.where(np.arange(4096).reshape(64, 64) == 7, 5e-4, normal((64, 64)))),
        "int8": quantized(codes, 0.01),
        "int8 of 16 values": quantized((codes // 16).astype(np.int8), 0.01),
        "pruned": Dense(np.where(codes % 4, np.float32(0), normal((64, 64)))),
    }
    findings = {name: find(Weight(name, source), EVERY) for name, source in kinds.items()}
    sizes = {"dense": 16384, "a value would change": 16384, "int8": 4100, "int8 of 16 values": 4100, "pruned": 16384}
    assert {name: finding.source_nbytes for name, finding in findings.items()} == sizes
    one_by_one = {name: Detection(EVERY, (finding,)).compressible for name, finding in findings.items()}
    assert [name for name, count in one_by_one.items() if count] == ["int8 of 16 values", "pruned"]
    assert Detection(EVERY, tuple(findings.values())).compressible == 2


@pytest.mark.parametrize(("zeros", "said"), [(1, "1 zero"), (2, "2 zeros"), (41, "1.0% zeros")])
def test_zeros_too_few_for_a_share_are_counted(zeros: int, said: str) -> None:
    values = np.where(np.arange(4096) < zeros, np.float32(0), normal((4096,))).reshape(64, 64)
    assert find(weight(values), EVERY).evidence.split("; ")[0].split(",")[0] == said


def detection() -> Detection:
    makes = [normal((64, 64)), grouped((64, 512), 0, 8, 16), on_grid(-3, 12, (64, 64), (64, 1), "float32")]
    makes.append(makes[1] * blocked((64, 512), (1, 4)))
    findings = [replace(find(weight(values), EVERY), name=f"w{place}") for place, values in enumerate(makes)]
    findings.append(
        find(Weight("codes", quantized(np.ones((64, 64), np.int8), 0.1, 3), uses=("Conv", "MatMul")), EVERY)
    )
    findings.append(find(Weight("bias ü", Dense(np.zeros(4, np.float16))), EVERY))
    return Detection(EVERY, tuple(findings))


@pytest.mark.parametrize("settings", [{"threshold": -1e-3}, {"tolerance": float("nan")}, {"min_elements": -1}])
def test_settings_below_zero_are_none(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 on"):
        Settings(**settings)


def test_a_detection_is_read_back_as_it_was_written() -> None:
    written = detection()
    text = written.to_json()
    assert Detection.from_json(text) == written
    assert Detection.from_json(text).to_json() == text
    assert "bias ü" in text


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", '{"findings": []}', '{"findings": [{}], "settings": [{}]}'),
        *(
            '{"findings": [], "settings": [{"unknown": 1}]}',
            '{"findings": [], "settings": []}',
            "[" * 100_000,
            "\ufeff{}",
        ),
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_what_is_no_detection_is_refused(text: str) -> None:
    with pytest.raises(CompressorError, match=r"not a detection: .*Write it again with `compressor detect`"):
        Detection.from_json(text)


GARBAGE: tuple[Any, ...] = (None, 1, -1, 1.5, "x", [], ["x"], {}, {"node": "Nothing"}, True)


def places(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@given(st.data())
def test_a_detection_with_garbage_inside_is_refused_or_whole(data: st.DataObject) -> None:
    document = json.loads(DETECTION_TEXT)
    *path, last = data.draw(st.sampled_from(PLACES))
    at = document
    for key in path:
        at = at[key]
    at[last] = data.draw(st.sampled_from(GARBAGE))
    try:
        read = Detection.from_json(json.dumps(document))
    except CompressorError:
        return
    for finding in read.findings:
        choose(finding, Anything(), get("auto"))


DETECTION_TEXT = detection().to_json()


PLACES = [place for place in places(json.loads(DETECTION_TEXT)) if place]
