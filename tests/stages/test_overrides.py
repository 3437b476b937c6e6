"""`-S` reads what `dvc exp run -S` reads: Hydra's own parser is the oracle."""

import math
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import UsageError
from compressor.stages.overrides import apply, parse

VALUES = {
    "1": 1,
    "": "",
    " 1": 1,
    "'x y'": "x y",
    "x y ": "x y",
    "-1": -1,
    "+1": 1,
    "1_000": 1000,
    "01": "01",
    ".5": 0.5,
    "1.": 1.0,
    "1e-3": 0.001,
    "-inf": -math.inf,
    "1_0.5": 10.5,
    "infx": "infx",
    "TRUE": True,
    "False": False,
    "NULL": None,
    "'null'": "null",
    "[1, 2,'x']": [1, 2, "x"],
    "[ ]": [],
    "[[1],[2, x y]]": [[1], [2, "x y"]],
    "{ }": {},
    "{0: batch, b: [1,{c:2}]}": {0: "batch", "b": [1, {"c": 2}]},
    "{a b: 1}": {"a b": 1},
    "{1.5:x,true:y,null:z}": {1.5: "x", True: "y", None: "z"},
    "{a: b: c}": {"a": "b: c"},
    "examples.digits.model:create": "examples.digits.model:create",
    "2024-01-01": "2024-01-01",
    "--1": "--1",
    r"b\=c": "b=c",
    "a\\ ": "a ",
    r"1\ ": "1 ",
    r"a\b": r"a\b",
    r"C:\\x": r"C:\x",
    '"it\'s"': "it's",
    r"'it\'s'": "it's",
    r"'a\\'": "a\\",
    r"'a\\\'b'": r"a\'b",
    r'"a\\\\b"': r"a\\\\b",
    "' '": " ",
    "'\n'": "\n",
}
REFUSED = (
    *("a", " a=1", "a =1", "=1", "+++a=1", "a[0]=1", "a.=1", ".a=1", "a..b=1", "1=2", "~", "", "a@b=1", "a/b=1"),
    *(
        "a=b=c",
        "a=a,b",
        "a=x,",
        "a=${x}",
        "a=choice(1,2)",
        "a=(x)",
        "a=~x",
        "a=#",
        "a=é",
        "a='a'b",
        "a=[1] x",
        "a=x [1]",
    ),
    *("a=[1,]", "a=[,]", "a=[", "a=[1", "a={a:1,}", "a={a}", "a={x: }", "a={a=1}", "a={'a b': 1}", "a={", "a=x\ny"),
)
# Hydra reads these for sweeps and composition of configurations, which a single command has not.
HYDRA_ONLY = ("=1", "~", "a@b=1", "a/b=1", "a=a,b", "a=${x}", "a=choice(1,2)")

hydra = OverridesParser.create()


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_value(text: str, value: object) -> None:
    assert _same(parse(f"a.b={text}").value, value)
    assert _same(_hydra_value(f"a.b={text}"), value)


@pytest.mark.parametrize("text", REFUSED)
def test_refusal_names_the_override_and_the_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*, found .* at character") as caught:
        parse(text)
    assert str(caught.value).startswith(f"-S {text}: ")
    if text not in HYDRA_ONLY:
        with pytest.raises(HydraException):
            hydra.parse_override(text)


@given(st.text(alphabet="ab0195_-+.eE infulrtsNT\t:=,[]{}'\"\\$/()@~", max_size=12))
def test_any_text_is_read_as_hydra_reads_it(text: str) -> None:
    try:
        value = parse(f"key={text}").value
    except UsageError:
        try:
            override = hydra.parse_override(f"key={text}")
        except HydraException:
            return
        assert override.is_sweep_override() or "(" in text or "${" in text
        return
    assert _same(value, _hydra_value(f"key={text}"))


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
        ("~a.b=1", {"a": {"c": 2}, "l": [1, 2], "d": {0: "x"}}),
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
        ("~a.b=2", "-S ~a.b=2: a.b is 1."),
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


def _hydra_value(text: str) -> object:
    return hydra.parse_override(text).value()


def _same(one: object, other: object) -> bool:
    """Equal in value and type, where NaN equals NaN; Hydra's quoted texts are a type of their own with `text`."""
    return repr(one) == repr(other)
