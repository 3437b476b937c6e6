"""Reports: nothing is lost in a narrow terminal, and plots get rows that DVC can draw."""

import dataclasses
import json
import math

import pytest
from rich.console import Console, RenderableType

from compressor import targets
from compressor.compilation import pipelines
from compressor.compilation.manifest import FileFacts, Manifest, WeightFacts
from compressor.compilation.plan import plan
from compressor.recognition.findings import Detection, Finding, Settings
from compressor.stages import display
from compressor.stages.sheet import Row, Sheet, elided

LONG = "bert.encoder.layer.11.attention.self.query.weight"
WEIGHTS = (
    WeightFacts("conv1.bias", (16,), "float32", "dense", 64, 64, "one dimension: a bias or a scale"),
    WeightFacts("conv2.bias", (8,), "float32", "dense", 32, 32, "one dimension: a bias or a scale"),
    WeightFacts(
        "conv.weight", (8, 8), "float32", "sparse(int8)", 64, 256, "[bold]2:4[/]", rejected=(("int8", "larger"),)
    ),
    WeightFacts(LONG, (768, 768), "float32", "dense", 2359296, 2359296, "more than 256 distinct values"),
)
MANIFEST = Manifest(
    "onnxruntime", "auto", {}, (FileFacts("model.onnx", 9000, ""),), 9000, 18000, 18100, 1, 2, (), WEIGHTS
)


def finding(name: str, shape: tuple[int, ...], **facts: object) -> Finding:
    plain = {field.name: "" for field in dataclasses.fields(Finding)} | {
        "dtype": "float32",
        "nbytes": 4 * math.prod(shape),
        "sparsity": 0.0,
        "distinct": None,
        "uses": (),
        "near_misses": (),
        "candidates": (),
    }
    return Finding(**{**plain, "name": name, "shape": shape, **facts})  # type: ignore[arg-type]


DETECTION = Detection(
    Settings(),
    (
        finding("conv1.bias", (16,), skipped="one dimension"),
        finding("conv2.weight", (8, 8), sparsity=0.75, structure="2:4 along axis 1", near_misses=("17 values",)),
        finding("conv3.weight", (8, 8), distinct=7, palette="7 distinct values"),
        finding(LONG, (8, 8)),
    ),
)


def printed(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().splitlines()


def test_dense_weights_that_forms_were_found_for_point_to_the_reasons() -> None:
    refused = dataclasses.replace(WEIGHTS[0], rejected=(("sparse", "not part of the pipeline"),))
    made = dataclasses.replace(MANIFEST, weights=(refused, *WEIGHTS[1:]))
    told = "1 weight is dense though other forms were found: -v says why"
    assert told in printed(display.manifest(made), 80)
    assert not any(" -v " in line for line in printed(display.manifest(made, refusals=True), 80))
    assert not any(" -v " in line for line in printed(display.manifest(MANIFEST), 80))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_manifest_fits_and_is_whole(width: int) -> None:
    lines = printed(display.manifest(MANIFEST, refusals=True), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    for part in (
        "sparse(int8)",
        "[bold]2:4[/]",
        "not int8: larger",
        "2 weights",
        "4.00",
        "more than 256",
        "model.onnx",
    ):
        assert part in text
    assert text.count("one dimension: a bias or a scale") == 1
    assert "2.00 times smaller than dense (18.0 kB)" in text
    assert "weight (float32)" in text


def test_long_names_lose_their_middle_and_only_where_they_must() -> None:
    narrow, wide = ("\n".join(printed(display.manifest(MANIFEST), width)) for width in (80, 140))
    assert LONG not in narrow
    assert LONG in wide
    assert next(line for line in narrow.splitlines() if line.startswith("bert.enc")).split()[0].endswith("weight")


@pytest.mark.parametrize("width", [80, 120])
def test_detection_says_what_each_weight_is(width: int) -> None:
    planned = plan(DETECTION.findings, targets.get("onnxruntime"), pipelines.get("auto"))
    text = "\n".join(printed(display.detection(DETECTION, planned), width))
    for part in ("75.0%", "2:4 along axis 1", "near miss: 17 values", "7 distinct values", "one dimension", "> 256"):
        assert part in text


def test_a_note_stands_beside_its_row_where_there_is_room() -> None:
    sheet = Sheet(("name", "size"), (Row(("a", "1"), "why"), Row(("b", "22"), "because")), numbers=1)
    assert printed(sheet, 40) == ["name  size", "──────────", "a        1  why", "b       22  because"]
    assert printed(sheet, 16) == ["name  size", "──────────", "a        1", "    why", "b       22", "    because"]


def test_columns_without_text_are_left_out() -> None:
    assert printed(Sheet(("name", "none", "n"), (Row(("a", "", "1")),), numbers=2), 40) == [
        "name  n",
        "───────",
        "a     1",
    ]


@pytest.mark.parametrize(
    ("text", "width", "expected"), [("abcdefgh", 8, "abcdefgh"), ("abcdefgh", 5, "ab…gh"), ("abc", 2, "a…")]
)
def test_elided(text: str, width: int, expected: str) -> None:
    assert elided(text, width) == expected


def test_a_model_that_cannot_be_made_smaller_is_not_praised() -> None:
    same = dataclasses.replace(MANIFEST, nbytes=18000)
    assert "18.0 kB, not smaller than dense (18.0 kB)" in "\n".join(printed(display.manifest(same), 120))


def test_values_that_became_zero_are_counted_with_the_setting_that_keeps_them() -> None:
    counts = zip(WEIGHTS, (0, 5, 0, 100), strict=True)
    rows = tuple(dataclasses.replace(weight, changed=changed) for weight, changed in counts)
    lossy = "\n".join(printed(display.manifest(dataclasses.replace(MANIFEST, weights=rows), threshold=1e-3), 120))
    assert "105 values up to 0.001 became zero in 2 weights: detect.threshold=0 (-S) keeps them" in lossy
    assert "became zero" not in "\n".join(printed(display.manifest(MANIFEST, threshold=1e-3), 120))


def test_rows_for_plots() -> None:
    assert display.sparsity_rows(DETECTION) == [
        {"weight": "conv2", "sparsity": 0.75},
        {"weight": "conv3", "sparsity": 0.0},
        {"weight": LONG.removesuffix(".weight"), "sparsity": 0.0},
    ]
    assert display.bytes_rows(WEIGHTS)[:2] == [
        {"weight": "conv uncompressed", "bytes": 256},
        {"weight": "conv stored", "bytes": 64},
    ]
    assert display.bytes_rows(WEIGHTS)[-2:] == [
        {"weight": "others uncompressed", "bytes": 96},
        {"weight": "others stored", "bytes": 96},
    ]


def test_json_is_one_document_with_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    display.show_json(MANIFEST.to_json())
    assert [weight["name"] for weight in json.loads(capsys.readouterr().out)["weights"]] == [w.name for w in WEIGHTS]


def test_a_log_is_wider_than_a_terminal_without_a_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    display.show("x" * 120)
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setenv("COLUMNS", "60")
    display.show("x" * 120)
    assert len(capsys.readouterr().out.splitlines()) == 2
