"""Deployment targets are those of Core ML Tools."""

from __future__ import annotations

from compressor.formats.coreml import opsets
from compressor.formats.coreml.importing import coremltools


def test_every_target_of_core_ml_tools_is_known() -> None:
    ct = coremltools()
    theirs = {name: int(value) for name, value in ct.target.__members__.items()}
    ours = {name: version for name, version in opsets.KNOWN.items() if not name.startswith("visionOS")}
    assert ours == theirs
    assert {version: ct._OPSET[version] for version in opsets.OPSETS} == opsets.OPSETS


def test_targets() -> None:
    assert opsets.TARGETS["iOS16"] == opsets.TARGETS["macOS13"] == opsets.TARGETS["watchOS9"] == 7
    assert opsets.TARGETS["visionOS1"] == opsets.TARGETS["iOS17"] == 8
    assert opsets.TARGETS["visionOS2"] == opsets.TARGETS["tvOS18"] == 9
    assert opsets.TARGETS["visionOS26"] == opsets.TARGETS["macOS26"] == 10
    assert "iOS15" not in opsets.TARGETS
    assert [opsets.first_system(version) for version in (4, 6, 7, 8, 9, 10)] == [
        "iOS13", "iOS15", "iOS16", "iOS17", "iOS18", "iOS26",
    ]  # fmt: skip
