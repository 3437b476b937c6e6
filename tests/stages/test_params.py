"""Settings: which value wins, what a stage may read, and what an error says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from compressor import targets
from compressor.errors import UsageError
from compressor.recognition.findings import Settings as DetectionSettings
from compressor.stages import groups, reference
from compressor.stages.params import (
    CompressAlone,
    CompressParams,
    Detect,
    DetectParams,
    EvaluateParams,
    ExportParams,
    Given,
    Settings,
    core_settings,
    load,
    target,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def test_defaults_are_the_core_s() -> None:
    assert core_settings(Detect()) == DetectionSettings()


@pytest.mark.parametrize(
    ("text", "overrides", "option", "expected"),
    [
        ("", (), None, "auto"),
        ("compress:", (), None, "auto"),
        ("compress: {pipeline: default_pruning}", (), None, "default_pruning"),
        ("compress: {pipeline: default_pruning}", ("compress.pipeline=auto",), None, "auto"),
        ("", ("compress={pipeline: default_pruning}", "~compress.pipeline"), None, "auto"),
        ("compress: {pipeline: auto}", ("compress.pipeline=auto",), "default_quantization", "default_quantization"),
        (
            "compress: {pipeline: wrong}",
            ("compress.pipeline=wrong",),
            "default_quantization",
            "default_quantization",
        ),
    ],
)
def test_what_stands_further_down_wins(
    file: Path, text: str, overrides: tuple[str, ...], option: str | None, expected: str
) -> None:
    file.write_text(text)
    given = Given(file, overrides, {"compress.pipeline": option})
    assert load(CompressParams, given).compress.pipeline == expected


def test_params_yaml_of_the_current_directory_is_the_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load(DetectParams, Given()).detect.min_elements == 2048
    file.write_text("detect: {min_elements: 7}")
    assert load(DetectParams, Given()).detect.min_elements == 7


def test_a_stage_sees_its_own_groups_only(file: Path) -> None:
    """A parameter that a stage reads without declaring it would make DVC restore another experiment's results."""
    file.write_text("finetune: {lr: 1}\nexport: {nonsense: 1}\ntarget: 5\ncompress: []\ndetect: {threshold: 0.5}\n")
    assert load(DetectParams, Given(file)) == DetectParams(detect=Detect(threshold=0.5))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("compres: {}", "compress"),
        ("evalute: {}", "evaluate"),
        ("detct: {}", "detect"),
        ("dtect: {}", "detect"),
        ("exprot: {}", "export"),
        ("taget: iOS17", "target"),
        ("corml: {}", "coreml"),
        ("compres: {}\ncompress: {}", None),
        *(
            (f"{other}: {{}}", None)
            for other in ("detection", "detector", "exporter", "evaluator", "compression", "train")
        ),
        ("1: {}", None),
    ],
)
def test_a_group_that_looks_misspelt_is_a_warning(
    file: Path, text: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    load(Settings, Given(file))
    said = f"warning: {file}: {text.partition(':')[0]} is read by nothing here: was {meant} meant?\n"
    assert capsys.readouterr().err == (said if meant else "")


def test_a_misspelt_group_that_a_command_does_not_read_is_no_warning(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("compres: {}")
    load(DetectParams, Given(file))
    assert capsys.readouterr().err == ""


def test_every_kind_of_value(file: Path) -> None:
    file.write_text(
        """
export:
  factory: "train:model"
  args: {width: 3, name: x}
  inputs:
    image: {shape: [1, 28], dynamic: {0: batch}}
  outputs: [logits]
  opset: 20
  key: ema
  allow_pickle: true
evaluate: {limits: {accuracy_drop: 1e-3, size_ratio: 4}, data: x.npz}
"""
    )
    export = load(ExportParams, Given(file, ("export.inputs.image.dynamic.1=wide", "export.outputs=[a,b]"))).export
    assert export.model_dump() == {
        "factory": "train:model",
        "args": {"width": 3, "name": "x"},
        "inputs": {"image": {"shape": (1, 28), "dtype": "float32", "dynamic": {0: "batch", 1: "wide"}}},
        "outputs": ("a", "b"),
        "opset": 20,
        "key": "ema",
        "allow_pickle": True,
    }
    assert load(EvaluateParams, Given(file)).evaluate.limits == {"accuracy_drop": 0.001, "size_ratio": 4.0}


ERRORS = {
    "detect: {thresold: 1}": "FILE: unknown key detect.thresold. Did you mean 'threshold'? "
    "Choices: max_thresholded, min_elements, threshold, tolerance.",
    "detect: {threshold: small}": "FILE: detect.threshold is 'small': expected a number.",
    "detect: {threshold: -1}": "FILE: detect.threshold is -1: expected greater than or equal to 0.",
    "detect: {threshold: .nan}": "FILE: detect.threshold is nan: expected a finite number.",
    "detect: {threshold: true}": "FILE: detect.threshold is True: expected a number.",
    "detect: {min_elements: 1.5}": "FILE: detect.min_elements is 1.5: expected a whole number.",
    "detect: {min_elements: '5'}": "FILE: detect.min_elements is '5': expected a whole number.",
    "detect: 5": "FILE: detect is 5: expected a mapping.",
    "compress: {pipeline: prune}": "FILE: compress.pipeline: unknown pipeline 'prune'. "
    "Choices: auto, default_palettization, default_pruning, default_quantization.",
    "target: onnxrutime": "FILE: target: unknown target 'onnxrutime'. Did you mean 'onnxruntime'? Choices: ",
    "target: 5": "FILE: target is 5: expected text.",
    "targets: iOS17": "FILE: targets is 'iOS17': expected a list.",
    "targets: [iOS17, onnxrutime]": "FILE: targets.1: unknown target 'onnxrutime'. Did you mean 'onnxruntime'?",
    "targets: [iOS17, ios17]": "FILE: targets: iOS17 is there twice: leave one out.",
    "targets: []": "FILE: targets is []: expected at least one.",
    "targets: [iOS17]\ntarget: iOS18": "FILE: target and targets are both set. Keep target ",
    "export: {inputs: {x: {dtype: int8}}}": "FILE: export.inputs.x.shape is missing.",
    "export: {inputs: {x: {shape: [1], dtyp: int8}}}": "FILE: unknown key export.inputs.x.dtyp. Did you mean 'dtype'? "
    "Choices: dtype, dynamic, shape.",
    "export: {inputs: {x: {shape: [-1]}}}": "FILE: export.inputs.x.shape.0 is -1: expected greater than or equal to 0.",
    "export: {allow_pickle: 'yes'}": "FILE: export.allow_pickle is 'yes': expected true or false.",
    "export: {outputs: logits}": "FILE: export.outputs is 'logits': expected a list.",
    "coreml: {precision: float8}": "FILE: coreml.precision is 'float8': expected 'float16' or 'float32'.",
    "coreml: {images: {x: {scale: .inf}}}": "FILE: coreml.images.x.scale is inf: expected a finite number.",
    "coreml: {images: {x: {colour: RGB}}}": "FILE: unknown key coreml.images.x.colour. Did you mean 'color'? "
    "Choices: bias, color, scale.",
    "coreml: {classes: [a, b]}": "FILE: coreml.classes is ['a', 'b']: expected text.",
    "[1]": "FILE: expected groups such as `detect:`, got a list.",
    "detect: {": "FILE: not valid YAML in line 1: ",
    "detect: {a: 1}\ndetect: {b: 1}": "FILE: not valid YAML in line 2: ",
    "detect: \xff": "FILE: not UTF-8 text: invalid start byte at byte 8.",
}


@pytest.mark.parametrize(("text", "message"), ERRORS.items())
def test_error_names_file_key_value_and_choices(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError) as caught:
        load(CompressAlone, Given(file))
    assert str(caught.value).startswith(message.replace("FILE", str(file)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("detect.thresold=1", "-S detect.thresold=1: unknown key detect.thresold. Did you mean 'threshold'?"),
        ("detect.threshold=x", "-S detect.threshold=x: detect.threshold is 'x': expected a number."),
        ("compress.pipeline=auto", "-S compress.pipeline=auto: compress is not read here; this command reads detect."),
        (
            "detekt.threshold=1",
            "-S detekt.threshold=1: unknown group 'detekt'. Did you mean 'detect'? Choices: detect.",
        ),
    ],
)
def test_error_names_the_override(file: Path, override: str, message: str) -> None:
    file.write_text("")
    with pytest.raises(UsageError) as caught:
        load(DetectParams, Given(file, (override,)))
    assert str(caught.value).startswith(message)


def test_error_names_the_option(file: Path) -> None:
    file.write_text("target: onnxruntime")
    with pytest.raises(UsageError, match=r"^--target: unknown target 'x'"):
        load(CompressParams, Given(file, (), {"target": "x", "compress.pipeline": None}))


@pytest.mark.parametrize(
    ("text", "overrides", "option", "expected"),
    [
        ("target: iOS18", (), None, "iOS18"),
        ("target: iOS18", (), "ios17", "iOS17"),
        ("targets: [iOS17, iOS18]", (), "onnxruntime", "onnxruntime"),
        ("targets: [iOS17, iOS18]", ("target=iOS18",), None, "iOS18"),
        ("targets: [iOS18]", (), None, "iOS18"),
        ("", (), None, "onnxruntime"),
    ],
)
def test_one_target_is_meant(file: Path, text: str, overrides: tuple[str, ...], option: str, expected: str) -> None:
    file.write_text(text)
    assert target(load(CompressParams, Given(file, overrides, {"target": option}))).name == expected


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("iOS71", "iOS17"), ("macOS41", "macOS14"), ("iOS 17", "iOS17"), ("onnx-opset20", "onnx-opset21"), ("tpu", None)],
)
def test_a_typo_is_told_from_another_version(typed: str, meant: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        targets.get(typed)
    hint = "" if meant is None else f" Did you mean {meant!r}?"
    assert f"unknown target {typed!r}.{hint} Choices" in str(caught.value)


def test_one_of_several_targets_must_be_named(file: Path) -> None:
    file.write_text("targets: [iOS17, iOS18]")
    with pytest.raises(UsageError, match=r"^targets are iOS17, iOS18: name the one that is meant with --target\.$"):
        target(load(CompressParams, Given(file)))


def test_all_errors_are_named_at_once(file: Path) -> None:
    file.write_text("detect: {a: 1, threshold: x}")
    with pytest.raises(UsageError) as caught:
        load(DetectParams, Given(file))
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_asked_for_must_exist(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load(DetectParams, Given(file))


def test_the_reference_has_every_group() -> None:
    assert set(Settings.model_fields) == {"target", "targets", *(name for name, _ in reference.settings.GROUPS)}


def test_classes_of_core_ml_are_the_lines_of_a_file(file: Path) -> None:
    (file.parent / "classes.txt").write_text("cat\nsea lion\n")
    file.write_text(f"target: iOS17\ncoreml: {{classes: {file.parent / 'classes.txt'}, images: {{x: {{scale: 2}}}}}}")
    asked = target(load(CompressParams, Given(file)))
    assert asked.options.classes == ("cat", "sea lion")  # type: ignore[attr-defined]
    assert asked.options.images["x"].scale == 2.0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Part:
    """One of the parts."""

    ratio: float = field(default=1.0, metadata={"description": "How much."})


@dataclass(frozen=True)
class Asked:
    """What a target of another package might ask."""

    order: tuple[int, ...] = field(default=(1,), metadata={"description": "First to last."})
    parts: Mapping[int, Part] = field(default_factory=dict, metadata={"description": "By number."})
    kind: Literal["a", "b"] | None = field(default=None, metadata={"description": "Which."})


def test_a_group_is_made_of_the_dataclass_of_a_target() -> None:
    group = groups.of_dataclass(Asked)
    assert group.__doc__ == "What a target of another package might ask."
    assert [field.description for field in group.model_fields.values()] == ["First to last.", "By number.", "Which."]
    assert group().model_dump() == {"order": (1,), "parts": {}, "kind": None}
    made = group.model_validate({"order": [2, 1], "parts": {"3": {"ratio": 2}}, "kind": "b"})
    assert made.model_dump() == {"order": (2, 1), "parts": {3: {"ratio": 2.0}}, "kind": "b"}
    for wrong in ({"order": ["2"]}, {"parts": {3: {"ratio": True}}}, {"parts": {3: {"other": 1}}}, {"kind": "c"}):
        with pytest.raises(ValidationError):
            group.model_validate(wrong)


@pytest.mark.parametrize("text", ["state: {1: [1, 4]}", "state.1: [1, 4]"])
def test_axes_of_core_ml_by_input_and_place(file: Path, text: str) -> None:
    file.write_text(f"target: iOS17\ncoreml: {{axes: {{batch: 2, {text}}}}}")
    asked = load(CompressParams, Given(file, ("coreml.axes.state.0=3",) if "{" in text else (), {}))
    expected = {"batch": 2, "state.1": (1, 4)} | ({"state.0": 3} if "{" in text else {})
    assert target(asked).options.sizes == expected  # type: ignore[attr-defined]


def test_rules_are_read_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("compress: {rules: {'*.head.*': dense, embed*: {exact: false, tolerance: 1e-3}}}\n", "utf-8")
    assert load(CompressParams, Given(file)).compress.rules == {
        "*.head.*": "dense",
        "embed*": {"exact": False, "tolerance": 1e-3},
    }
    given = Given(file, ["compress.rules={'*.head.*': [palettize]}"])
    assert load(CompressParams, given).compress.rules["*.head.*"] == ["palettize"]


def test_a_wrong_rule_is_told_of_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("compress: {rules: {'*.head.*': sparse}}\n", "utf-8")
    told = r"params.yaml: compress.rules: the rule '\*.head.\*' is 'sparse': expected dense"
    with pytest.raises(UsageError, match=told):
        load(CompressParams, Given(file))


def test_a_file_of_our_own_comes_before_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tool writes params.yaml anew, as DVC does from Hydra's configuration, `init` makes another one."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("compress: {pipeline: default_pruning}\n", "utf-8")
    assert load(CompressParams, Given()).compress.pipeline == "default_pruning"
    Path("compressor.yaml").write_text("compress: {pipeline: default_palettization}\n", "utf-8")
    assert load(CompressParams, Given()).compress.pipeline == "default_palettization"
    assert load(CompressParams, Given(Path("params.yaml"))).compress.pipeline == "default_pruning"
    Path("compressor.yaml").write_text("compress: {pipeline: default}\n", "utf-8")
    with pytest.raises(UsageError, match=r"^compressor\.yaml: compress\.pipeline: unknown pipeline 'default'"):
        load(CompressParams, Given())
