"""What becomes of the models of ONNX's backend tests is what `backend_suite/outcomes.json` says.

A sample of them; all where COMPRESSOR_TESTS is `all`. `python -m tests.backend_suite --write` writes the file anew.
"""

from __future__ import annotations

import gc
import os
import random

import pytest

from tests.backend_suite import cases, table
from tests.backend_suite.outcomes import CRASH, NOT_RUNNABLE, REFUSED, SAME, WRONG, of_case

WHOLE = os.environ.get("COMPRESSOR_TESTS") == "all"
SAMPLE = 60
OTHER_SAMPLE = 15
"""Of the models that are run for a version of Core ML that the file does not tell of."""


@pytest.fixture(scope="module")
def suite():
    found = {case.name: case for case in cases.cases()}
    gc.collect()
    gc.freeze()  # Core ML Tools collects garbage at each conversion: not these
    yield found
    gc.unfreeze()


def sampled(names, count, seed):
    ordered = sorted(names)
    return ordered if WHOLE else random.Random(seed).sample(ordered, count)  # noqa: S311 - no secret


@pytest.mark.parametrize("target", table.TARGETS)
def test_every_model_becomes_what_the_file_says(suite, target):
    expected = table.load()
    differing = {}
    for name in sampled(suite, SAMPLE, 0):
        actual = {variant: table.shortened(one) for variant, one in of_case(suite[name], target).items()}
        if not all(table.alike(one, expected[name][target].get(variant, "")) for variant, one in actual.items()):
            differing[name] = actual, expected[name][target]
    assert differing == {}


def test_older_versions_of_core_ml_refuse_or_compute_the_same(suite):
    known = table.load()
    names = [name for name in suite if SAME in known[name]["iOS18"].values()]
    for name in sampled(names, OTHER_SAMPLE, 1):
        for variant, outcome in of_case(suite[name], "iOS17").items():
            assert not outcome.startswith((WRONG, CRASH)), (name, variant, outcome)


def test_no_model_is_wrong_and_every_refusal_has_its_reason(suite):
    found = table.load()
    assert found.keys() == suite.keys()
    for name, targets in found.items():
        for target, variants in targets.items():
            for variant, outcome in variants.items():
                word, _, reason = outcome.partition(": ")
                assert word in {SAME, REFUSED, NOT_RUNNABLE}, (name, target, variant, outcome)
                assert (word == SAME) != bool(reason), (name, target, variant, outcome)


def test_the_document_has_the_table(suite):
    subjects = {name: table.subject(case) for name, case in suite.items()}
    text = table.DOCUMENT.read_text()
    assert "\n".join(table.table(subjects, table.load())) in text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("same", "same", True),
        ("same", "refused: Conv: node", False),
        ("refused: Conv: node (negative pads)", "refused: Conv: node", True),
        ("refused: Conv: node", "refused: Gemm: node", False),
        ("not runnable: opset 28", "not runnable: opset 27", True),
    ],
)
def test_outcomes_are_compared_by_their_word_and_the_operators_they_name(one, other, same):
    assert table.alike(one, other) is same
