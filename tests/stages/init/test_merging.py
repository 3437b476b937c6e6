"""YAML of others, as their tools and their hands write it, with more in it: every byte of theirs stays."""

from __future__ import annotations

import difflib

import pytest
from ruamel.yaml import YAML

from compressor.errors import UsageError
from compressor.stages.init import merging
from compressor.stages.init.merging import Piece

STAGE = Piece(
    "export", "export:\n  cmd: compressor export\n  deps:\n    - a.pt\n", {"cmd": "compressor export", "deps": ["a.pt"]}
)
OTHER = Piece("detect", "# why\ndetect:\n  cmd: compressor detect\n", {"cmd": "compressor detect"})

# One way to write a dvc.yaml each; the names say what is particular.
PIPELINES = {
    "as dvc stage add writes it": (
        "stages:\n  train:\n    cmd: python t.py\n    deps:\n    - t.py\n    outs:\n    - m.pt\nmetrics:\n- m.json\n"
    ),
    "four spaces": "stages:\n    train:\n        cmd: python t.py\n        outs:\n            - m.pt\n",
    "one space": "stages:\n train:\n  cmd: python t.py\n",
    "comments": (
        "# top\n\nstages:  # all of them\n  # first\n  train:\n    cmd: python t.py  # slow\n"
        "    # outs:\n    #   - old.pt\n\n# the end\n"
    ),
    "a section behind with a comment above": (
        "stages:\n  train:\n    cmd: python t.py\n\n\n# plots of the run\nplots:\n  - p.csv\n"
    ),
    "anchors": (
        "x: &common\n  deps: [t.py]\nstages:\n  train:\n    <<: *common\n    cmd: python t.py\n"
        "  test: {<<: *common, cmd: pytest}\n"
    ),
    "vars and templates": (
        "vars:\n  - config.yaml:a,b\n  - seed: 1\nstages:\n  train@x:\n    cmd: python t.py ${seed}\n"
    ),
    "foreach": (
        "stages:\n  train:\n    foreach: ${models}\n    do:\n      cmd: python t.py ${item}\n"
        '      outs: ["${item}.pt"]\n'
    ),
    "matrix": (
        "stages:\n  train:\n    matrix:\n      a: [1, 2]\n      b:\n        - {x: 1}\n    cmd: python t.py ${item.a}\n"
    ),
    "folded command": "stages:\n  train:\n    cmd: >-\n      python t.py\n      --epochs 3\n\n      --lr 0.1\n",
    "literal command that keeps its end": (
        "stages:\n  train:\n    outs: [m.pt]\n    cmd: |+\n      python t.py\n\n\nparams:\n  - p.yaml\n"
    ),
    "literal with what looks like a comment": (
        "stages:\n  train:\n    cmd: |\n      # not a comment\n      python t.py\n"
    ),
    "a long line and odd numbers": "stages:\n  train:\n    cmd: "
    + "python t.py --x " * 20
    + "\n    meta: {lr: 1e-3, n: 0x10, d: 2024-01-01, s: '01', o: 0o7}\n",
    "no end of line": "stages:\n  train:\n    cmd: python t.py",
    "windows": "stages:\r\n  train:\r\n    cmd: python t.py\r\n\r\nmetrics:\r\n  - m.json\r\n",
    "a byte order mark": "\ufeffstages:\n  train:\n    cmd: python t.py\n",
    "document marks": "---\nstages:\n  train:\n    cmd: python t.py\n...\n",
    "directive": "%YAML 1.2\n---\nstages:\n  train:\n    cmd: python t.py\n",
    "stages last": (
        "artifacts:\n  m:\n    path: m.pt\n    type: model\nmetrics: [m.json]\nstages:\n  train:\n"
        "    cmd: python t.py\n"
    ),
    "quoted keys": "'stages':\n  \"train\":\n    cmd: python t.py\n",
    "every stage in braces": (
        "stages:\n  a: {cmd: python a.py, outs: [a.pt]}\n  b: {cmd: python b.py,\n    deps: [a.pt]}\n"
    ),
    "spaces at the ends of lines": "stages:   \n  train:  \n    cmd: python t.py   \n   \n",
    "other scripts": 'stages:\n  обучение:\n    cmd: python 训练.py  # été\n    desc: "line\\u2028separator"\n',
    "a comment further in, at the end": (
        "stages:\n  train:\n    cmd: python t.py\n    # outs:\n  # test:\n  #   cmd: pytest\n"
    ),
    "nothing below": "stages:\n",
    "nothing below, with a comment": "stages:  # to come\n\nmetrics:\n  - m.json\n",
    "no stages": "# registry\nartifacts:\n  m:\n    path: m.pt\n",
    "empty": "",
    "comments alone": "# to come\n",
    "a mark alone": "---\n",
}


