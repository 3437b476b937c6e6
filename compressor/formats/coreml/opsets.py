"""Which deployment target is which version of the specification, and what a version has.

Source: Core ML Tools, `coremltools.target` and `coremltools._OPSET`.
"""

from __future__ import annotations

from collections.abc import Mapping

IOS15, IOS16, IOS17, IOS18, IOS26 = 6, 7, 8, 9, 10
"""Specification versions, named after the first system that reads them."""

OPSETS: Mapping[int, str] = {IOS15: "CoreML5", IOS16: "CoreML6", IOS17: "CoreML7", IOS18: "CoreML8", IOS26: "CoreML9"}
"""What a function's `opset` and the keys of its `block_specializations` are called, by specification version."""

_SYSTEMS: Mapping[str, Mapping[str, int]] = {
    "iOS": {"13": 4, "14": 5, "15": IOS15, "16": IOS16, "17": IOS17, "18": IOS18, "26": IOS26},
    "macOS": {
        "10_15": 4,
        "10_16": 5,
        "11": 5,
        "12": IOS15,
        "13": IOS16,
        "14": IOS17,
        "15": IOS18,
        "26": IOS26,
    },
    "watchOS": {"6": 4, "7": 5, "8": IOS15, "9": IOS16, "10": IOS17, "11": IOS18, "26": IOS26},
    "tvOS": {"13": 4, "14": 5, "15": IOS15, "16": IOS16, "17": IOS17, "18": IOS18, "26": IOS26},
    "visionOS": {"1": IOS17, "2": IOS18, "26": IOS26},
}

KNOWN: Mapping[str, int] = {f"{system}{release}": v for system, of in _SYSTEMS.items() for release, v in of.items()}
"""The specification version of every deployment target, those without compressed storage too."""

TARGETS: Mapping[str, int] = {name: version for name, version in KNOWN.items() if version >= IOS16}
"""The specification version of each deployment target that has compressed storage."""


def first_system(version: int) -> str:
    """The iOS release that first reads a specification version: `iOS18` for 9."""
    return next(name for name, known in KNOWN.items() if known == version)
