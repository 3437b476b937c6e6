"""The journal: what a killed run leaves is what the next one need not do. And the choice among trials."""

import json
from dataclasses import replace

import pytest

from compressor.errors import CompressorError, UsageError
from compressor.sensitivity.choice import ranked, strongest
from compressor.sensitivity.trials import Journal, Trial

KEY = {"model": "a", "samples": "b", "settings": "c"}
ONE = Trial("w", "int8", 100, 7, 0.9, 0.05, 0.95, 0.01)
TWO = Trial("w", "int4", 50, 9, failure="output y is NaN for sample 0")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "trials.jsonl"


def begun(path, key=KEY):
    return Journal(path, key).begin()


def test_what_was_appended_is_there(path):
    assert begun(path) == ([], ())
    for trial in (ONE, TWO):
        Journal(path, KEY).append(trial)
    assert begun(path) == ([ONE, TWO], ())
    assert begun(path) == ([ONE, TWO], ())


@pytest.mark.parametrize(
    ("cut", "torn", "expected"), [(0, b'{"wei', [ONE, TWO]), (1, b"", [ONE, TWO]), (20, b"", [ONE]), (60, b"", [ONE])]
)
def test_a_line_that_was_cut_short_is_removed(path, cut, torn, expected):
    begun(path)
    for trial in (ONE, TWO):
        Journal(path, KEY).append(trial)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut] + torn)
    assert begun(path) == (expected, ())
    Journal(path, KEY).append(replace(ONE, variant="pruned50"))
    assert len(begun(path)[0]) == len(expected) + 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "x"}, ("model",)),
        ({"samples": "x", "settings": "y"}, ("samples", "settings")),
        ({"versions": "new"}, ("versions",)),
    ],
)
def test_trials_of_something_else_do_not_count(path, change, expected):
    begun(path)
    Journal(path, KEY).append(ONE)
    assert begun(path, KEY | change) == ([], expected)
    assert begun(path, KEY | change) == ([], ())


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", '{"key": {"model": "a"}}\n', "weight,drop\n"])
def test_another_file_is_not_replaced(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UsageError, match=r"trials\.jsonl: holds something else"):
        begun(path)
    assert path.read_text() == text


def test_a_file_that_is_no_text(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CompressorError, match="cannot be read"):
        begun(path)


@pytest.mark.parametrize(
    "line", ['{"weight": 1}', '{"weight": "w", "variant": "int8", "nbytes": "many", "changed": 1}']
)
def test_a_line_that_is_no_trial_is_none(path, line):
    begun(path)
    with path.open("a") as file:
        file.write(line + "\n")
    assert begun(path) == ([], ())
    assert len(path.read_text().splitlines()) == 1


def test_trials_are_plain_json(path):
    begun(path)
    Journal(path, KEY).append(ONE)
    head, line = map(json.loads, path.read_text().splitlines())
    assert head == {"kind": "compressor sensitivity", "key": KEY}
    assert (line["weight"], line["variant"], line["drop"]) == ("w", "int8", 0.05)


def trial(variant, nbytes, drop=None, *, weight="w", error=None, failure=""):
    return Trial(weight, variant, nbytes, 1, drop=drop, error=error, failure=failure)


@pytest.mark.parametrize(
    ("trials", "most", "expected"),
    [
        ([trial("int8", 25, 0.0), trial("int4", 12, 0.02), trial("palette2", 6, 0.5)], 0.01, "int8"),
        ([trial("int8", 25, 0.0), trial("int4", 12, 0.02), trial("palette2", 6, 0.5)], 0.02, "int4"),
        ([trial("int8", 25, 0.0), trial("int4", 12, 0.02), trial("palette2", 6, 0.5)], 1.0, "palette2"),
        ([trial("int4", 12, 0.01), trial("palette4", 12, -0.02)], 0.01, "palette4"),
        ([trial("int8", 25, 0.3)], 0.01, None),
        ([trial("int8", 94, 0.0)], 0.01, None),  # saves too little
        ([trial("int8", 93, 0.0)], 0.01, "int8"),
        ([trial("int8", 25, failure="NaN")], 9.0, None),
        ([trial("int8", 25, error=0.005), trial("int4", 12, error=0.2)], 0.01, "int8"),  # no labels
    ],
)
def test_the_strongest_within_a_budget(trials, most, expected):
    found = strongest(trials, {"w": 100}, most)
    assert {name: one.variant for name, one in found.items()} == ({} if expected is None else {"w": expected})


def test_the_most_robust_come_first():
    trials = [
        trial("int8", 1, 0.0, weight="fragile"), trial("int4", 1, 0.4, weight="fragile"),
        trial("int8", 1, 0.01, weight="robust"), trial("int4", 1, 0.02, weight="robust"),
        trial("int8", 1, weight="broken", failure="NaN"),
    ]  # fmt: skip
    assert ranked(trials) == ["robust", "fragile", "broken"]
