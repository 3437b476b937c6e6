"""`compressor check` in real git repositories."""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressor.stages.app import app

GOOD = {"accuracy": 0.96, "accuracy_drop": 0.001, "size_mb": 0.2, "size_ratio": 7.64, "passed": True}
LIMITS = "evaluate:\n  limits: {accuracy_drop: 0.01, size_ratio: 4}\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(*arguments, now=GOOD):
    file = Path("compression/metrics.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(now if isinstance(now, str) else json.dumps(now))
    result = CliRunner().invoke(app, ["check", *arguments])
    return result.exit_code, result.output


def git(*arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def committed():
    """The metrics of `GOOD` at the tag `good`."""
    check()
    git("init")
    git("add", ".")
    git("commit", "-m", "good")
    git("tag", "good")


def test_good_metrics():
    Path("params.yaml").write_text(LIMITS)
    assert check() == (0, "compression/metrics.json keeps every limit\n")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"accuracy_drop": 0.02}, "accuracy_drop is 0.02, the limit is at most 0.01"),
        ({"size_ratio": 3.9}, "size_ratio is 3.9, the limit is at least 4"),
        ({"accuracy_drop": None}, "accuracy_drop is not known, the limit is at most 0.01"),
        ({"passed": False}, "passed is false: a limit was broken that was set when it was measured"),
    ],
)
def test_a_broken_limit_is_named(now, expected):
    Path("params.yaml").write_text(LIMITS)
    assert check(now=GOOD | now) == (1, f"error: compression/metrics.json: {expected}\n")


def test_a_limit_on_the_command_line():
    status, text = check("-S", "evaluate.limits.size_mb=0.1")
    assert (status, text) == (1, "error: compression/metrics.json: size_mb is 0.2, the limit is at most 0.1\n")


@pytest.mark.parametrize(
    ("now", "arguments", "status"),
    [
        ({}, [], 0),
        ({"accuracy": 0.959}, [], 1),
        ({"accuracy": 0.958}, ["--tol", "accuracy=0.002"], 0),
        ({"accuracy": 0.9579}, ["--tol", "accuracy=0.002"], 1),
        ({"accuracy": 0.958, "size_mb": 0.3}, ["--tol", "accuracy=0.002", "--tol", "size_mb=0.05"], 1),
        ({"size_mb": 0.3}, ["--tol", "accuracy=0.002"], 0),
    ],
)
@pytest.mark.usefixtures("committed")
def test_against_a_revision(now, arguments, status):
    assert check("--against", "good", *arguments, now=GOOD | now)[0] == status


@pytest.mark.usefixtures("committed")
def test_json_lists_all_failures():
    status, text = check("--json", "--against", "HEAD", now=GOOD | {"accuracy": 0.95, "size_mb": 0.3})
    document, _, _ = text.partition("error:")
    assert status == 1
    failures = ["accuracy fell from 0.96 to 0.95, tolerated is 0", "size_mb rose from 0.2 to 0.3, tolerated is 0"]
    assert json.loads(document) == {
        "ok": False,
        "failures": failures,
        "files": {"compression/metrics.json": failures},
    }


@pytest.mark.usefixtures("committed")
def test_the_revision_is_read_from_any_folder(monkeypatch):
    monkeypatch.chdir("compression")
    assert CliRunner().invoke(app, ["check", "metrics.json", "--against", "good"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--against", "godo"], "no revision 'godo'. Did you mean 'good'?"),
        (["--against", "--help"], "no revision '--help'. Branches, tags and experiments: main, good."),
        (["--tol", "accuracy=0.1"], "--tol is for a comparison: name a revision with --against."),
        (["--against", "good", "--tol", "accuracy"], "--tol accuracy: expected a name and an amount"),
        (["--against", "good", "--tol", "accuracy=-1"], "--tol accuracy=-1: expected an amount of 0 or more"),
        (["--against", "good", "--tol", "acuracy=0"], "unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (["-S", "evaluate.limits.acuracy=0"], "unknown limit 'acuracy'. Did you mean 'accuracy'?"),
    ],
)
@pytest.mark.usefixtures("committed")
def test_a_wrong_request(arguments, expected):
    status, text = check(*arguments)
    assert status == 2
    assert expected in text


def test_outside_of_git_there_is_no_revision():
    status, text = check("--against", "HEAD")
    assert status == 2
    assert "not a git repository" in text


FOREIGN = "not what `compressor evaluate` writes: expected size_mb, passed and others, got "


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "expected the metrics by name"),
        ("{}", f"{FOREIGN}nothing."),
        ({"auc": 0.9, "loss": 0.2, "epoch": 3, "lr": 1}, f"{FOREIGN}auc, loss, epoch, ...."),
        ({"train": {"passed": True}, "size_mb": 1}, f"{FOREIGN}train, size_mb."),
    ],
)
def test_what_is_not_ours_is_judged_in_no_way(now, expected):
    status, text = check(now=now)
    assert (status, text.count("\n")) == (2, 1)
    assert text.startswith("error: compression/metrics.json: ")
    assert expected in text


def test_what_is_not_ours_at_the_revision(committed):
    check(now={"auc": 0.9})
    git("commit", "-am", "another tool's")
    status, text = check("--against", "HEAD")
    assert (status, text.count("\n")) == (2, 1)
    assert f"error: HEAD:compression/metrics.json: {FOREIGN}auc." in text


def test_missing_metrics():
    result = CliRunner().invoke(app, ["check", "nowhere.json"])
    expected = "nowhere.json: no such file. `dvc repro` writes it, or `compressor evaluate --out nowhere.json`."
    assert (result.exit_code, result.output) == (2, f"error: {expected}\n")


