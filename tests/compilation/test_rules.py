"""Rules by name: what holds for which weight, what is said of it, and what is no rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import compressor
from compressor.compilation import rules
from compressor.errors import UsageError
from compressor.model import TIED
from compressor.recognition.findings import Settings
from tests.sources.onnx.models import save, tensor, value
from tests.test_models import grid, node, normal, palette, pruned

NAMES = ("encoder.0.weight", "encoder.1.weight", "head.weight", "embed.weight")
KINDS = "encoder.*.weight (2), head.weight, embed.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two palettes, a pruned weight, and one near a palette."""
    embed = palette(64, 64) + normal(64, 64) * np.float32(1e-5)
    weights = dict(zip(NAMES, (palette(64, 64), palette(64, 64), pruned(64, 64), embed), strict=True))
    nodes = [node("MatMul", f"x{place},{name}", f"x{place + 1}") for place, name in enumerate(NAMES)]
    return save(
        tmp_path_factory.mktemp("rules") / "m.onnx",
        nodes,
        [tensor(name, values) for name, values in weights.items()],
        inputs=[value("x0", ["n", 64])],
        outputs=[value("x4", ["n", 64])],
    )


@pytest.mark.parametrize("target", ["onnxruntime", "iOS18"])
@pytest.mark.parametrize(
    ("asked", "forms"),
    [
        pytest.param({}, ["palettized4", "palettized4", "sparse", "dense"], id="none"),
        pytest.param({"head*": "dense"}, ["palettized4", "palettized4", "dense", "dense"], id="one stays dense"),
        pytest.param(
            {"encoder.0.*": ["palettize"], "encoder.*": "dense"},
            ["palettized4", "dense", "sparse", "dense"],
            id="the first that matches holds",
        ),
        pytest.param({"*": ["sparsify"]}, ["dense", "dense", "sparse", "dense"], id="one scheme"),
        pytest.param(
            {"embed*": {"exact": False, "tolerance": 1e-3}},
            ["palettized4", "palettized4", "sparse", "palettized4"],
            id="within a tolerance",
        ),
        pytest.param({"[eh]*.weight": "dense"}, ["dense", "dense", "dense", "dense"], id="a set of characters"),
    ],
)
def test_what_holds_for_which_weight(
    model: Path, target: str, asked: dict[str, Any], forms: list[str], tmp_path: Path
) -> None:
    made = compressor.compress(model, tmp_path / "out", target=target, rules=asked)
    count = len(NAMES) - (target == "iOS18")  # in float16 the last one is a palette of more entries
    assert [one.encoding for one in made.weights][:count] == forms[:count]
    planned = compressor.dry_run(model, target=target, rules=asked).choices
    assert [choice.facts.encoding for choice in planned][:count] == forms[:count]
    holds = rules.resolved(asked, NAMES).by_name
    for name, facts in zip(NAMES, made.weights, strict=True):
        said = f"by the rule {holds[name].pattern!r}" if name in holds else "by the rule"
        assert facts.evidence.endswith(said) == (name in holds)


def test_only_what_a_rule_lets_be_inexact_is(model: Path, tmp_path: Path) -> None:
    made = compressor.compress(model, tmp_path / "out", rules={"embed*": {"exact": False, "tolerance": 1e-3}})
    assert [(one.name, one.exact) for one in made.weights if not one.exact] == [("embed.weight", False)]
    strict = Settings(tolerance=1e-3)
    kept = compressor.compress(model, tmp_path / "kept", settings=strict, rules={"embed*": {"exact": True}})
    assert all(one.exact for one in kept.weights)


def test_a_detection_serves_the_weights_that_no_rule_wants_looked_at_otherwise(model: Path, tmp_path: Path) -> None:
    found = compressor.detect(model)
    asked = {"embed*": {"tolerance": 1e-3}, "head*": "dense"}
    made = compressor.compress(model, tmp_path / "out", detection=found, rules=asked)
    assert [one.encoding for one in made.weights] == ["palettized4", "palettized4", "dense", "palettized4"]


