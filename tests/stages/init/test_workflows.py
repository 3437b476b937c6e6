"""The workflows that init writes: by the services' own schemas, and every line of shell in them run in a clone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import onnx
import pytest
from ruamel.yaml import YAML

from compressor.stages.init import plan, template
from tests.shell import environment

MODEL = """<ir_version: 10, opset_import: ["": 18]> net (float[N,64] x) => (float[N,10] logits)
{ h = MatMul(x, hidden) r = Relu(h) logits = MatMul(r, head) }"""
TOKEN = "glpat-test"  # noqa: S105 - nobody's
SCHEMAS = {
    "github": ("vendor.github-workflows",),
    "gitlab": ("vendor.gitlab-ci", "--data-transform", "gitlab-ci"),
}


@pytest.mark.parametrize("service", SCHEMAS)
@pytest.mark.parametrize(("folder", "lock"), [(".", ()), ("models/a b", ("models/a b/uv.lock",))])
def test_the_services_own_schema_holds(tmp_path: Path, service: str, folder: str, lock: tuple[str, ...]) -> None:
    values = {"folder": folder, "job": "compressor", "options": "", "extras": "dvc,torch", "lock": lock}
    file = tmp_path / "workflow.yml"
    file.write_text(template.render(template.read(f"{service}.yml"), values))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *SCHEMAS[service], str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {"github": "jobs", "gitlab": None}[service]
    content = YAML(typ="safe").load(file)
    assert set(content[names] if names else content) >= {"compressor"}


def test_what_runs_foreign_code_may_write_nothing() -> None:
    content = YAML(typ="safe").load(re.sub(r"%\{(\w+)\}", r"\1", template.read("github.yml")))
    assert content["permissions"] == {"contents": "read"}
    assert "permissions" not in content["jobs"]["compressor"]
    assert content["jobs"]["comment"]["permissions"] == {"pull-requests": "write"}
    steps = content["jobs"]["compressor"]["steps"]
    assert steps[0]["with"]["persist-credentials"] is False
    assert "secrets." not in json.dumps(content)
    # A version can be moved to other code, a commit cannot.
    assert [one["uses"] for one in steps if "uses" in one and not re.search(r"@[0-9a-f]{40}$", one["uses"])] == []
    # What a request brings is text to the shell, never a part of a script.
    assert "${{" not in "".join(one.get("run", "") for job in content["jobs"].values() for one in job["steps"])


@pytest.mark.parametrize("service", SCHEMAS)
@pytest.mark.parametrize(
    ("lock", "expected"),
    [
        ("", "compressor[dvc]"),
        ("a b/constraints.txt", "--constraint|a b/constraints.txt|compressor[dvc]"),
        ("requirements.txt", "--requirement|requirements.txt|compressor[dvc]"),
        ("net/pyproject.toml", "net|compressor[dvc]"),
        ("uv.lock", "uv|.|compressor[dvc]"),
        ("environment.yml", "compressor[dvc]"),
        ("pixi.lock", "compressor[dvc]"),
    ],
)
def test_what_is_installed(service: str, lock: str, expected: str) -> None:
    values = {"folder": ".", "job": "x", "options": "", "extras": "dvc", "lock": (lock,) if lock else ()}
    content = YAML(typ="safe").load(template.render(template.read(f"{service}.yml"), values))
    job = content["jobs"]["compressor"] if service == "github" else content["x"]
    variables = job["env" if service == "github" else "variables"]
    typed = next(one["run"] for one in job["steps"] if "run" in one) if service == "github" else job["script"][0]
    program = f"python() {{ IFS='|'; echo \"$*\"; }}\n{typed}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", program], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"-m|pip|install|{expected}\n")


@dataclass(frozen=True)
class Shell:
    """A folder in which commands run as on a machine of its own.

    more: variables beside those of a user who is called tester.
    """

    path: Path
    more: Mapping[str, str] = field(default_factory=dict)

    def end(self, *command: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        variables = environment(self.path.parent)
        path = f"{self.more['BIN']}:{variables['PATH']}" if "BIN" in self.more else variables["PATH"]
        return subprocess.run(
            command,
            cwd=self.path / folder,
            env=variables | self.more | {"PATH": path, "PIP_NO_INDEX": "1"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *command: str, folder: str = ".") -> str:
        done = self.end(*command, folder=folder)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A project in a folder of a repository, after a first run that Git's and DVC's remotes have."""
    top = tmp_path_factory.mktemp("service")
    shell = Shell(top / "author")
    net = shell.path / "net"
    net.mkdir(parents=True)
    random = np.random.default_rng(0)
    hidden = (random.choice([-0.5, -0.25, 0.25, 0.5], (64, 96)) * (random.random((64, 96)) < 0.25)).astype(np.float32)
    head = random.standard_normal((96, 10), np.float32)
    model = onnx.parser.parse_model(MODEL)
    for name, weight in {"hidden": hidden, "head": head}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, net / "trained.onnx")
    x = random.standard_normal((100, 64), np.float32)
    np.savez(net / "data.npz", x=x, labels=(np.maximum(x @ hidden, 0) @ head).argmax(1))
    (net / "constraints.txt").touch()
    shell.run("git", "init")
    shell.run("git", "init", "--bare", str(top / "origin"))
    shell.run("git", "remote", "add", "origin", str(top / "origin"))
    shell.run("dvc", "init", "--subdir", folder="net")
    shell.run("dvc", "remote", "add", "--default", "store", str(top / "store"), folder="net")
    for service in SCHEMAS:
        shell.run("compressor", "init", "net", "--model", "trained.onnx", "--data", "data.npz", "--ci", service)
    shell.run("dvc", "repro", folder="net")
    shell.run("git", "add", ".")
    shell.run("git", "commit", "-m", "first")
    shell.run("git", "push", "origin", "main")
    shell.run("dvc", "push", "--run-cache", folder="net")
    return shell


