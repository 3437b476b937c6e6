"""What stands in metrics.json, and what counts as good enough."""

import pytest

from compressor.errors import UsageError
from compressor.evaluation.metrics import Quality, Size, broken, regressions, summary

DENSE = Size(1_566_000, 1_560_000, 390_000)
SMALL = Size(205_000, 196_000, 390_000)
GOOD = Quality("accuracy", {"logits": 0.99704}, {"logits": 0.99613}, 0.99891, "onnxruntime")


def test_all_numbers_in_their_order_rounded():
    assert summary("iOS17", SMALL, DENSE, 1_600_000, GOOD, {"accuracy_drop": 0.01, "size_ratio": 4}) == {
        "made_for": "iOS17",
        "accuracy": 0.9961,
        "accuracy_drop": 0.0009,
        "agreement": 0.9989,
        "runtime": "onnxruntime",
        "size_mb": 0.205,
        "size_ratio": 7.64,
        "source_mb": 1.6,
        "bits_per_weight": 4.02,
        "passed": True,
        "baseline": {"accuracy": 0.997, "size_mb": 1.566},
    }


def test_what_is_unknown_is_left_out():
    assert summary("iOS17", SMALL, DENSE, 1_600_000, Quality("accuracy"), {}) == {
        "made_for": "iOS17",
        "size_mb": 0.205,
        "size_ratio": 7.64,
        "source_mb": 1.6,
        "bits_per_weight": 4.02,
        "passed": True,
        "baseline": {"size_mb": 1.566},
    }
    unlabelled = summary("iOS17", Size(10, 0, 0), Size(10, 0, 0), 10, Quality("accuracy", {}, {}, 0.5, "coreml"), {})
    assert list(unlabelled) == [
        "made_for",
        "agreement",
        "runtime",
        "size_mb",
        "size_ratio",
        "source_mb",
        "passed",
        "baseline",
    ]


def test_several_outputs_have_a_mean_and_a_number_each():
    values = summary(
        "iOS17", SMALL, DENSE, 1_600_000, Quality("f1", {"a": 0.9, "b": 0.7}, {"a": 0.8, "b": 0.7}, None, "coreml"), {}
    )
    scores = {name: value for name, value in values.items() if name.startswith("f1")}
    assert scores == {"f1": 0.75, "f1_a": 0.8, "f1_b": 0.7, "f1_drop": 0.05}
    assert values["baseline"] == {"f1": 0.8, "size_mb": 1.566}


@pytest.mark.parametrize(
    ("metric", "before", "after", "drop"),
    [
        ("accuracy", 0.9, 0.91, -0.01),
        ("accuracy", 0.9, 0.9, 0.0),
        ("mean_squared_error", 0.5, 0.75, 0.25),
        ("log_loss", 0.5, 0.5, 0.0),
        ("my_deviance", 0.75, 0.5, -0.25),
    ],
)
def test_a_drop_is_positive_where_the_artefact_is_worse(metric, before, after, drop):
    values = summary("iOS17", SMALL, DENSE, 1_600_000, Quality(metric, {"y": before}, {"y": after}, None, "coreml"), {})
    assert str(values[f"{metric}_drop"]) == str(drop)  # not -0.0, which would make rows of `dvc metrics diff`


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"accuracy": 0.9961, "agreement": 0.9989, "size_ratio": 7.64}, True),
        ({"accuracy_drop": 0.0009, "size_mb": 0.205, "bits_per_weight": 4.02}, True),
        ({"accuracy": 0.9962}, False),
        ({"accuracy_drop": 0.0008}, False),
        ({"agreement": 0.999}, False),
        ({"size_ratio": 7.65}, False),
        ({"size_mb": 0.204}, False),
        ({"bits_per_weight": 4.01}, False),
        ({"size_mb": 1, "size_ratio": 8}, False),
    ],
)
def test_limits_hold_at_the_written_numbers(limits, passed):
    assert summary("iOS17", SMALL, DENSE, 1_600_000, GOOD, limits)["passed"] is passed


def test_an_error_is_limited_from_above():
    values = {"max_error": 2.0, "max_error_drop": 0.5}
    assert broken(values, {"max_error": 2.0}, metric="max_error") == ()
    assert broken(values, {"max_error": 1.5}, metric="max_error") == ("max_error is 2, the limit is at most 1.5",)
    assert regressions(values, {"max_error": 1.5}, {}) == ("max_error rose from 1.5 to 2, tolerated is 0",)


def test_a_limit_on_what_was_not_measured_does_not_hold():
    values = summary("iOS17", SMALL, DENSE, 1_600_000, Quality("accuracy"), {"accuracy_drop": 0.01})
    assert values["passed"] is False
    assert broken(values, {"accuracy_drop": 0.01}) == ("accuracy_drop is not known, the limit is at most 0.01",)


def test_a_limit_goes_by_the_name_of_its_metric_before_anything_is_measured():
    assert summary("iOS17", SMALL, DENSE, 1_600_000, Quality("f1"), {"f1_drop": 0.01})["passed"] is False


def test_an_unknown_limit_is_refused_with_the_closest_one():
    with pytest.raises(UsageError, match=r"unknown limit 'accuracy_dorp'\. Did you mean 'accuracy_drop'\?"):
        broken({}, {"accuracy_dorp": 0.01})


NOW = {"accuracy": 0.95, "accuracy_drop": 0.01, "size_mb": 0.2, "size_ratio": 8.0, "passed": True, "baseline": {}}


@pytest.mark.parametrize(
    ("then", "tolerances", "expected"),
    [
        ({}, {}, []),
        ({"accuracy": 0.952}, {}, ["accuracy fell from 0.952 to 0.95, tolerated is 0"]),
        ({"accuracy": 0.952}, {"accuracy": 0.002}, []),  # 0.952 - 0.95 is 0.0020000000000000018
        ({"accuracy": 0.953}, {"accuracy": 0.002}, ["accuracy fell from 0.953 to 0.95, tolerated is 0.002"]),
        ({"accuracy": 0.9}, {}, []),
        ({"size_mb": 0.1}, {}, ["size_mb rose from 0.1 to 0.2, tolerated is 0"]),
        ({"size_mb": 0.1}, {"accuracy": 0}, []),
        ({"size_ratio": 9.0, "accuracy_drop": 0.0}, {"size_ratio": 0.5, "accuracy_drop": 0.5},
         ["size_ratio fell from 9 to 8, tolerated is 0.5"]),
    ],
)  # fmt: skip
def test_regressions(then, tolerances, expected):
    assert list(regressions(NOW, NOW | then, tolerances)) == expected


def test_a_tolerance_for_a_number_that_is_not_in_both_is_refused():
    with pytest.raises(UsageError, match=r"unknown metric 'agreement'\. Choices: accuracy, accuracy_drop, size_mb"):
        regressions(NOW, NOW | {"agreement": 1.0}, {"agreement": 0.1})


def test_metrics_of_two_targets_are_not_compared():
    one, other = ({"made_for": target, "size_mb": 0.2} for target in ("iOS17", "onnxruntime"))
    with pytest.raises(UsageError, match=r"these metrics are of iOS17, those to compare with of onnxruntime: "):
        regressions(one, other, {})
    assert regressions(one, {"size_mb": 0.2}, {}) == ()  # written before they named their target
    assert regressions(one, one, {}) == ()
