"""What `init` writes: the texts of dvc.yaml, the params file and .gitignore, from values alone."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import merging, template
from .merging import Piece

PARAMS, OWN_PARAMS = "params.yaml", "compressor.yaml"
STAGES = ("toolchain", "export", "detect", "compress", "evaluate")
RECORDS = "compression"
WORKFLOWS = {"github": ".github/workflows/{job}.yml", "gitlab": ".gitlab-ci.yml"}
"""Where each of these services looks for what it shall run, from Git's root."""

NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""What one or another reader of YAML takes for something else."""


@dataclass(frozen=True)
class Plan:
    """What is known of a project and asked of the pipeline. Paths are relative to the project, in POSIX's spelling.

    model: what the training writes.
    factory: `module:function` that builds the module of a state dict; None for what brings its own.
    factory_files, data_files: what the functions of the user are made of.
    inputs: of the model, by name, as the group `export` has them; empty where the model says it.
    axes: the sizes of dynamic axes for Core ML.
    data: `module:function`, a path of an .npz, or empty text.
    metric: by name, or `module:function`; metric_args: its arguments; drop: the limit's name.
    targets: those of the pipeline; matrix: whether its last stages run once a target, which is of use for several.
    prefix: of the stages' names.
    runner: in front of the commands.
    lock: the file that says which packages are installed; None where there is none.
    params: the file with the settings.
    models: the folder of the exported and the compressed model.
    ignored: the lines that .gitignore needs.
    extras: of this package, that the stages need.
    folder: of the project, relative to Git's root.
    """

    model: str
    factory: str | None
    factory_files: tuple[str, ...]
    inputs: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, Any]
    data: str
    data_files: tuple[str, ...]
    metric: str
    drop: str
    targets: tuple[str, ...]
    matrix: bool = False
    prefix: str = ""
    runner: str = ""
    metric_args: Mapping[str, Any] = field(default_factory=dict)
    lock: str | None = None
    params: str = PARAMS
    models: str = "models"
    ignored: tuple[str, ...] = ()
    extras: tuple[str, ...] = ("dvc", "torch")
    folder: str = "."

    @property
    def apart(self) -> bool:
        """Whether the settings lie in a file of their own, which DVC does not read by itself."""
        return self.params != PARAMS


def stages(plan: Plan) -> tuple[Piece, ...]:
    """The stages of dvc.yaml."""
    return merging.pieces(template.render(template.read("stages.yaml"), _values(plan, plan.targets[0])), "stages")


def artifacts(plan: Plan) -> tuple[Piece, ...]:
    """The artifacts of dvc.yaml: one a target."""
    text = template.read("stages.yaml")
    rendered = (template.render(text, _values(plan, target)) for target in plan.targets)
    return tuple(piece for one in rendered for piece in merging.pieces(one, "artifacts"))


def outs(plan: Plan) -> Mapping[str, str]:
    """The folders that Git must not have, by what in dvc.yaml they come with."""
    values = [_values(plan, target) for target in plan.targets]
    exported = {f"stages.{plan.prefix}export": str(values[0]["exported"])}
    return exported | {f"artifacts.{one['artifact']}": str(one["artifact_path"]) for one in values}


def groups(plan: Plan) -> tuple[Piece, ...]:
    """The groups of the params file."""
    values = {
        "target_key": "targets" if plan.matrix else "target",
        "targets": _flow(list(plan.targets)) if plan.matrix else plan.targets[0],
        "factory": () if plan.factory is None else (f"factory: {plan.factory}",),
        "inputs": _inputs(plan.inputs),
        "axes": _flow(plan.axes),
        "data": plan.data or '""',
        "metric": plan.metric,
        "metric_args": (f"metric_args: {_flow(plan.metric_args)}",) if plan.metric_args else (),
        "drop": (f"{plan.drop}: 0.01",) if plan.data else (),
    }
    return merging.pieces(template.render(template.read("settings.yaml"), values))


def workflow(plan: Plan, service: str) -> tuple[str, str]:
    """What a service runs for every change that is proposed: the file, from Git's root, and its text.

    In its template, `folder` is the project's, relative to Git's root; `job` a name that no other project of the
    repository has; `options` what a command needs to find the settings; `extras` those of this package that the stages
    need, with commas between them; `lock` the file that says what is installed, relative to Git's root, on a line that
    is left out where there is none.
    """
    job = "compressor" if plan.folder == "." else f"compressor-{plan.folder.replace('/', '-')}"
    values = {
        "job": job,
        "options": _options(plan),
        "folder": plan.folder,
        "extras": ",".join(plan.extras),
        "lock": () if plan.lock is None else (posixpath.normpath(posixpath.join(plan.folder, plan.lock)),),
    }
    return WORKFLOWS[service].format(job=job), template.render(template.read(f"{service}.yml"), values)


def _options(plan: Plan) -> str:
    return f" --params {plan.params}" if plan.apart else ""


def _values(plan: Plan, target: str) -> template.Values:
    several, folder = plan.matrix, "/${item.target}" if plan.matrix else ""
    listed = _flow(list(plan.targets)) if plan.apart else "${targets}"
    label = target if several else "${target}"
    return {
        "prefix": plan.prefix,
        "runner": plan.runner,
        "lock": ("deps:", f"  - {plan.lock}") if plan.lock else (),
        "model": plan.model,
        "exported": f"{plan.models}/exported",
        "artefact": f"{plan.models}/compressed{folder}",
        "records": f"{RECORDS}{folder}",
        "options": _options(plan),
        "target_option": " --target ${item.target}" if several else "",
        "which": "each" if several else "the",
        "matrix": ("matrix:", f"  target: {listed}") if several else (),
        "own_file": (f"{plan.params}:",) if plan.apart else (),
        "in": "    " if plan.apart else "",
        "target_group": () if several else ("target",),
        "factory_files": plan.factory_files,
        "data_files": plan.data_files,
        "artifact": f"{plan.prefix}compressed-model" + (f"-{target}" if several else ""),
        "artifact_path": f"{plan.models}/compressed" + (f"/{target}" if several else ""),
        "label": () if plan.apart and not several else (label,),
    }


def _inputs(inputs: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    if not inputs:
        return ("inputs: {}",)
    lines = ["inputs:"]
    for name, settings in inputs.items():
        lines.append(f"  {_key(name)}:")
        lines.extend(f"    {key}: {_flow(value)}" for key, value in settings.items() if value != {})
    return lines


def _flow(value: Any) -> str:
    """A value on one line, as YAML is written by hand."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _key(value)


def _key(value: Any) -> str:
    text = str(value)
    plain = re.fullmatch(r"[^\W\d][\w.-]*", text) and text.lower() not in NOT_TEXT
    return text if not isinstance(value, str) or plain else json.dumps(text)
