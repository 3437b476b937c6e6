"""Progress in a log: a line a phase, then signs of life."""

import time

import pytest

from compressor.stages import progress


def test_a_log_gets_a_line_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown() as report:
        for done in range(0, 1001, 10):
            report("detect", done, 1000)
        report("compress", 0, 2_500_000)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "detect: 1.00 kB\ncompress: 2.50 MB\n"


def test_a_long_phase_shows_life(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress.shown() as report:
        for done in (0, 25, 50, 75, 100):
            report("verify", done, 100)
    assert capsys.readouterr().err.splitlines() == ["verify: 100 B", "verify: 50%", "verify: 100%"]


def test_what_is_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("runs") as report:
        report("latency", 1, 1055)
    assert capsys.readouterr().err == "latency: 1,055 runs\n"


def test_what_takes_an_unknown_time_is_shown_to_people_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.waiting() as begun:
        begun("graph")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich looks for a terminal by itself
    with progress.waiting() as begun:
        begun("graph")
        time.sleep(0.2)
    assert "graph" in capsys.readouterr().err
