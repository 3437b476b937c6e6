"""dvc.yaml against the commands: what a stage reads is what it declares, and nothing else."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from compressor.stages.params import (
    CompressParams,
    DetectParams,
    EvaluateParams,
    ExportParams,
    Given,
    Group,
    Settings,
    load,
)
from compressor.stages.toolchain import FILE, used_by

ROOT = Path(__file__).parents[2]
SEVERAL = ROOT / "docs" / "metrics.md"
READS: dict[str, type[Group]] = {
    "export": ExportParams,
    "detect": DetectParams,
    "compress": CompressParams,
    "evaluate": EvaluateParams,
}


@pytest.fixture(scope="module", params=["one target", "several"])
def stages(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The stages for one target; those for several have the two stages of the documentation in place of theirs."""
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    if request.param == "several":
        (text,) = re.findall("```yaml\n(stages:\n.*?)```", SEVERAL.read_text(encoding="utf-8"), re.DOTALL)
        several = YAML(typ="safe").load(text)["stages"]
        assert set(several) == {"compress", "evaluate"}
        content |= several
    return content


@pytest.mark.parametrize("stage", READS)
def test_a_stage_declares_the_groups_that_its_command_reads(stages: dict[str, Any], stage: str) -> None:
    """With --target neither `target` nor `targets` changes what it does: a new target reruns no other one's stages."""
    declared = {entry for entry in stages[stage]["params"] if isinstance(entry, str)}
    named = {"target", "targets"} if "--target" in stages[stage]["cmd"] else {"targets"}
    assert declared == set(READS[stage].model_fields) - named


@pytest.mark.parametrize("stage", ["compress", "evaluate"])
def test_a_stage_of_a_matrix_makes_one_of_the_targets(stages: dict[str, Any], stage: str) -> None:
    several = "matrix" in stages[stage]
    assert stages[stage].get("matrix", {"target": "${targets}"}) == {"target": "${targets}"}
    assert ("--target ${item.target}" in stages[stage]["cmd"]) == several
    assert all(("TARGET" in path) == several for path in _written(stages[stage]))


@pytest.mark.parametrize("stage", READS)
def test_a_stage_declares_the_packages_that_shape_its_output(stages: dict[str, Any], stage: str) -> None:
    declared = next(entry for entry in stages[stage]["params"] if isinstance(entry, dict))
    assert {key: set(packages) for key, packages in declared.items()} == {FILE.as_posix(): used_by()[stage]}


def test_compress_takes_what_detect_found(stages: dict[str, Any]) -> None:
    """Without --detection the command would read the group `detect`, which its stage does not declare."""
    command = shlex.split(stages["compress"]["cmd"])
    assert command[command.index("--detection") + 1] in stages["compress"]["deps"]


@pytest.mark.parametrize("stage", [*READS, "toolchain"])
def test_a_stage_writes_what_it_declares_and_reads_its_dependencies(stages: dict[str, Any], stage: str) -> None:
    command = stages[stage]["cmd"].replace("${item.target}", "TARGET")
    assert re.fullmatch(r"[\w./ -]+", command)  # no shell's language: it runs on any system
    words = shlex.split(command)
    assert words[:2] == ["compressor", stage]
    written = _written(stages[stage])
    known = written | set(map(_path, stages[stage]["deps"])) | {str(Path(path).parent.as_posix()) for path in written}
    assert {word for word in words[2:] if "/" in word} <= known
    for path in written:
        assert {path, Path(path).parent.as_posix()} & set(words), path


def _path(entry: Any) -> str:
    """Of a dependency or an output, which may have settings, for one of the targets."""
    path: str = next(iter(entry)) if isinstance(entry, dict) else entry
    return path.replace("${item.target}", "TARGET")


def _written(stage: dict[str, Any]) -> set[str]:
    return {_path(entry) for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, ())}


def test_params_yaml_is_valid_and_whole() -> None:
    """`dvc repro` fails on a group that is missing."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    load(Settings, Given(ROOT / "params.yaml"))
    assert set(Settings.model_fields) - {"targets"} <= set(YAML(typ="safe").load(text))
