"""Core ML: `.mlpackage`s of ML Programs whose weights are `constexpr_*` operations, for iOS 16 and its like, and later.

A model is converted by Core ML Tools with stubs for its weights; what the weights become is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compressor.formats.coreml import opsets
from compressor.formats.coreml.importing import check_installed as check_installed
from compressor.targets.coreml.request import Image, Options

if TYPE_CHECKING:
    from compressor.targets.coreml.target import CoreML

TARGETS: Mapping[str, int] = opsets.TARGETS
"""The specification version of each deployment target that has compressed storage."""

TOO_OLD = tuple(opsets.KNOWN.keys() - opsets.TARGETS.keys())
"""Deployment targets without compressed storage."""

TOO_NEW = {
    f"{system}27": f"Core AI's format, .aimodel, is not written yet; its systems run packages, too: choose {system}26"
    for system in ("iOS", "macOS", "watchOS", "tvOS", "visionOS")
}
"""Systems whose format is another one, and what to do."""

PACKAGE = "model.mlpackage"
FILES = (f"{PACKAGE}/",)
PACKAGES = ("coremltools",)
OPTIONS = Options


def get(name: str, options: Mapping[str, Any] = {}) -> CoreML:
    """The target of that canonical name; `options` are fields of `Options`, and of `Image` those of an input."""
    from compressor.targets.coreml.target import CoreML  # asking for any target imports this module

    images = {key: Image(**image) for key, image in options.get("images", {}).items()}
    return CoreML(name, TARGETS[name], Options(**{**options, "images": images}))
