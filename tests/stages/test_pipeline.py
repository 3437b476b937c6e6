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
READS: dict[str, type[Group]] = {
    "export": ExportParams,
    "detect": DetectParams,
    "compress": CompressParams,
    "evaluate": EvaluateParams,
}


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return content


@pytest.mark.parametrize("stage", READS)
def test_a_stage_declares_the_groups_that_its_command_reads(stages: dict[str, Any], stage: str) -> None:
    declared = {entry for entry in stages[stage]["params"] if isinstance(entry, str)}
    assert declared == set(READS[stage].model_fields)


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
    command = stages[stage]["cmd"]
    assert re.fullmatch(r"[\w./ -]+", command)  # no shell's language: it runs on any system
    words = shlex.split(command)
    assert words[:2] == ["compressor", stage]
    kinds = ("outs", "metrics", "plots")
    entries = [entry for kind in kinds for entry in stages[stage].get(kind, ())]
    written = {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}
    known = written | set(stages[stage]["deps"]) | {str(Path(path).parent.as_posix()) for path in written}
    assert {word for word in words[2:] if "/" in word} <= known
    for path in written:
        assert {path, Path(path).parent.as_posix()} & set(words), path


def test_params_yaml_is_valid_and_whole() -> None:
    """`dvc repro` fails on a group that is missing."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    load(Settings, Given(ROOT / "params.yaml"))
    assert set(Settings.model_fields) <= set(YAML(typ="safe").load(text))
