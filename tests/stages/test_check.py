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
        ({"passed": False}, "passed is false: a limit was broken that held when it was written"),
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
    assert json.loads(document) == {
        "ok": False,
        "failures": ["accuracy fell from 0.96 to 0.95, tolerated is 0", "size_mb rose from 0.2 to 0.3, tolerated is 0"],
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


@pytest.mark.parametrize(("now", "expected"), [("{", "not valid JSON"), ("[]", "expected the metrics by name")])
def test_damaged_metrics(now, expected):
    status, text = check(now=now)
    assert status == 1
    assert expected in text


def test_missing_metrics():
    result = CliRunner().invoke(app, ["check", "nowhere.json"])
    assert (result.exit_code, result.output) == (1, "error: nowhere.json: cannot be read: No such file or directory.\n")
