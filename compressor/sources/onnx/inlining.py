"""Calls of a model's own functions, replaced by what the functions do: their constants are weights too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor.formats.onnx.functions import DOMAIN
from compressor.formats.onnx.graphs import tensors
from compressor.formats.onnx.wire import EXTERNAL

if TYPE_CHECKING:
    import onnx


def inline(model: onnx.ModelProto) -> None:
    """Replace the calls of all functions but this project's, in place; constants that lie in files stay there.

    Functions that cannot be inlined, those of another opset for the most part, stay where no large constant is in them.

    Raises:
        CompressorError: one that cannot be inlined holds a large constant.
    """
    if all(made.domain == DOMAIN for made in model.functions):
        return
    import onnx

    imported = {entry.domain for entry in model.opset_import}
    needed = {entry.domain: entry for made in model.functions for entry in made.opset_import}
    model.opset_import.extend(needed[domain] for domain in sorted(needed.keys() - imported))
    try:
        inlined = _inlined(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        holding = next((made for made in model.functions if _holds_data(made)), None)
        if holding is not None:
            raise CompressorError(
                f"the function {holding.name!r} of {holding.domain!r} holds constants, and it cannot be inlined: "
                f"{str(error).splitlines()[0]}. Export the model without functions, or with functions of its own opset."
            ) from error
    else:
        model.CopyFrom(inlined)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import inliner

    ours = [(made.domain, made.name) for made in model.functions if made.domain == DOMAIN]
    if ours:
        return inliner.inline_selected_functions(model, ours, exclude=True)
    return inliner.inline_local_functions(model, convert_version=True)


def _holds_data(function: onnx.FunctionProto) -> bool:
    return any(tensor.data_location == EXTERNAL for tensor in tensors((), [function]))
