"""Programs of an older version of the specification, made ones of a newer version.

A function says which version's operators it is made of, so all of its operators are raised together. Few have changed
so that the old form means nothing to the new one; what they have gained is optional.

Source: the operators' definitions by version in Core ML Tools, `converters/mil/mil/ops/defs/iOS*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.errors import CompressorError
from compressor.formats.coreml.opsets import IOS17, IOS18, OPSETS, first_system
from compressor.formats.coreml.programs import CONSTEXPR, scopes

CHANGED: Mapping[int, frozenset[str]] = {
    IOS17: frozenset({"crop_resize", "non_maximum_suppression"}),
    IOS18: frozenset({f"{CONSTEXPR}lut_to_dense", f"{CONSTEXPR}sparse_to_dense"}),
}
"""Operators whose parameters of older versions a version does not take, by version."""

_CAST = f"{CONSTEXPR}cast"


def upgrade(model: Any, version: int) -> None:
    """Make the program of a protobuf `Model` one of `version`; one that is as new already stays as it is.

    Its weights are not in it any more: how they were stored may be among what has changed.

    Raises:
        CompressorError: it has operators that the version has no more.
    """
    old = int(model.specificationVersion)
    if old >= version:
        return
    changed = frozenset().union(*(names for since, names in CHANGED.items() if old < since <= version))
    operations = [operation for scope in scopes(model.mlProgram) for operation in scope.block.operations]
    found = sorted({operation.type for operation in operations} & changed)
    if found:
        raise CompressorError(
            f"{', '.join(found)}: these operators of {first_system(old)} have another form in {first_system(version)}. "
            f"Convert the model again for {first_system(version)}, or choose a target of {first_system(old)}'s time."
        )
    if old < IOS18 <= version:
        for operation in operations:
            if operation.type == _CAST:  # parameters became inputs
                _attributes_to_inputs(operation)
    model.specificationVersion = version
    for function in model.mlProgram.functions.values():
        _rename(function, OPSETS[version])


def _attributes_to_inputs(operation: Any) -> None:
    for key in sorted({*operation.attributes} - {"name"}):
        operation.inputs[key].arguments.add(value=operation.attributes[key])
        del operation.attributes[key]


def _rename(function: Any, opset: str) -> None:
    """Call the specialization that the function runs, the newest, by the new opset; it has no use for others."""
    blocks = function.block_specializations
    newest = function.opset if function.opset in blocks else max(blocks, default=opset)
    if newest != opset:
        blocks[opset].CopyFrom(blocks[newest])
    for other in [name for name in blocks if name != opset]:
        del blocks[other]
    function.opset = opset
