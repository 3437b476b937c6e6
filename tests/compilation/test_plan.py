"""The plan: the smallest legal form, and a reason for every other one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from compressor import encodings, targets
from compressor.arrays import CODE_DTYPES, ArraySpec
from compressor.compilation.pipelines import get
from compressor.compilation.plan import Plan, choose, plan
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse
from compressor.recognition.findings import Finding
from compressor.recognition.schemes import Candidate, Loss
from compressor.targets import Illegal

F32, BOOL = np.dtype(np.float32), np.dtype(np.bool_)
SHAPE = (64, 64)
DENSE_NBYTES = 4 * 64 * 64


@dataclass(frozen=True)
class Fake:
    """A target that holds tables of 4 and 8 bits, and refuses what it is told to."""

    refused: tuple[str, ...] = ()
    name: str = "fake"
    own: int = 0
    shared: int = 0

    def legalize(self, encoding: Encoding) -> Encoding:
        if encodings.name(encoding) in self.refused:
            raise Illegal(f"fake cannot hold {encodings.name(encoding)}")
        if isinstance(encoding, Palettized):
            entries = 16 if encodings.index_bits(encoding.lut) <= 4 else 256
            return Palettized(encoding.indices, ArraySpec((1, 1, entries, 1), F32))
        return encoding

    def overhead(self, name: str, encoding: Encoding) -> dict[str, int]:
        return {name: self.own, "decoder": self.shared} if isinstance(encoding, Sparse) else {}

    def write(self, *_: Any) -> None:
        raise AssertionError("no plan writes")

    def read(self, *_: Any) -> Any:
        raise AssertionError("no plan reads")


def finding(*candidates: Candidate, skipped: str = "", dtype: str = "float32") -> Finding:
    return Finding("w", SHAPE, dtype, DENSE_NBYTES, ("MatMul",), 0.0, "", None, "", "", skipped, (), candidates)


def palette(entries: int) -> Candidate:
    spec = Palettized(ArraySpec(SHAPE, np.dtype(np.uint8)), ArraySpec((1, 1, entries, 1), F32))
    return Candidate(("palettize",), spec, f"{entries} distinct values")


def sparse(nonzeros: int, changed: int = 0) -> Candidate:
    spec = Sparse(ArraySpec(SHAPE, BOOL), Dense(ArraySpec((nonzeros,), F32)), SHAPE)
    loss = Loss(1e-3 if changed else 0.0, changed)
    return Candidate(("sparsify",), spec, f"{nonzeros} non-zeros", loss, "unstructured")


def codes(*schemes: str) -> Candidate:
    spec = Quantized(Dense(ArraySpec(SHAPE, CODE_DTYPES["int8"])), ArraySpec((1, 1), F32))
    return Candidate(schemes, spec, "stored as int8 by the source")


@pytest.mark.parametrize(
    ("candidates", "pipeline", "refused", "name", "nbytes", "evidence"),
    [
        pytest.param(
            (), "auto", (), "dense", 16384, "more than 256 distinct values, no zeros, on no grid", id="nothing"
        ),
        pytest.param((palette(16),), "auto", (), "palettized4", 2048 + 64, "16 distinct values", id="one form"),
        pytest.param((palette(16), sparse(100)), "auto", (), "sparse", 512 + 400, "100 non-zeros", id="the smallest"),
        pytest.param((sparse(3968),), "auto", (), "dense", 16384, None, id="as large as dense: 512 + 4 * 3968"),
        pytest.param((sparse(3967),), "auto", (), "sparse", 16380, "3967 non-zeros", id="4 bytes smaller than dense"),
        pytest.param((palette(16), sparse(100)), "default_palettization", (), "palettized4", 2112, None, id="pipeline"),
        pytest.param((palette(16), sparse(100)), "default_quantization", (), "dense", 16384, None, id="no such scheme"),
        pytest.param((palette(16), sparse(100)), "auto", ("sparse",), "palettized4", 2112, None, id="not legal"),
        pytest.param(
            (palette(16), sparse(100)), "auto", ("sparse", "palettized4"), "dense", 16384, None, id="none legal"
        ),
        pytest.param((palette(2),), "auto", (), "palettized4", 2048 + 64, "2 distinct values", id="widened"),
        pytest.param((codes(), sparse(4000)), "default_pruning", (), "int8", 4100, None, id="the source's own is kept"),
    ],
)
def test_the_smallest_legal_form_is_chosen(
    candidates: tuple[Candidate, ...],
    pipeline: str,
    refused: tuple[str, ...],
    name: str,
    nbytes: int,
    evidence: str | None,
) -> None:
    choice = choose(finding(*candidates), Fake(refused), get(pipeline))
    assert (encodings.name(choice.legal), encodings.nbytes(choice.legal)) == (name, nbytes)
    assert evidence is None or choice.facts.evidence == evidence
    assert len(choice.rejected) == len(candidates)


def test_a_form_that_is_found_twice_is_refused_once_and_never_for_itself() -> None:
    again = finding(codes("linear_quantize"), codes(), sparse(100), sparse(100))
    kept = choose(again, Fake(("sparse",)), get("auto"))
    assert kept.facts.evidence == "stored as int8 by the source"
    assert [one.encoding for one in kept.rejected] == ["sparse by a mask", "dense"]
    assert [one.encoding for one in choose(again, Fake(), get("auto")).rejected] == ["dense", "int8"]


@pytest.mark.parametrize(("nonzeros", "encoding"), [(860, "int8"), (828, "sparse")])
def test_codes_of_the_source_stay_where_another_form_saves_little(nonzeros: int, encoding: str) -> None:
    # 512 and 4 * 860 bytes instead of 4,100 are 3.6 % fewer; with 828 values, 6.7 %.
    choice = choose(finding(codes(), sparse(nonzeros)), Fake(), get("auto"))
    assert encodings.name(choice.legal) == encoding
    reasons = {one.encoding: one.reason for one in choice.rejected}
    assert encoding == "sparse" or reasons["sparse by a mask"] == (
        "saves less than 6% of the source's 4,100 bytes: not worth a slower load"
    )


def test_every_other_form_has_a_reason() -> None:
    candidates = (palette(16), palette(200), sparse(100), codes("linear_quantize"))
    choice = choose(finding(*candidates), Fake(("int8",)), get("auto"))
    assert {(rejected.encoding, rejected.reason) for rejected in choice.rejected} == {
        ("dense", "16,384 bytes, sparse by a mask takes 912"),
        ("palettized4", "2,112 bytes, sparse by a mask takes 912"),
        ("palettized8", "5,120 bytes, sparse by a mask takes 912"),
        ("int8", "fake cannot hold int8"),
    }
    narrow = choose(finding(*candidates), Fake(), get("default_pruning"))
    assert [rejected.reason for rejected in narrow.rejected].count("not part of the pipeline default_pruning") == 3


def test_joint_forms_need_every_scheme_of_theirs() -> None:
    joint = Candidate(("sparsify", "palettize"), sparse(100).spec, "")
    for pipeline in ("default_pruning", "default_palettization"):
        assert choose(finding(joint), Fake(), get(pipeline)).form.spec == Dense(ArraySpec(SHAPE, F32))
    assert choose(finding(joint), Fake(), get("auto")).form.spec == joint.spec


def test_a_choice_says_what_the_threshold_changes() -> None:
    choice = choose(finding(sparse(100, changed=3)), Fake(), get("default_pruning"))
    assert (choice.form.loss.threshold, choice.form.loss.changed) == (1e-3, 3)
    dense = choose(finding(sparse(4000, changed=3)), Fake(), get("default_pruning"))
    assert (dense.form.loss.threshold, dense.form.loss.changed) == (0.0, 0)


@pytest.mark.parametrize(
    ("pipeline", "asked", "changed"),
    [
        ("auto", None, 0),
        ("auto", 1e-3, 3),
        ("auto", 9e-4, 0),
        ("auto", 0.0, 0),
        ("default_pruning", None, 3),
        ("default_pruning", 0.0, 0),
    ],
)
def test_values_become_zero_only_where_that_is_asked_for(pipeline: str, asked: float | None, changed: int) -> None:
    choice = choose(finding(sparse(103), sparse(100, changed=3)), Fake(), get(pipeline, asked))
    assert (choice.form.loss.changed, encodings.nbytes(choice.legal)) == (changed, 912 if changed else 924)
    reason = "3 values up to 0.001 would become zero: detect.threshold=0.001 allows it"
    assert [rejected.reason for rejected in choice.rejected].count(reason) == (0 if changed else 1)


def test_a_skipped_weight_stays_dense_with_its_reason() -> None:
    choice = choose(finding(skipped="one dimension: a bias or a scale"), Fake(), get("auto"))
    assert (choice.form.spec, choice.facts.evidence) == (
        Dense(ArraySpec(SHAPE, F32)),
        "one dimension: a bias or a scale",
    )


def test_a_plan_adds_up() -> None:
    made = plan([finding(palette(16)), replace(finding(), name="other")], Fake(), get("auto"))
    assert isinstance(made, Plan)
    assert (made.target, made.pipeline) == ("fake", "auto")
    assert (made.nbytes, made.dense_nbytes) == (2112 + 16384, 2 * 16384)
    assert plan([], Fake(), get("auto")).nbytes == 0


@pytest.mark.parametrize(
    ("own", "shared", "weights", "encoding", "reason"),
    [
        (0, 0, 1, "sparse", ""),
        (383, 0, 1, "sparse", ""),
        (384, 0, 1, "dense", "saves 384 bytes, decoding it takes 384"),
        (0, 384, 1, "dense", "saves 384 bytes with others of its kind, decoder to decode them takes 384"),
        (0, 384, 2, "sparse", ""),
        (200, 368, 2, "dense", "saves 368 bytes with others of its kind, decoder to decode them takes 368"),
    ],
)
def test_a_form_saves_more_than_its_decoding_takes(
    own: int, shared: int, weights: int, encoding: str, reason: str
) -> None:
    # 4,096 float32 values, of which 3,872 and a mask of 512 bytes are left: 384 bytes fewer.
    found = [replace(finding(sparse(3872)), name=f"w{place}") for place in range(weights)]
    made = plan(found, Fake(own=own, shared=shared), get("auto"))
    assert {encodings.name(choice.legal) for choice in made.choices} == {encoding}
    assert [rejected.reason for rejected in made.choices[0].rejected if rejected.encoding == "sparse by a mask"] == (
        [reason] if reason else []
    )


@pytest.mark.parametrize(
    ("blocks", "shapes", "form", "reasons"),
    [
        ((64, 4), [(64, 64, 1, 1)], "int8", {}),
        ((64, 4), [(64, 4, 4, 4)], "int8", {}),
        ((64, 16), [(64, 64, 1, 1), (64, 2, 32)], "int8", {}),
        (
            (1, 64),
            [(4096,)],
            "dense",
            {"int8": "a copy of the weight is read as [4096], where it has other blocks"},
        ),
    ],
)
def test_a_form_is_one_under_every_shape_that_the_weight_has(
    blocks: tuple[int, int], shapes: list[tuple[int, ...]], form: str, reasons: dict[str, str]
) -> None:
    spec = Quantized(Dense(ArraySpec(SHAPE, CODE_DTYPES["int8"])), ArraySpec(blocks, F32))
    made = plan([finding(Candidate(("linear_quantize",), spec, ""))], Fake(), get("auto"), shapes={"w": shapes})
    (choice,) = made.choices
    assert encodings.name(choice.legal) == form
    assert {one.encoding: one.reason for one in choice.rejected if "copy" in one.reason} == reasons


@pytest.mark.parametrize(("target", "form"), [("iOS16", "dense"), ("iOS18", "int8")])
def test_a_form_is_legal_under_every_shape_that_the_weight_has(target: str, form: str) -> None:
    """By channel is by two axes where a channel's axis has become two."""
    spec = Quantized(Dense(ArraySpec(SHAPE, CODE_DTYPES["int8"])), ArraySpec((1, 64), F32))
    by_channel = [finding(Candidate(("linear_quantize",), spec, ""))]
    (choice,) = plan(by_channel, targets.get(target), get("auto"), shapes={"w": [(8, 8, 64)]}).choices
    assert encodings.name(choice.legal) == "int8"
    (choice,) = plan(by_channel, targets.get(target), get("auto"), shapes={"w": [(64, 8, 8)]}).choices
    assert encodings.name(choice.legal) == form
