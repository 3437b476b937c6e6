"""`-S` takes values in YAML; of what people type, Hydra's own parser, which reads `dvc exp run -S`, makes the same."""

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import UsageError
from compressor.stages.overrides import apply, parse

AS_HYDRA = {
    "1": 1,
    "": "",
    " 1": 1,
    "'x y'": "x y",
    "x y ": "x y",
    "-1": -1,
    "+1": 1,
    ".5": 0.5,
    "1.": 1.0,
    "1e-3": 0.001,
    "infx": "infx",
    "TRUE": True,
    "False": False,
    "NULL": None,
    "'null'": "null",
    "'1'": "1",
    "[1, 2,'x']": [1, 2, "x"],
    "[a,b]": ["a", "b"],
    "[ ]": [],
    "[[1],[2, x y]]": [[1], [2, "x y"]],
    "{ }": {},
    "{0: batch, b: [1,{c: 2}]}": {0: "batch", "b": [1, {"c": 2}]},
    "{a b: 1}": {"a b": 1},
    "{1.5: x, true: y}": {1.5: "x", True: "y"},
    "examples.digits.model:create": "examples.digits.model:create",
    "data/held out.npz": "data/held out.npz",
    "--1": "--1",
    r"C:\x": r"C:\x",
    '"it\'s"': "it's",
    "' '": " ",
}
YAML_ONLY = {
    "-.inf": -math.inf,
    "inf": "inf",
    "01": 1,
    "a,b": "a,b",
    "a=b": "a=b",
    "é": "é",
    "'it''s'": "it's",
    r'"a\tb"': "a\tb",
    "{'a b': 1}": {"a b": 1},
    "{a:1}": {"a:1": None},
    "[1,]": [1],
    "${x}": "${x}",
}
DOUBLED = "[&b0 [1, 1], " + ", ".join(f"&b{depth + 1} [*b{depth}, *b{depth}]" for depth in range(20)) + "]"
REFUSED = {
    "a": "expected = and a value after the key",
    "~a=1": "expected the key alone after ~",
    **dict.fromkeys(
        ("", "~", "=1", " a=1", "a =1", "+++a=1", "+~a", "a[0]=1", "a.=1", ".a=1", "a..b=1", "a@b=1", "a/b=1"),
        "expected key=value or ~key",
    ),
    **dict.fromkeys(("a=[", "a=[1", "a=]", "a={", "a='x", "a='x'y", "a=@x", "a=*x", "a=!x 1"), "not valid YAML"),
    "a=2001-99-99": "not valid YAML: month must be in 1..12",
    "a=" + "[" * 500: "not valid YAML: nested too deep",
    f"a={DOUBLED}": "its aliases stand for more than 1,000,000 values",
}

hydra = OverridesParser.create()


@pytest.mark.parametrize(("text", "value"), [*AS_HYDRA.items(), *YAML_ONLY.items()])
def test_value(text: str, value: object) -> None:
    found = parse(f"a.b={text}")
    assert (found.key, found.remove) == (("a", "b"), False)
    assert _same(found.value, value)


@pytest.mark.parametrize(("text", "value"), AS_HYDRA.items())
def test_dvc_reads_what_people_type_in_the_same_way(text: str, value: object) -> None:
    assert _same(hydra.parse_override(f"a.b={text}").value(), value)


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_refusal_names_the_override(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"-S {text[:80]}: ")
    assert message in str(caught.value)


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec="ascii"))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab :'[", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_can_be_spelled(value: object) -> None:
    assert _same(parse(f"key={json.dumps(value)}").value, value)


@given(st.text(alphabet="ab0195_-+.eE infulrtsNT\t:=,[]{}'\"\\$/()@~", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        parse(f"key={text}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=5", {"a": {"b": 5, "c": 2}, "l": [1, 2], "d": {0: "x"}}),
        ("+a.n.m=5", {"a": {"b": 1, "c": 2, "n": {"m": 5}}, "l": [1, 2], "d": {0: "x"}}),
        ("++e=null", {"a": {"b": 1, "c": 2}, "l": [1, 2], "d": {0: "x"}, "e": None}),
        ("a={b: 7}", {"a": {"b": 7, "c": 2}, "l": [1, 2], "d": {0: "x"}}),
        ("l=[3]", {"a": {"b": 1, "c": 2}, "l": [3], "d": {0: "x"}}),
        ("l.1=3", {"a": {"b": 1, "c": 2}, "l": [1, 3], "d": {0: "x"}}),
        ("d.0=y", {"a": {"b": 1, "c": 2}, "l": [1, 2], "d": {0: "y"}}),
        ("~a.b", {"a": {"c": 2}, "l": [1, 2], "d": {0: "x"}}),
        ("~l", {"a": {"b": 1, "c": 2}, "d": {0: "x"}}),
    ],
)
def test_apply(text: str, expected: dict[str, Any]) -> None:
    settings = {"a": {"b": 1, "c": 2}, "l": [1, 2], "d": {0: "x"}}
    assert apply(settings, [parse(text)]) == expected
    assert settings == {"a": {"b": 1, "c": 2}, "l": [1, 2], "d": {0: "x"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b.c=1", "-S a.b.c=1: a.b is 1, which has no 'c'."),
        ("~a.x", "-S ~a.x: a.x is not set."),
        ("~x.y", "-S ~x.y: x.y is not set."),
        ("l.7=1", "-S l.7=1: '7' is no index into the 2 values of a list."),
        ("~l.x", "-S ~l.x: 'x' is no index into the 2 values of a list."),
    ],
)
def test_apply_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply({"a": {"b": 1}, "l": [1, 2]}, [parse(text)])
    assert str(caught.value) == message


def test_dictionaries_are_merged_at_every_depth() -> None:
    assert apply({"a": {"b": {"c": 1, "d": 2}}}, [parse("a={b: {c: 3}, e: {f: 4}}")]) == {
        "a": {"b": {"c": 3, "d": 2}, "e": {"f": 4}}
    }


def test_a_later_override_wins() -> None:
    assert apply({}, [parse("a.b=1"), parse("a.c=2"), parse("a.b=3")]) == {"a": {"b": 3, "c": 2}}


def _same(one: object, other: object) -> bool:
    """Equal in value and type, where NaN equals NaN; Hydra's quoted texts are a type of their own with `text`."""
    return repr(one) == repr(other)