def proposed(author: Shell, branch: str, old: str, new: str) -> Shell:
    """A fresh clone, with a branch checked out on which a setting is another."""
    file = author.path / "net" / "params.yaml"
    author.run("git", "checkout", "-B", branch, "main")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    author.run("git", "commit", "-am", branch)
    author.run("git", "push", "origin", branch)
    clone = author.path.parent / branch
    author.run("git", "clone", str(author.path.parent / "origin"), str(clone))
    runner = Shell(clone)
    runner.run("git", "checkout", branch)
    return runner


def ran(text: str) -> list[str]:
    """The stages that dvc ran."""
    return re.findall(r"Running stage '(\w+)'", text)


# `gh api` for a pull request whose comments are lines of a file.
GH = r"""#!{python}
import json, os, subprocess, sys
arguments, file = sys.argv[1:], os.environ["COMMENTED"]
comments = json.load(open(file))
assert arguments.pop(0) == "api" and os.environ["GH_TOKEN"] == "token"
for flag in ("--silent", "--paginate"):
    if flag in arguments:
        arguments.remove(flag)
given = {{}}
while len(arguments) > 1:
    at = next(i for i, one in enumerate(arguments) if one.startswith("--"))
    given[arguments[at]] = arguments[at + 1]
    del arguments[at : at + 2]
(path,) = arguments
if given.get("--method") is None:
    assert path == "repos/o/r/issues/7/comments"
    out = subprocess.run(["jq", "-r", given["--jq"]], input=json.dumps(comments), text=True, stdout=-1, check=True)
    print(out.stdout, end="")
    sys.exit()
name, _, value = given["--field"].partition("=@")
assert name == "body"
body, login = open(value).read(), "github-actions[bot]"
if given["--method"] == "POST":
    assert path == "repos/o/r/issues/7/comments"
    comments.append({{"id": len(comments) + 1, "user": {{"login": login}}, "body": body}})
else:
    assert given["--method"] == "PATCH"
    place, _, number = path.rpartition("/")
    assert place == "repos/o/r/issues/comments"
    comments[int(number) - 1]["body"] = body
json.dump(comments, open(file, "w"))
"""


