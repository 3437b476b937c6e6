"""What a shell and its user see: completion, examples, one spelling of placeholders, no colour where none is wanted."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import typer.main

from compressor import native
from compressor.stages import app, examples

PLACEHOLDERS = {
    *("A", "ARTEFACT", "B", "DIR", "FILE", "METRICS", "MODEL", "OUT_DIR"),
    *("AMOUNT", "KEY=VALUE", "MODULE:FUNCTION", "N", "NAME", "NAME=AMOUNT", "NAME=DTYPE[SIZES]", "REV", "TEXT"),
}
GROUP = typer.main.get_command(app.app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_it_understands(name):
    command = COMMANDS[name]
    lines = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
    assert lines, "its docstring has no section Examples:"
    for line in lines:
        assert len(line) <= 76
        called, *arguments = examples.arguments(line)
        assert called == name
        command.make_context(name, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_for_a_value_has_one_spelling(name):
    shown = [one for one in COMMANDS[name].params if not getattr(one, "is_flag", False)]
    spelled = {part for one in shown for part in str(one.metavar).split("|")}
    assert {part for part in spelled if part.upper() == part} <= PLACEHOLDERS  # others are to be typed as they are
    said = examples.split(COMMANDS[name].callback)[0]
    assert {word for word in re.findall(r"\b[A-Z]{4,}\b", said) if word in PLACEHOLDERS} <= spelled
    assert all(one.help for one in COMMANDS[name].params)


def test_it_runs_as_a_module():
    said = subprocess.run([sys.executable, "-m", "compressor", "--version"], capture_output=True, text=True)
    version = f"compressor {metadata.version('compressor')}\n{native.described()}\n"
    assert (said.returncode, said.stdout) == (0, version)
    said = subprocess.run([sys.executable, "-m", "compressor", "targets", "x"], capture_output=True, text=True)
    assert said.stderr.startswith("Usage: compressor targets [OPTIONS]\n")


def offered(shell, line, **environment):
    asked = {app.COMPLETION: f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line} | environment
    command = [sys.executable, "-m", "compressor"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | asked).stdout


FISH = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("compressor comp", ["compress"]),
        ("compressor compress m.onnx out --pipe", ["--pipeline"]),
        ("compressor compress m.onnx out --pipeline default_p", ["default_palettization", "default_pruning"]),
        ("compressor compress m.onnx out --target iOS1", ["iOS16", "iOS17", "iOS18"]),
        ("compressor compress mod", []),  # the shell's own: files
        (
            "compressor check --",
            ["--against", "--allow-missing", "--format", "--help", "--json", "--params", "--set", "--tol"],
        ),
    ],
)
def test_what_is_offered(line, expected):
    found = offered("fish", line, **FISH).strip().splitlines()
    assert sorted(item.partition("\t")[0] for item in found) == expected  # an item a line, however long its help is


def test_revisions_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "compressor check --against v"
    assert offered("fish", line, **FISH) == "\n"  # there is no repository
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init"], [*identity, "commit", "--allow-empty", "-m", "x"], ["tag", "v1"]):
        subprocess.run(["git", *arguments], check=True, capture_output=True)
    assert offered("fish", line, **FISH) == "v1\n"
    (tmp_path / "v1.onnx").touch()
    assert offered("fish", "compressor diff v", **FISH) == "v1\nv1.onnx\n"
    assert offered("fish", "compressor diff ", **FISH) == "\n"  # files, as the shell has them


def test_zsh_is_told_what_each_is_for():
    assert '"compress":"Write MODEL in its smallest exact form."' in offered("zsh", "compressor comp")


@pytest.mark.parametrize(
    ("shell", "asking"),
    [
        ("bash", "COMP_WORDS=(compressor comp); COMP_CWORD=1; _compressor_completion compressor; echo ${COMPREPLY[@]}"),
        ("fish", "complete -C 'compressor comp' | string replace --regex '\\t.*' ''"),
    ],
)
def test_in_the_shell_itself(shell, asking, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    (tmp_path / "compressor").write_text(f"#!{sys.executable}\nfrom compressor.stages.app import main\nmain()\n")
    (tmp_path / "compressor").chmod(0o755)
    here = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    asked = here | {app.COMPLETION: f"source_{shell}"}
    script = subprocess.run(["compressor"], capture_output=True, text=True, env=asked).stdout
    said = subprocess.run([shell, "-c", f"{script}\n{asking}"], capture_output=True, text=True, env=here)
    assert (said.stdout, said.stderr) == ("compress\n", "")


@pytest.mark.parametrize(("variables", "colours"), [({}, 1), ({"NO_COLOR": "1"}, 0)])
def test_no_colour_where_none_is_wanted(variables, colours):
    pty = pytest.importorskip("pty")
    own, other = pty.openpty()
    program = "from rich.text import Text; from compressor.stages import display; display.show(Text('x', 'yellow'))"
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    subprocess.run([sys.executable, "-c", program], stdout=other, env=clean | {"TERM": "xterm-256color"} | variables)
    assert os.read(own, 1000).count(b"\x1b[33m") == colours