@pytest.mark.parametrize("number", ["1" * 5000, "1e999", "NaN"])
def test_a_number_of_any_size(number):
    status, text = check("-S", "evaluate.limits.size_mb=1", now=json.dumps(GOOD).replace("0.2", number))
    assert status == 1
    assert "size_mb is " in text


def test_metrics_that_the_revision_does_not_have(committed):
    git("rm", "--cached", "compression/metrics.json")
    git("commit", "-m", "none")
    status, text = check("--against", "HEAD")
    assert (status, text.count("\n")) == (2, 1)
    assert text.startswith("error: HEAD has no compression/metrics.json to compare with. ")
    passed = "compression/metrics.json passed when it was measured (no limits are set here)"
    assert check("--against", "HEAD", "--allow-missing") == (0, f"{passed}; HEAD has none to compare with\n")
    note = "::notice::HEAD has no compression/metrics.json: only the limits were checked"
    assert note in check("--against", "HEAD", "--allow-missing", "--format", "github")[1]
    # A revision that is not there is a slip, whatever may be missing at it.
    assert check("--against", "HAED", "--allow-missing")[0] == 2


def several(**changes):
    for name, change in changes.items():
        file = Path("compression", name, "metrics.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(GOOD | {"made_for": name} | change))


def test_every_target_is_judged_without_being_named():
    several(iOS17={"size_ratio": 3}, onnxruntime={})
    Path("params.yaml").write_text(LIMITS)
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 1
    assert result.stdout == "compression/onnxruntime/metrics.json keeps every limit\n"
    assert result.stderr == "error: compression/iOS17/metrics.json: size_ratio is 3, the limit is at least 4\n"
    document = json.loads(CliRunner().invoke(app, ["check", "--json"]).stdout)
    assert document["files"] == {
        "compression/iOS17/metrics.json": ["size_ratio is 3, the limit is at least 4"],
        "compression/onnxruntime/metrics.json": [],
    }


def test_the_targets_of_the_settings_must_all_be_there():
    """What an earlier pipeline left is none of them."""
    check()
    several(iOS17={}, tvOS18={"passed": False})
    Path("params.yaml").write_text(f"targets: [iOS17, onnxruntime]\n{LIMITS}")
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 2
    assert "compression/onnxruntime/metrics.json: no such file" in result.output
    several(onnxruntime={})
    assert CliRunner().invoke(app, ["check"]).exit_code == 0


def test_only_metrics_of_one_target_are_compared(committed):
    check(now=GOOD | {"made_for": "iOS17"})
    git("commit", "-am", "a target")
    status, text = check("--against", "HEAD", now=GOOD | {"made_for": "iOS18"})
    assert (status, text.count("\n")) == (2, 1)
    assert "these metrics are of iOS18, those to compare with of iOS17" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--format", "xml"], "unknown format 'xml'. Choices: github, json, text."),
        (["--format", "github", "--json"], "--json and --format github exclude each other."),
        (["--allow-missing"], "--allow-missing is for a comparison: name a revision with --against."),
    ],
)
def test_a_wrong_format(arguments, expected):
    status, text = check(*arguments)
    assert (status, text) == (2, f"error: {expected}\n")


ANNOTATED = """evaluate:
  # 50%, of it all
  limits:
    accuracy_drop: 0.01
    size_ratio: 4
"""


@pytest.mark.parametrize(
    ("now", "arguments", "status", "expected"),
    [
        ({}, [], 0, "{m} keeps every limit, and is not worse than at HEAD"),
        (
            {"size_ratio": 3.9, "accuracy": 0.9},
            [],
            1,
            """::error file=sub/params.yaml,line=5::{m}: size_ratio is 3.9, the limit is at least 4
::error file=sub/{m},line=2::{m}: accuracy fell from 0.96 to 0.9, tolerated is 0
::error file=sub/{m},line=5::{m}: size_ratio fell from 7.64 to 3.9, tolerated is 0""",
        ),
        (
            {"size_ratio": 7.64},
            ["-S", "evaluate.limits={size_mb: 0.1}"],  # what -S says stands in no file
            1,
            "::error file=sub/{m},line=4::{m}: size_mb is 0.2, the limit is at most 0.1",
        ),
        ({"passed": 1}, [], 2, f"::error::{{m}}: {FOREIGN}accuracy, accuracy_drop, size_mb, ...."),
        ({}, ["--tol", "size=50%"], 2, "::error::--tol size=50%25: expected a name and an amount"),
    ],
)
def test_annotations_for_github(tmp_path, monkeypatch, now, arguments, status, expected):
    """In a folder of a repository, whose top is what GitHub calls paths from."""
    git("init")
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    Path("params.yaml").write_text(ANNOTATED)
    check(now=json.dumps(GOOD, indent=2))
    git("add", ".")
    git("commit", "-m", "good")
    found, text = check("--against", "HEAD", "--format", "github", *arguments, now=json.dumps(GOOD | now, indent=2))
    assert found == status
    assert text.startswith(expected.replace("{m}", "compression/metrics.json"))
    assert text.count("\n") == expected.count("\n") + 1  # nothing is said twice


def test_a_name_cannot_command_the_runner():
    several(**{"a\n::stop-commands::x": {"passed": False}})
    result = CliRunner().invoke(app, ["check", "--format", "github"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("::error file=compression/a%0A%3A%3Astop-commands%3A%3Ax/metrics.json,line=1::")
