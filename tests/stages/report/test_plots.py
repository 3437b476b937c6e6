"""Plots as numbers, and markdown that fits into a comment."""

import itertools
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from compressor.compilation.manifest import Manifest, WeightFacts
from compressor.stages.report import facts, plots
from compressor.stages.report.facts import Report, Run, Variant
from compressor.stages.report.labels import distinct, fold
from compressor.stages.report.markdown import MOST, text
from compressor.stages.report.tradeoff import scatter
from compressor.stages.report.views import artefact

LAYERS = [f"model.encoder.layer.{i}.{part}.weight" for i in range(12) for part in ("attention.query", "attention.key")]


def weight(name, elements, encoding, bits, before=32):
    return WeightFacts(
        name, (elements, 1), "float32", encoding, elements * bits // 8, elements * before // 8, exact=True
    )


def manifest(weights):
    stored, dense = sum(one.nbytes for one in weights), sum(one.dense_nbytes for one in weights)
    return Manifest("onnxruntime", "auto", {}, (), stored, dense, dense, stored, dense, (), tuple(weights))


def test_a_block_is_as_wide_as_its_values_and_as_high_as_its_bits():
    blocks = plots.skyline([weight("a", 100, "sparse", 8), weight("b", 300, "palettized4", 4)])
    assert [(one.left, one.width, one.bits, one.before) for one in blocks] == [(0, 25, 8, 32), (25, 75, 4, 32)]


@pytest.mark.parametrize("count", [1, 599, 5000])
def test_a_skyline_keeps_every_byte_however_many_weights_there_are(count):
    weights = [weight(f"w{i}", 8 + i % 5, ("dense", "int8", "sparse")[i % 3], (32, 8, 16)[i % 3]) for i in range(count)]
    blocks = plots.skyline(weights)
    elements = sum(one.shape[0] for one in weights)
    assert len(blocks) <= 2 * plots.MOST_BLOCKS
    assert sum(one.others + 1 for one in blocks) == count
    for form in {"dense", "int", "sparse"} & {facts.kind(one.encoding) for one in weights}:
        area = sum(one.width * dict(one.parts).get(form, 0) for one in blocks) * elements / 800
        assert area == pytest.approx(sum(one.nbytes for one in weights if facts.kind(one.encoding) == form))
    assert all(two.left == pytest.approx(one.left + one.width) for one, two in itertools.pairwise(blocks))


def test_names_of_layers_are_told_apart():
    prefix, short = fold(LAYERS)
    assert (prefix, short[0], short[-1]) == (
        "model.encoder.layer.",
        "0.attention.query.weight",
        "11.attention.key.weight",
    )
    assert len(set(distinct(LAYERS, 24))) == len(LAYERS)
    shown = artefact(Variant("t", Path("t"), {}, manifest([weight(name, 64, "sparse", 8) for name in LAYERS[:6]])), {})
    assert len({name for _, name, _ in shown.names}) == len(shown.names) == 6


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["conv1.weight", "conv2.weight"], ""),
        (["model.layers.0"], ""),
        (["model.layers.0", "model.layers.0.bias"], "model.layers."),
        (["/model/layer.0/w", "/model/layer.1/w"], "/model/layer."),
        ([], ""),
        (["", "a"], ""),
    ],
)
def test_what_all_names_begin_with_ends_where_a_part_does(names, prefix):
    found, short = fold(names)
    assert found == prefix
    assert [found + one for one in short] == names


def run(name, size, value, metric="accuracy"):
    return Run(name, "abc1234", 0, "experiment", "onnxruntime", {metric: value, f"{metric}_drop": 0.0, "size_mb": size})


def points(runs, metric="accuracy"):
    variant = Variant("onnxruntime", Path("a"), runs[0].metrics, None)
    return scatter(Report("r", (variant,), runs=tuple(runs)))


@pytest.mark.parametrize(
    ("metric", "best"),
    [("accuracy", {"small", "good"}), ("mean_squared_error", {"small"})],
)
def test_the_front_goes_the_way_of_the_metric(metric, best):
    runs = [run("small", 1, 0.5, metric), run("good", 3, 0.9, metric), run("beaten", 4, 0.8, metric)]
    found = points(runs)
    assert {point.run.name for point in found.points if point.best} == best
    assert found.more_is_better == (metric == "accuracy")


def test_smaller_is_to_the_left_and_higher_is_up():
    small, large = points([run("small", 1, 0.5), run("large", 3, 0.9)]).points
    assert small.left < large.left
    assert small.top > large.top


def test_runs_with_another_metric_are_counted_and_left_out():
    found = points([run("a", 1, 0.5), run("b", 2, 0.6, "f1"), run("c", float("nan"), 0.6)])
    assert [point.run.name for point in found.points] == ["a"]
    assert found.dropped == 2


def test_sizes_far_apart_are_drawn_by_powers():
    scale = plots.sizes([1, 100])
    assert scale.by_powers
    assert scale.at(10) == pytest.approx(50)
    assert [tick.text for tick in scale.ticks(5)] == ["1", "2", "5", "10", "20", "50", "100"]


@pytest.mark.parametrize("count", [10, 5000])
def test_markdown_fits_into_a_comment(count):
    long = "layer." * 60
    weights = [weight(f"{long}{i}", 64, "sparse", 8) for i in range(count)]
    past = facts.Past({"size_mb": 2.0}, tuple(weight(one.name, 64, "dense", 32) for one in weights))
    variant = Variant("onnxruntime", Path("a"), {"size_mb": 1.0, "passed": True}, manifest(weights), past=past)
    made = text(Report("r", (variant,) * 6, against="main"))
    assert len(made) < MOST
    assert made.count("<details>") == made.count("</details>")
    assert ("more are left out" in made) == (count == 5000)


@pytest.mark.parametrize("value", ["a|b", "<b>", "</summary>", "`", "@all", "[x](https://example.org)"])
def test_markdown_of_hostile_revisions_and_targets(value):
    past = facts.Past({"size_mb": 2.0}, (weight("w", 64, "dense", 32),))
    variant = Variant(
        value, Path("a"), {"size_mb": 1.0, "passed": True}, manifest([weight("w", 64, "int8", 8)]), past=past
    )
    made = text(Report(value, (variant, variant), against=value))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(made)
    allowed = {
        "h3",
        "h4",
        "ul",
        "li",
        "p",
        "strong",
        "code",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert {tag.strip("/") for tag in re.findall("<(/?[a-z0-9]+)", html)} <= allowed
    columns = [row.count("<th>") + row.count("<td>") for row in html.split("<tr>")[1:]]
    assert columns == [4, 4, 4, 4, 7, 7] * 2
    outside = re.sub("<code>.*?</code>", "", html)
    assert "@all" not in outside
    assert "&amp;lt;" not in html
