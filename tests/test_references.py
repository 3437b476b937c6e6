"""Functions of the user: what may be said of a call before it is made."""

import pytest

from compressor.errors import UsageError
from compressor.references import check_arguments


def create(width, depth=2): ...


def anything(**given): ...


def metric(labels, outputs, *, top=1): ...


@pytest.mark.parametrize(
    ("function", "given", "positional"),
    [
        (create, {"width": 3}, 0),
        (create, {"width": 3, "depth": 1}, 0),
        (anything, {"x": 1}, 0),
        (metric, {"top": 5}, 2),
        (lambda *values: 0, {}, 2),
        (max, {"key": len}, 0),  # does not tell
    ],
)
def test_arguments_that_fit(function, given, positional):
    check_arguments(function, "f", "export.args", given, positional)


@pytest.mark.parametrize(
    ("function", "setting", "given", "positional", "expected"),
    [
        (create, "export.args", {"widht": 3}, 0,
         "unknown argument of f (export.args) 'widht'. Did you mean 'width'? Choices: depth, width."),
        (create, "export.args", {}, 0, "f needs a value for width. Set it in export.args."),
        (create, "", {}, 0, "f needs a value for width. It is called without arguments: give it a default."),
        (lambda: 0, "export.args", {"x": 1}, 0, "f takes no argument 'x', and no other. Remove it from export.args."),
        (lambda labels: 0, "evaluate.metric_args", {}, 2, "f takes 1 argument, it is called with 2."),
        (metric, "evaluate.metric_args", {"labels": 1}, 2,
         "unknown argument of f (evaluate.metric_args) 'labels'. Choices: top."),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(function, setting, given, positional, expected):
    with pytest.raises(UsageError) as caught:
        check_arguments(function, "f", setting, given, positional)
    assert str(caught.value) == expected