def test_a_form_that_a_rule_leaves_out_says_so(model: Path) -> None:
    plan = compressor.dry_run(model, rules={"head*": ["palettize"]})
    (head,) = (one for one in plan.choices if one.name == "head.weight")
    assert ("sparse by distances", "not part of the rule 'head*'") in head.facts.rejected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"haed.*": "dense"}, "the rule 'haed.*' matches no weight. Close to it: head.weight."),
        ({"encoder.7.*": "dense"}, "the rule 'encoder.7.*' matches no weight. Close to it: encoder.*.weight (2)."),
        ({"*.wieght": "dense"}, "the rule '*.wieght' matches no weight. Close to it: encoder.*.weight (2), head"),
        # The end of the pattern alone is in every name.
        (
            {"layers.*.weight": "dense"},
            f"the rule 'layers.*.weight' matches no weight. Its weights are called {KINDS}.",
        ),
        ({"head*": "dens"}, "the rule 'head*' is 'dens': expected dense, a list of schemes, or a mapping."),
        ({"head*": ["palettise"]}, "unknown scheme of the rule 'head*': 'palettise'. Did you mean 'palettize'?"),
        ({"head*": []}, "the rule 'head*': expected a list of schemes, got []"),
        ({1: "dense"}, "the rule 1: expected a pattern of names, which is text."),
        ({"head*": [["palettize"]]}, "unknown scheme of the rule 'head*': \"['palettize']\"."),
        (["head*"], "the rules are ['head*']: expected a mapping of patterns to what holds."),
        ({"head*": {"tolerence": 1}}, "unknown key of the rule 'head*': 'tolerence'. Did you mean 'tolerance'?"),
        (
            {"head*": {"exact": True, "tolerance": 0.1}},
            "the rule 'head*' is exact, and has a tolerance: take one away.",
        ),
        ({"head*": {"exact": False}}, "the rule 'head*' is not exact: say by how much, as a threshold or a tolerance."),
        ({"head*": {"exact": "no"}}, "the rule 'head*': exact is 'no': expected true or false."),
        ({"head*": {"tolerance": -1}}, "the rule 'head*': tolerance is -1: expected a number from 0 on."),
        ({"head*": {"threshold": True}}, "the rule 'head*': threshold is True: expected a number from 0 on."),
    ],
)
def test_what_is_no_rule(model: Path, asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        compressor.compress(model, tmp_path / "out", rules=asked)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_rule_for_a_copy_holds_for_the_weight_that_stands_for_it(tmp_path: Path) -> None:
    table = palette(64, 64)
    path = save(
        tmp_path / "m.onnx",
        [node("MatMul", "x,embed", "h"), node("MatMul", "h,lm_head", "y")],
        [tensor("embed", table), tensor("lm_head", table.T.copy())],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
    )
    for asked, expected in (
        ({"lm_head": "dense"}, "dense"),
        ({"lm_*": ["palettize"], "embed": "dense"}, "palettized4"),
        ({"embed": "dense", "lm_head": ["palettize"]}, "dense"),
    ):
        (weight,) = (choice.facts for choice in compressor.dry_run(path, rules=asked).choices)
        assert (weight.name, weight.encoding) == ("embed", expected)
    with pytest.raises(UsageError, match=r"Close to it: lm_head\.$"):
        compressor.dry_run(path, rules={"lm_haed": "dense"})


def test_a_rule_for_a_tied_name_holds_for_the_weight_that_an_exporter_has_kept(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("MatMul", "x,embed", "y")],
        [tensor("embed", palette(64, 64))],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
    )
    graph = onnx.load(path)
    for name, kept in (("lm_head", "embed"), ("gone", "what is no weight")):
        graph.metadata_props.add(key=f"{TIED}{name}", value=kept)
    onnx.save(graph, path)
    (choice,) = compressor.dry_run(path, rules={"lm_*": "dense"}).choices
    assert (choice.facts.encoding, choice.rule) == ("dense", "lm_*")
    with pytest.raises(UsageError, match="'gone' matches no weight"):
        compressor.dry_run(path, rules={"gone": "dense"})


def test_codes_of_a_quantized_source_stay(tmp_path: Path) -> None:
    """A rule changes what is looked for in floats; codes are how the source has the weight."""
    codes = {"w": grid(64, 64)}
    path = save(
        tmp_path / "m.onnx",
        [node("QuantizeLinear", "w,s,z", "q"), node("DequantizeLinear", "q,s,z", "v"), node("MatMul", "x,v", "y")],
        [tensor("w", codes["w"]), tensor("s", np.float32(0.01)), tensor("z", np.int8(0))],
        inputs=[value("x", ["n", 64])],
        outputs=[value("y", ["n", 64])],
    )
    (weight,) = compressor.compress(path, tmp_path / "out", rules={"w": "dense"}).weights
    assert weight.encoding == "int8"