@dataclass(frozen=True)
class Job:
    """A job of GitHub's as a runner runs it: expressions filled in, steps in order, the first failure ends it."""

    content: Mapping[str, Any]
    runner: Shell
    known: Mapping[str, str]
    outcomes: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def run(self) -> int:
        for step in self.content["steps"]:
            if "run" not in step:
                continue
            variables = self.content.get("env", {}) | step.get("env", {})
            shell = Shell(
                self.runner.path, self.runner.more | {name: self._filled(value) for name, value in variables.items()}
            )
            default = self.content.get("defaults", {"run": {"working-directory": "."}})["run"]
            script = self.runner.path.parent / "script.sh"
            script.write_text(self._filled(step["run"]))
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
            done = shell.end(*command, folder=step.get("working-directory", default["working-directory"]))
            self.outcomes[step["name"]] = done
            if done.returncode and not step.get("continue-on-error"):
                return done.returncode
        return 0

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self.known[found[1]], text)


@pytest.mark.skipif(not Path("/usr/bin/jq").exists(), reason="gh has a jq inside, this stand-in has not")
def test_a_pull_request_at_github(author: Shell) -> None:
    clone = proposed(author, "pruning", "pipeline: auto", "pipeline: default_pruning")
    place = author.path.parent / "github"
    place.mkdir()
    (place / "gh").write_text(GH.format(python=sys.executable))
    (place / "gh").chmod(0o755)
    mark = "<!-- compressor: net -->"
    others = [{"id": 1, "user": {"login": "reader"}, "body": mark}, {"id": 2, "user": {"login": "x"}, "body": "Hm"}]
    (place / "comments.json").write_text(json.dumps(others))
    variables = {
        "BIN": str(place),
        "COMMENTED": str(place / "comments.json"),
        "GITHUB_BASE_REF": "main",
        "GITHUB_OUTPUT": str(place / "output"),
        "GITHUB_STEP_SUMMARY": str(place / "summary.md"),
        "GITHUB_WORKSPACE": str(clone.path),
        "RUNNER_TEMP": str(place),
    }
    content = YAML(typ="safe").load(clone.path / plan.WORKFLOWS["github"].format(job="compressor-net"))["jobs"]

    measured = Job(content["compressor"], Shell(clone.path, variables), {})
    assert measured.run() == 1
    assert list(measured.outcomes) == ["Install", "Pull", "Run the pipeline", "Report", "Check"]
    assert ran(measured.outcomes["Run the pipeline"].stdout) == ["compress", "evaluate"]
    check = measured.outcomes["Check"]
    assert check.stderr == ""
    number = r"::error file=net/compression/metrics.json,line=\d+::compression/metrics.json: "
    assert re.fullmatch(rf"({number}\w+ (rose|fell) from \S+ to \S+, tolerated is 0\n)+", check.stdout)
    assert "size_ratio fell from" in check.stdout

    report = (place / "report.md").read_text()
    assert (place / "summary.md").read_text() == report
    assert re.search(r"\| metric \| origin/main .*\*\*worse\*\*", report, re.DOTALL)
    output = re.fullmatch(r"report<<([0-9a-f]{32})\n(.*)\n\1\n", (place / "output").read_text(), re.DOTALL)
    assert output
    assert output[2].rstrip() == report.rstrip()
    known = {
        "github.token": "token",
        "github.repository": "o/r",
        "github.event.pull_request.number": "7",
        "needs.compressor.outputs.report": output[2],
    }
    for text in (output[2], "Another report."):
        comment = Job(content["comment"], Shell(place, variables), known | {"needs.compressor.outputs.report": text})
        assert comment.run() == 0, comment.outcomes
    said = json.loads((place / "comments.json").read_text())
    assert said[:2] == others
    assert [one["body"] for one in said[2:]] == [f"{mark}\nAnother report.\n"]


