"""The settings: what `params.yaml` may hold, group by group, and how a command gets its own groups and no others.

A command names the settings it reads as a class (`DetectParams`, ...): what is not a field of it cannot be read, so
the class is also the list of parameters that its stage in dvc.yaml declares.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from compressor import targets
from compressor.compilation import pipelines
from compressor.errors import UsageError, unknown
from compressor.recognition import findings
from compressor.stages import files, overrides, yaml

DEFAULT_FILE = Path("params.yaml")

Axis = Annotated[int, Field(strict=False)]  # -S spells the key of a dictionary as text
Sizes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]  # YAML has lists, not tuples
Limit = Annotated[float, Field(allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Range = Annotated[tuple[Annotated[int, Field(ge=1)], int], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


def _known_target(name: str) -> str:
    try:
        return targets.get(name).name
    except UsageError as error:
        raise PydanticCustomError("choice", "{message}", {"message": str(error)}) from error


def _known_pipeline(name: str) -> str:
    try:
        return pipelines.get(name).name
    except UsageError as error:
        raise PydanticCustomError("choice", "{message}", {"message": str(error)}) from error


Target = Annotated[str, AfterValidator(_known_target)]
Pipeline = Annotated[str, AfterValidator(_known_pipeline)]


class Group(BaseModel):
    """Settings that belong together; a key that is not one of them is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Input(Group):
    """One input of the model."""

    shape: Sizes = Field(description="Sizes, an example where an axis is dynamic.")
    dtype: str = Field(default="float32", description="The type of the elements: `float32`, `float16`, `int64`, ...")
    dynamic: dict[Axis, str] = Field(
        default={}, description="Names of the axes whose size may differ from call to call: `{0: batch}`."
    )


class Export(Group):
    """How a fine-tuned model becomes a graph. An ONNX file needs none of it."""

    factory: str | None = Field(
        default=None,
        description="`module:function` that builds the model a state dict belongs to, importable from here.",
    )
    args: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the factory, or of the architecture of a Hugging Face folder."
    )
    inputs: dict[str, Input] = Field(default={}, description="Every input of the model, by name.")
    outputs: Names = Field(default=(), description="Names of the outputs; empty: the exporter's.")
    opset: int = Field(default=18, ge=1, description="The ONNX operator set of the exported graph.")
    allow_pickle: bool = Field(
        default=False,
        description="Whether a checkpoint may run code while it is loaded. Only for files that you trust.",
    )


class Detect(Group):
    """When a weight is worth encoding, and what counts as zero."""

    min_elements: int = Field(default=2048, ge=0, description="Weights of fewer elements stay dense.")
    threshold: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Values up to this magnitude count as zero; none: up to 0.001 for `default_pruning`, and no value "
        "changes with any other pipeline ...",
    )
    max_thresholded: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="... where they are at most this share of the values that survive; elsewhere only exact zeros do.",
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="How far a value may be moved to one of a palette or a grid, relative to the largest magnitude of "
        "its weight; `0.0`: not at all.",
    )


class Compress(Group):
    """What to look for."""

    pipeline: Pipeline = Field(
        default="auto",
        description="Which schemes may take part.",
    )


class Image(Group):
    """How an image becomes the numbers that an input takes: `scale * pixel + bias`, by channel."""

    color: Literal["RGB", "BGR", "GRAYSCALE"] = Field(default="RGB", description="The order of the channels.")
    scale: Finite = Field(default=1.0, description="What a pixel, 0 to 255, is multiplied with.")
    bias: Annotated[tuple[Finite, ...], Field(strict=False)] = Field(
        default=(), description="What is added then, a number a channel; empty: nothing."
    )


class CoreML(Group):
    """How a model becomes a Core ML package; other targets read none of it."""

    precision: Literal["float16", "float32"] = Field(
        default="float16", description="Of weights and activations: `float16` or `float32`."
    )
    axes: dict[str, Axis | Range | dict[Axis, Axis | Range]] = Field(
        default={},
        description="The size of each axis that `export.inputs` names as dynamic, or its least and its largest one: "
        "`{batch: 1, sequence: [1, 128]}`. An axis without a name is called by its input and its place: "
        "`{state: {1: 4}}` or `{state.1: 4}`. A first axis has 1 if none is given; names that a model lacks are left "
        "out, with a note.",
    )
    images: dict[str, Image] = Field(default={}, description="The inputs that take images, by name.")
    classes: str = Field(
        default="", description="A file with a class a line, in the order of the first output's scores: a classifier."
    )


class Evaluate(Group):
    """What the artefact is measured on, and what it must reach."""

    data: str = Field(default="", description="`module:function` that returns inputs and labels, or an `.npz` file.")
    metric: str = Field(
        default="accuracy_score",
        description="A scikit-learn metric by name, or `module:function`: (labels, outputs) -> number.",
    )
    metric_args: dict[str, Any] = Field(default={}, description="Arguments of the metric: `{average: macro}`.")
    batch_size: int = Field(default=256, ge=1, description="Samples in one run of the model.")
    outputs: Names = Field(default=(), description="The outputs that hold predictions; empty: those that have labels.")
    limits: dict[str, Limit] = Field(
        default={},
        description="What must hold for `passed: true`, by metric: at most `accuracy_drop`, `size_mb`, "
        "`bits_per_weight`; at least `accuracy`, `agreement`, `size_ratio`.",
    )


class ExportParams(Group):
    """What `compressor export` reads."""

    export: Export = Export()


