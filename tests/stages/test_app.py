"""How a command ends: its exit status, its one line on stderr, and what it leaves behind."""

import errno
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from compressor.errors import CompressorError, UsageError
from compressor.stages import app

COMMANDS = {"export", "detect", "compress", "evaluate", "check", "inspect", "targets", "toolchain"}
HEAVY = {"torch", "onnx", "onnxruntime", "coremltools", "numpy", "pydantic", "sklearn", "ruamel"}


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from compressor.stages.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return app.reported(command)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CompressorError("m.onnx: too short"), 1, "error: m.onnx: too short"),
        (UsageError("unknown target\nunknown key"), 2, "error: unknown target\nerror: unknown key"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/model.onnx"),
            1,
            "error: out/model.onnx: No space left on device",
        ),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was left half-written"),
        (typer.Abort(), 130, "error: interrupted; nothing was left half-written"),
        (
            ValueError("a\nb"),
            70,
            "error: internal error: ValueError: a b. Please report it, with the output of COMPRESSOR_DEBUG=1.",
        ),
        (typer.Exit(5), 5, ""),
    ],
)
def test_an_error_is_a_line_and_an_exit_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        raising(error)()
    assert caught.value.exit_code == status
    said = capsys.readouterr()
    assert (said.out, said.err.strip()) == ("", message)


def test_a_defect_has_its_traceback_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(app.DEBUG, "1")
    with pytest.raises(ValueError, match="defect"):
        raising(ValueError("defect"))()


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from compressor.stages.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: print('IMPORTED', *sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    text, _, imported = said.partition("IMPORTED")
    assert HEAVY & set(imported.split()) == set()
    assert {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()} >= COMMANDS


def test_the_summary_of_every_command_is_whole_at_80_columns() -> None:
    said = CliRunner().invoke(app.app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    assert "..." not in said.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compres"], "No such command 'compres'. Did you mean 'compress'?"),
        (["compress", "m.onnx"], "Missing argument 'OUT_DIR'"),
        (["detect", "m.onnx", "--target", "x"], "No such option: --target"),
        (["detect", "m.onnx", "-S", "detect.threshold"], "-S detect.threshold: expected = and a value after the key"),
        (["detect", "m.onnx", "--params", "absent.yaml"], "error: absent.yaml: cannot be read: No such file"),
        (["detect", "m.onnx", "--plots", "a.png"], "error: a.png: expected a name that ends with .csv or .json"),
        (
            ["compress", "m.onnx", "out", "--pipeline", "x"],
            "error: --pipeline: unknown pipeline 'x'",
        ),
        (["compress", "m.onnx", "out", "--dry-run", "--plots", "a.csv"], "error: --dry-run writes nothing"),
        (["compress", "m.onnx", "out", "--dry-run", "--resume"], "error: --dry-run writes nothing: leave --resume out"),
    ],
)
def test_a_wrong_request(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app.app, arguments)
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-c", "from compressor.stages.app import main; main()", "toolchain", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "toolchain.json"
    out.write_text("old")
    # A limit on the size of files fails a write as a full disk does.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))  # noqa: E731
    ended = run("toolchain", "--out", str(out), preexec_fn=limit)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {out}: cannot be written: File too large.\n"
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("toolchain.json", "old")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_nothing_half_written(tmp_path: Path, number: int, status: int) -> None:
    program = f"""
import time, typer
from pathlib import Path
from compressor.compilation import publish
from compressor.stages import app

def slow() -> None:
    with publish.directory(Path({str(tmp_path / "out")!r})) as directory:
        (directory / "model.onnx").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

app.app.command()(app.reported(slow))
app.main()
"""
    command = [sys.executable, "-c", program, "slow"]
    # A shell starts what runs in its background with interrupts ignored, and so would this be started.
    heard = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,  # noqa: PLW1509 - there are no threads here
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == status
    assert list(tmp_path.iterdir()) == []


def test_toolchain_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "compression" / "toolchain.json"
    ended = CliRunner().invoke(app.app, ["toolchain", "--out", str(out), "--json"])
    assert ended.exit_code == 0
    assert ended.stdout == out.read_text()
    assert json.loads(ended.stdout)["onnx"]


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["check"], {"torch", "onnx", "onnxruntime", "coremltools", "sklearn", "rich"}),
        (["targets"], {"torch", "coremltools", "sklearn"}),  # which opset onnxruntime takes is asked of itself
        (
            "init --model m.pt --factory json:loads --data none --input x=float32[1,3] --dry-run".split(),
            {"torch", "onnxruntime", "coremltools", "sklearn"},
        ),
    ],
)
def test_commands_that_only_look_import_nothing_heavy(
    arguments: list[str], heavy: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = tmp_path / "compression" / "metrics.json"
    metrics.parent.mkdir()
    metrics.write_text('{"accuracy": 0.9, "size_mb": 0.2, "passed": true}')
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    cmd: python train.py\n    outs:\n      - m.pt\n")
    subprocess.run(["git", "init"], check=True, capture_output=True)
    probe = (
        "import sys; from compressor.stages.app import app\n"
        f"try: app({arguments})\n"
        "except SystemExit as ended: print('IMPORTED', ended.code, *sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    status, *imported = said.partition("IMPORTED")[2].split()
    assert (int(status), heavy & set(imported)) == (0, set())
