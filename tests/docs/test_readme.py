"""README: its numbers are those of the record that is committed, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS = json.loads((ROOT / "compression" / "metrics.json").read_text(encoding="utf-8"))
# A processor without AVX2 trains the example otherwise: a few of 1,000 digits.
CLOSE = {"accuracy": 0.005, "size_mb": 0.001, "size_ratio": 0.02, "bits_per_weight": 0.02, "agreement": 0.002}


def numbers(start: str) -> list[float]:
    """Those in the cells of the only row of a table that begins so."""
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [float(cell) for cell in row.split("|") if re.fullmatch(r" *\d+(\.\d+)? *", cell)]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("accuracy on held-out digits", ["baseline.accuracy", "accuracy"]),
        ("top-1 agreement", ["agreement"]),
        ("size, the same target, in MB", ["baseline.size_mb", "size_mb"]),
        ("`onnxruntime`", ["accuracy", "agreement", "size_mb", "baseline.size_mb", "size_ratio", "bits_per_weight"]),
    ],
)
def test_a_row_has_the_numbers_of_the_record(row: str, names: list[str]) -> None:
    record = {**METRICS, **{f"baseline.{name}": value for name, value in METRICS["baseline"].items()}}
    told = numbers(row)
    assert len(told) == len(names)
    for name, number in zip(names, told, strict=True):
        assert number == pytest.approx(record[name], abs=CLOSE[name.removeprefix("baseline.")]), name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_it_prints_of_experiments_is_on_the_page_that_a_test_follows() -> None:
    (section,) = re.findall(r"^## Experiments\n.*?^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").splitlines()
    assert len(section.splitlines()) > 20
    assert [line for line in section.splitlines() if line not in page] == []