class Notes(BaseHTTPRequestHandler):
    """The notes of a merge request, by GitLab's REST interface."""

    notes: list[dict[str, Any]]
    path_of_all = "/api/v4/projects/5/merge_requests/9/notes"

    def do_GET(self) -> None:
        assert parse_qs(urlsplit(self.path).query) == {"sort": ["asc"], "per_page": ["100"]}
        self._answer(self.notes if urlsplit(self.path).path == self.path_of_all else None)

    def do_POST(self) -> None:
        self.notes.append({"id": 10 + len(self.notes), "body": self._body()})
        self._answer(self.notes[-1] if self.path == self.path_of_all else None)

    def do_PUT(self) -> None:
        found = next((one for one in self.notes if self.path == f"{self.path_of_all}/{one['id']}"), None)
        if found:
            found["body"] = self._body()
        self._answer(found)

    def _body(self) -> str:
        return parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["body"][0]

    def _answer(self, content: object) -> None:
        self.send_response(200 if content is not None and self.headers["PRIVATE-TOKEN"] == TOKEN else 404)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def notes() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where a merge request has its notes, and these."""
    kept: list[dict[str, Any]] = [{"id": 3, "body": "Hm"}]
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Kept", (Notes,), {"notes": kept})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api/v4", kept
        server.shutdown()
        thread.join()


def script(job: Mapping[str, Any], runner: Shell, **variables: str) -> subprocess.CompletedProcess[str]:
    """A job of GitLab's as a runner runs it: all lines in one shell, which ends with the first that fails."""
    own = {name: value.replace("$CI_PROJECT_DIR", str(runner.path)) for name, value in job["variables"].items()}
    file = runner.path.parent / "job.sh"
    file.write_text("\n".join(job["script"]))
    return Shell(runner.path, own | variables).end("bash", "-eo", "pipefail", str(file))


def test_a_merge_request_at_gitlab(author: Shell, notes: tuple[str, list[dict[str, Any]]]) -> None:
    """Before anything was pushed to a remote of DVC."""
    clone = proposed(author, "batches", "batch_size: 256", "batch_size: 10")
    clone.run("dvc", "remote", "modify", "--local", "store", "url", str(author.path.parent / "empty"), folder="net")
    content = YAML(typ="safe").load(clone.path / plan.WORKFLOWS["gitlab"])
    base = clone.run("git", "merge-base", "origin/main", "HEAD").strip()
    known = {"CI_PROJECT_DIR": str(clone.path), "CI_MERGE_REQUEST_DIFF_BASE_SHA": base}
    done = script(content["compressor-net"], clone, **known)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == ["export", "compress", "evaluate"]  # what the others write is small, and Git has it
    assert "what is missing runs anew" in done.stdout
    assert done.stdout.endswith(f"keeps every limit, and is not worse than at {base}\n")
    assert (clone.path / "report.html").stat().st_size > 1000

    url, kept = notes
    known = {"CI_API_V4_URL": url, "CI_MERGE_REQUEST_PROJECT_ID": "5", "CI_MERGE_REQUEST_IID": "9"}
    known["COMPRESSOR_TOKEN"] = TOKEN
    for text in ((clone.path / "report.md").read_text(), "Another: 100% & more.\n"):
        (clone.path / "report.md").write_text(text)
        done = script(content["compressor-net-comment"], clone, **known)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert kept == [{"id": 3, "body": "Hm"}, {"id": 11, "body": f"<!-- compressor: net -->\n{text}"}]
    assert script(content["compressor-net-comment"], clone, **known | {"COMPRESSOR_TOKEN": "old"}).returncode != 0