def values(text: str) -> dict:
    return YAML(typ="safe").load(text.removeprefix("\ufeff")) or {}


@pytest.mark.parametrize("text", PIPELINES.values(), ids=PIPELINES)
def test_all_that_was_there_is_there(text: str) -> None:
    new = merging.insert(text, "stages", [STAGE, OTHER], "dvc.yaml")
    assert values(new) == {
        **values(text),
        "stages": {**(values(text).get("stages") or {}), "export": STAGE.value, "detect": OTHER.value},
    }
    ended = text if not text or text.endswith("\n") else f"{text}\n"
    compared = difflib.ndiff(ended.splitlines(keepends=True), new.splitlines(keepends=True))
    assert [line for line in compared if line[0] in "-?"] == []
    assert ("\r\n" in new) == ("\r\n" in text)
    assert "\n" not in new.replace("\r\n", "") or "\r\n" not in text
    assert new.startswith("\ufeff") == text.startswith("\ufeff")


@pytest.mark.parametrize("text", PIPELINES.values(), ids=PIPELINES)
def test_what_was_added_is_found_again_as_it_was_written(text: str) -> None:
    new = merging.insert(text, "stages", [STAGE, OTHER], "dvc.yaml")
    found = {piece.key: piece for piece in merging.pieces(new, "stages")}
    assert (found["export"].value, found["detect"].value) == (STAGE.value, OTHER.value)
    assert found["detect"].text.replace("\r\n", "\n") == OTHER.text
    assert found["export"].text.replace("\r\n", "\n") == STAGE.text


@pytest.mark.parametrize("text", [text for text in PIPELINES.values() if not text.startswith("%")])
def test_keys_at_the_top(text: str) -> None:
    """As the groups of params.yaml are."""
    new = merging.insert(text, "", [STAGE, OTHER], "params.yaml")
    assert values(new) == {**values(text), "export": STAGE.value, "detect": OTHER.value}
    assert values(merging.insert(new, "artifacts", [Piece("n", "n:\n  path: n\n", {"path": "n"})], "x"))["artifacts"][
        "n"
    ] == {"path": "n"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages: {}\n", "stages:\n  export:\n    cmd: compressor export\n    deps:\n      - a.pt\n"),
        (
            "stages: null  # none\nplots: []\n",
            "stages:  # none\n  export:\n    cmd: compressor export\n    deps:\n      - a.pt\n\nplots: []\n",
        ),
        ("stages: ~", "stages:\n  export:\n    cmd: compressor export\n    deps:\n      - a.pt\n"),
    ],
)
def test_what_says_that_there_is_nothing_goes(text: str, expected: str) -> None:
    assert merging.insert(text, "stages", [STAGE], "dvc.yaml") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages:\n  train: {cmd: a\n", "dvc.yaml: not valid YAML in line 3: "),
        ("stages:\n\ttrain:\n", "dvc.yaml: not valid YAML in line 2: found character '\\t'"),
        ("stages:\n  a: {cmd: x}\n  a: {cmd: y}\n", "dvc.yaml: not valid YAML in line 3: found duplicate key"),
        ("- stages\n", "dvc.yaml: expected keys such as `stages:` or `export:`, got a list"),
        ("stages: [a]\n", "dvc.yaml: stages: expected keys with values"),
        ("stages: {a: {cmd: x}}\n", "dvc.yaml: stages: is written in braces"),
        ("{stages: {a: {cmd: x}}}\n", "dvc.yaml: is written in braces"),
        ("a: &s\n  b: {cmd: x}\nstages: *s\n", "dvc.yaml: stages cannot be extended without a change to what is there"),
        ("a: 1\n---\nb: 1\n", "dvc.yaml: not valid YAML"),
    ],
)
def test_what_cannot_be_extended_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        merging.insert(text, "stages", [STAGE], "dvc.yaml")
    assert str(caught.value).startswith(message)
