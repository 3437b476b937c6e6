"""The groups of `params.yaml`: the keys, kinds and defaults of each, and what a key is for."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from compressor import targets
from compressor.compilation import pipelines, rules
from compressor.errors import UsageError

from . import files

Key = Annotated[int, Field(strict=False)]  # -S spells the key of a dictionary as text
Sizes = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]  # YAML has lists, not tuples
Finite = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


def _after(check: Callable[[Any], object]) -> AfterValidator:
    """A validator that gives what `check` returns, and says what that says of a wrong value."""

    def checked(given: Any) -> object:
        try:
            return check(given)
        except UsageError as error:
            raise PydanticCustomError("choice", "{message}", {"message": str(error)}) from error

    return AfterValidator(checked)


def _different(given: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in given if given.count(name) > 1]
    if twice:
        raise UsageError(f"{twice[0]} is there twice: leave one out.")
    return given


def _known_rules(asked: dict[str, Any]) -> dict[str, Any]:
    for pattern, value in asked.items():
        rules.rule(pattern, value)
    return asked


Rules = Annotated[dict[str, Any], _after(_known_rules)]
Target = Annotated[str, _after(lambda name: targets.get(name).name)]
Targets = Annotated[tuple[Target, ...], Field(strict=False, min_length=1), _after(_different)]
Pipeline = Annotated[str, _after(lambda name: pipelines.get(name).name)]


class Group(BaseModel):
    """Settings that belong together; a key that is not one of them is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Input(Group):
    """One input of the model."""

    shape: Sizes = Field(description="Sizes, an example where an axis is dynamic.")
    dtype: str = Field(default="float32", description="The type of the elements: `float32`, `float16`, `int64`, ...")
    dynamic: dict[Key, str] = Field(
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
    key: str = Field(
        default="",
        description="Under which key the weights lie in a checkpoint that has several sets of them: `ema`; empty: the "
        "usual ones, `state_dict`, `model_state_dict`, `model`, `net`, `module`, in this order.",
    )
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
    rules: Rules = Field(
        default={},
        description="What holds for some weights instead, by patterns of their names; the first that matches holds: "
        '`{"*.head.*": dense, "encoder.*": [palettize], "embed*": {exact: false, tolerance: 1e-3}}`.',
    )


class Latency(Group):
    """How long a model takes to run: what `compressor evaluate --latency FILE` times."""

    runs: int = Field(default=50, ge=1, description="Runs of each model that are timed, for `--latency`.")
    warmup: int = Field(default=5, ge=0, description="Runs before them that are not.")
    batch_size: int = Field(default=1, ge=1, description="Samples in one of these runs.")


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
    limits: dict[str, Finite] = Field(
        default={},
        description="What must hold for `passed: true`, by what `metrics.json` calls it. At most: the metric's name "
        "with `_drop` (`accuracy_drop`, `f1_drop`), `size_mb`, `bits_per_weight`, and an error or a loss. "
        "At least: any other metric (`accuracy`, `f1`), `agreement`, `size_ratio`.",
    )
    latency: Latency = Latency()


def of_dataclass(kind: type) -> type[Group]:
    """The group that a dataclass is: its fields with their defaults, and their metadata as descriptions."""
    hints, defaults, made = get_type_hints(kind), kind(), dict[str, Any]()
    for field in dataclasses.fields(kind):
        hint, default = _in_yaml(hints[field.name]), getattr(defaults, field.name)
        if "lines" in field.metadata:
            hint, default = str, ""
        made[field.name] = (hint, Field(default=default, description=field.metadata["description"]))
    return create_model(kind.__name__, __base__=Group, __doc__=kind.__doc__, **made)


def _in_yaml(kind: Any) -> Any:
    """What stands in YAML for values of a type, which has lists for tuples and mappings for dataclasses."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return of_dataclass(kind)
    origin: Any = get_origin(kind)
    inner = tuple(map(_in_yaml, get_args(kind)))
    if origin is Mapping:
        origin, (key, value) = dict, inner
        return origin[Key if key is int else key, value]
    if origin is tuple:
        return Annotated[origin[inner], Field(strict=False)]
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, inner)
    return Finite if kind is float else kind


OPTIONS: Mapping[str, type[Group]] = {name: of_dataclass(kind) for name, kind in targets.options().items()}
"""The groups that are asked of targets, by family."""


def options(family: str, asked: Group) -> Mapping[str, Any]:
    """What is asked of a family of targets as it takes it.

    Raises:
        CompressorError: a file that the settings name cannot be read.
    """
    values = asked.model_dump()
    for field in dataclasses.fields(targets.options()[family]):
        if "lines" in field.metadata:
            path = values[field.name]
            values[field.name] = tuple(files.read_text(Path(path)).splitlines()) if path else ()
    return values
