"""Pass pipelines by name."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from compressor.compilation.pipelines import PIPELINES, get
from compressor.errors import UsageError
from compressor.recognition import schemes


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("auto", {"sparsify", "palettize", "linear_quantize", "scaled_table", "narrow"}),
        ("default_pruning", {"sparsify"}),
        ("default_palettization", {"palettize", "scaled_table"}),
        ("default_quantization", {"linear_quantize"}),
    ],
)
def test_a_pipeline_is_a_choice_of_schemes(name: str, parts: set[str]) -> None:
    assert get(name).name == name
    assert get(name).schemes == parts


def test_auto_has_every_scheme_of_the_folder() -> None:
    modules = [
        importlib.import_module(f"{schemes.__name__}.{found.name}") for found in pkgutil.iter_modules(schemes.__path__)
    ]
    assert get("auto").schemes == {module.NAME for module in modules if hasattr(module, "NAME")}
    assert list(PIPELINES) == ["auto", "default_pruning", "default_palettization", "default_quantization"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("default_prunning", " Did you mean 'default_pruning'?"), ("Auto", " Did you mean 'auto'?"), ("gzip", "")],
)
def test_an_unknown_pipeline_names_the_choices(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name)
    choices = "auto, default_palettization, default_pruning, default_quantization"
    assert str(caught.value) == f"unknown pipeline {name!r}.{hint} Choices: {choices}."
    assert caught.value.exit_status == 2
