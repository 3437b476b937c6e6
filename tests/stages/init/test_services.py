"""`compressor init --ci`: a file of its own, or what is new in one that has others' jobs."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

OTHERS = """\
stages: [test, deploy]

.common: &common
  image: python:3.12  # ours
  script:
    - !reference [.setup, script]

unit:
  <<: *common
  rules:
    - if: !reference [.main, rule]
"""


def jobs(text: str) -> list[str]:
    """The keys at the top."""
    return [line.partition(":")[0] for line in text.splitlines() if line and line[0] not in " #-"]


def test_github_has_a_file_for_each_project(folder, run):
    (folder / "text").mkdir()
    (folder / "text" / "dvc.yaml").write_text((folder / "dvc.yaml").read_text())
    (folder / "text" / "params.yaml").write_text("evaluate: {batch: 3}\n")
    for project in (".", "text"):
        run(project, "--data", "none", "--ci", "github")
    written = {path.name: path.read_text() for path in (folder / ".github" / "workflows").iterdir()}
    assert set(written) == {"compressor.yml", "compressor-text.yml"}
    first, second = (YAML(typ="safe").load(written[name]) for name in ("compressor.yml", "compressor-text.yml"))
    assert first["concurrency"]["group"] != second["concurrency"]["group"]
    assert second["jobs"]["compressor"]["defaults"]["run"]["working-directory"] == "text"
    assert "compressor check --params compressor.yaml --against" in written["compressor-text.yml"]
    assert "%{" not in "".join(written.values())
    assert "nothing to add" in run("text", "--ci", "github")


def test_an_edited_workflow_is_kept(folder, run):
    run("--data", "none", "--ci", "github")
    path = folder / ".github" / "workflows" / "compressor.yml"
    path.write_text(path.read_text().replace("timeout-minutes: 60", "timeout-minutes: 90"))
    said = run("--ci", "github")
    assert "-    timeout-minutes: 90\n+    timeout-minutes: 60" in said
    assert "timeout-minutes: 90" in path.read_text()


@pytest.mark.parametrize("others", [None, OTHERS, OTHERS.replace("\n", "\r\n")])
def test_gitlab_has_one_file_for_all(folder, run, others):
    path = folder / ".gitlab-ci.yml"
    if others is not None:
        path.write_bytes(others.encode())
    (folder / "text").mkdir()
    (folder / "text" / "dvc.yaml").write_text((folder / "dvc.yaml").read_text())
    for project in (".", "text"):
        run(project, "--data", "none", "--ci", "gitlab")
    text = path.read_bytes().decode()
    assert text.startswith(others or "")
    own = ["compressor", "compressor-comment", "compressor-text", "compressor-text-comment"]
    assert jobs(text) == [*jobs(others or ""), *own]
    assert "nothing to add" in run("text", "--ci", "gitlab")