class DetectParams(Group):
    """What `compressor detect` reads."""

    detect: Detect = Detect()


class TargetParams(Group):
    """The target, which is one for the whole pipeline."""

    target: Target = Field(
        default="onnxruntime", description="What the artefact is for: a name from `compressor targets`."
    )


class MadeParams(TargetParams):
    """What an artefact is made for."""

    coreml: CoreML = CoreML()


class CompressParams(MadeParams):
    """What `compressor compress --detection FILE` reads: the file brings the settings it was made with."""

    compress: Compress = Compress()


class CheckParams(Group):
    """What `compressor check` reads."""

    evaluate: Evaluate = Evaluate()


class EvaluateParams(CheckParams, MadeParams):
    """What `compressor evaluate` reads."""


class DetectAlone(DetectParams, ExportParams):
    """What `compressor detect` reads for a model that has not been exported."""


class CompressAlone(CompressParams, DetectParams, ExportParams):
    """What `compressor compress` reads where no stage before it has exported and detected."""


class EvaluateAlone(EvaluateParams, ExportParams):
    """What `compressor evaluate` reads for a model that has not been exported."""


class Settings(EvaluateParams, CompressParams, DetectParams, ExportParams):
    """Everything that `params.yaml` may hold for these commands; other groups are left to their owners."""


def target(params: MadeParams) -> targets.Target:
    """The target with what is asked of it.

    Raises:
        CompressorError: a file that the settings name cannot be read.
    """
    asked = params.coreml
    classes = tuple(files.read_text(Path(asked.classes)).splitlines()) if asked.classes else ()
    axes = {
        key: size
        for name, found in asked.axes.items()
        for key, size in (
            {f"{name}.{place}": one for place, one in found.items()} if isinstance(found, dict) else {name: found}
        ).items()
    }
    return targets.get(params.target, {**asked.model_dump(), "axes": axes, "classes": classes})


P = TypeVar("P", bound=Group)


@dataclass(frozen=True)
class Given:
    """Where a command's settings come from; what stands further down wins.

    file: a params file; None: `params.yaml` in the current directory, if there is one.
    overrides: the texts of `-S`.
    options: the values of the command's own options by the key they set; None where an option is not given.
    """

    file: Path | None = None
    overrides: Sequence[str] = ()
    options: Mapping[str, object] = field(default_factory=dict)


def load(schema: type[P], given: Given) -> P:
    """The settings of `schema`, from the defaults, the params file, `-S` and the command's options.

    Raises:
        UsageError: the file is missing or no YAML mapping; a key is unknown, or its value of the wrong kind.
    """
    parsed = [overrides.parse(text) for text in given.overrides]
    for override in parsed:
        _check_group(schema, override)
    content = _content(given.file)
    # A group without any key is null in YAML.
    own = {name: {} if content[name] is None else content[name] for name in schema.model_fields if name in content}
    options = [
        overrides.Override(f"--{key.rpartition('.')[2]}", tuple(key.split(".")), value)
        for key, value in given.options.items()
        if value is not None
    ]
    try:
        return schema.model_validate(overrides.apply(own, [*parsed, *options]))
    except ValidationError as error:
        settings = [(override.key, f"-S {override.text}") for override in parsed]
        settings += [(option.key, option.text) for option in options]
        file = str(given.file or DEFAULT_FILE)
        raise UsageError("\n".join(_message(schema, one, settings, file) for one in error.errors())) from error


def core_settings(group: Detect) -> findings.Settings:
    """The group `detect` as the core takes it."""
    return findings.Settings(**group.model_dump())


def _content(file: Path | None) -> Mapping[str, Any]:
    if file is None and not DEFAULT_FILE.is_file():
        return {}
    path = file or DEFAULT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}. Name a params file that exists.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}.") from error
    content = yaml.read(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected groups such as `detect:`, got a {type(content).__name__}.")
    return content


def _check_group(schema: type[Group], override: overrides.Override) -> None:
    group, known = override.key[0], tuple(schema.model_fields)
    if group in known:
        return
    if group in Settings.model_fields:
        raise UsageError(f"-S {override.text}: {group} is not read here; this command reads {', '.join(known)}.")
    raise UsageError(f"-S {override.text}: {unknown('group', group, known)}")


def _message(
    schema: type[Group], error: ErrorDetails, settings: Iterable[tuple[tuple[str, ...], str]], file: str
) -> str:
    """One line: where the value came from, its key, the value, and what it must be."""
    path = tuple(str(part) for part in error["loc"])
    where = file
    for key, origin in settings:
        if path[: len(key)] == key[: len(path)]:
            where = origin
    dotted = ".".join(path)
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key {dotted}.{_choices(schema, path)}"
        case "missing":
            return f"{where}: {dotted} is missing."
        case "choice":
            return f"{where}: {dotted}: {error['msg']}"
    wanted = _KINDS.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return f"{where}: {dotted} is {error['input']!r}: expected {wanted}."


# What a value must be, in YAML's words instead of Python's.
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}


def _choices(schema: type[Group], path: tuple[str, ...]) -> str:
    """The keys that stand where the last one of `path` does, the closest one first."""
    place: Any = schema
    for name in path[:-1]:
        place = place.model_fields[name].annotation if hasattr(place, "model_fields") else get_args(place)[1]
    close = difflib.get_close_matches(path[-1], place.model_fields, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Choices: {', '.join(sorted(place.model_fields))}."
