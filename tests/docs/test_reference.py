"""The pages that are written from code: they are those of the code, complete, and real files are as they say."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import compressor
from compressor.evaluation import metrics
from compressor.evaluation.latency import Latency, Timed
from compressor.evaluation.metrics import Quality, Size, summary
from compressor.stages import latency
from compressor.stages.app import COMMANDS
from compressor.stages.reference import PAGES, api, files
from compressor.stages.reference.docstrings import parse

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_that_of_the_code(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run `make reference`"


def test_every_public_name_has_its_place() -> None:
    text = PAGES["api.md"]()
    headings, constants = text.split("## Constants\n")
    found = [
        *re.findall(r"^### (\w+)$", headings, re.MULTILINE),
        *re.findall(r"^\| `(\w+)` \|", constants, re.MULTILINE),
    ]
    assert len(found) == len(set(found))
    assert set(compressor.__all__) <= set(found)


@pytest.mark.parametrize("function", api.functions(), ids=lambda one: one.__name__)
def test_every_function_says_what_it_takes_and_raises(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    said = parse(function, parameters)
    assert list(said.names) == list(parameters)
    assert set(said.raised) <= {"CompressorError", "UsageError"} != set()
    assert said.text


@pytest.mark.parametrize("kind", [*api.values(), *api.consist_of(api.values())], ids=lambda kind: kind.__name__)
def test_every_field_is_told(kind: type) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert sorted(parse(kind, names).names) == sorted(names)


def test_every_command_is_there() -> None:
    headings = re.findall(r"^## (\S+)$", PAGES["commands.md"](), re.MULTILINE)
    assert headings == ["compressor", *COMMANDS]
    assert {"export", "detect", "compress", "evaluate", "check", "inspect"} <= set(headings)


KINDS = {
    "text": str,
    "whole number": int,
    "number": (int, float),
    "`true` or `false`": bool,
    "`null`": type(None),
    "object": dict,
    "spec": dict,
}


def places(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a document in dots and what stands there, but for what is inside specs and versions."""
    for key, inner in value.items():
        yield prefix + key, inner
        for one in inner if isinstance(inner, list) else ():
            if isinstance(one, dict):
                yield from places(one, f"{prefix}{key}[].")


def is_of(kind: str, value: Any) -> bool:
    if kind.startswith("list of"):
        return isinstance(value, list)
    return any(isinstance(value, KINDS[one]) for one in kind.replace(" or `null`", "|`null`").split("|"))


def document(rows: Iterator[tuple[str, str, str]]) -> Mapping[str, str]:
    return {key.strip("`"): kind for key, kind, _ in rows}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A manifest and a detection of a model that has every kind of weight."""
    folder = tmp_path_factory.mktemp("written")
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> net (float[N, 64] x) => (float[N, 10] y)'
        "{ a = MatMul(x, joint) b = MatMul(a, grid) y = MatMul(b, dense) }"
    )
    codes = random.integers(-127, 128, (512, 64)).astype(np.float32)
    codes[0, 0] = 127
    joint = random.choice([-0.5, 0.25, 0.75], (64, 512)) * (random.random((64, 512)) < 0.1)
    for name, weight in {
        "joint": joint, "grid": codes * np.float32(2**-9), "dense": random.standard_normal((64, 10)),
    }.items():  # fmt: skip
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, folder / "model.onnx")
    settings = compressor.Settings(min_elements=256)
    manifest = compressor.compress(folder / "model.onnx", folder / "out", settings=settings)
    return {
        "manifest": json.loads((folder / "out" / "manifest.json").read_text(encoding="utf-8")),
        "detection": json.loads(compressor.detect(folder / "model.onnx", settings).to_json()),
        "encodings": {weight.encoding for weight in manifest.weights},
    }


@pytest.mark.parametrize(("name", "rows"), [("manifest", files.manifest_rows), ("detection", files.detection_rows)])
def test_a_real_file_has_the_keys_of_the_page_and_no_others(written: Mapping[str, Any], name: str, rows: Any) -> None:
    told, found = document(rows()), list(places(written[name]))
    assert {key for key, _ in found} == set(told)
    assert [(key, value) for key, value in found if not is_of(told[key], value)] == []


def test_what_was_written_has_several_kinds_of_weights(written: Mapping[str, Any]) -> None:
    assert written["encodings"] == {"sparse(palettized2)", "int8", "dense"}


def nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        if "node" in value:
            yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_specs_have_the_members_of_the_page(written: Mapping[str, Any]) -> None:
    text = PAGES["files.md"]()
    sections = re.findall(r"^#### (\w+)$(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    told = {node: set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) for node, section in sections}
    found = {node["node"]: set(node) - {"node"} for node in nodes(written["detection"])}
    assert told.pop("Concatenated") == {"parts", "axis"}
    assert found == told


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("palette, 3 bits", "3"),
        ("int4 in groups of 32, float16 scales (GGUF Q4_0)", "4.5"),
        ("MXFP4 (blocks of 32)", "4.25"),
        ("NVFP4 (blocks of 16, two scales)", "4.5"),
        ("NF4 (blocks of 64)", "4.5"),
        ("pruned palette, 50 %, 4 bits", "3"),
    ],
)
def test_formats_take_the_bits_that_their_authors_say(name: str, bits: str) -> None:
    (row,) = (line for line in PAGES["formats.md"]().splitlines() if line.startswith(f"| {name} |"))
    assert row.split(" | ")[2] == bits


def test_metrics_have_the_keys_of_the_page() -> None:
    quality = Quality("accuracy", {"a": 0.5, "b": 0.7}, {"a": 0.5, "b": 0.7}, 1.0, "onnxruntime")
    arguments = {"size": Size(1, 1, 1), "baseline": Size(2, 2, 2), "source_nbytes": 2, "quality": quality, "limits": {}}
    given = {name: arguments.get(name, "onnxruntime") for name in inspect.signature(summary).parameters}
    found = {re.sub("_[ab]$", "_<output>", key) for key in summary(**given)}
    assert found == {key.strip("`") for key, _ in files.keys(metrics)}


def test_latency_has_the_keys_of_the_page() -> None:
    timed = Timed([1.0, 2.0], 3.0)
    found = latency._document(Latency(timed, timed, 1, "onnxruntime"), 2)
    assert {*found, "latency_reason"} == {key.strip("`") for key, _ in files.keys(latency)}
