"""From a MIL program with stubs to the protobuf of a model, by Core ML Tools' own passes."""

# ruff: noqa: TID253 - imported where a program is converted, and nowhere else

from __future__ import annotations

import functools
import logging
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - its users call it that
from coremltools.converters.mil.mil import Operation, Program, Var

from compressor.errors import CompressorError
from compressor.formats.coreml import opsets, package, values
from compressor.formats.coreml.values import Held
from compressor.targets.coreml.editing import operations
from compressor.targets.coreml.repairs import respell
from compressor.targets.coreml.request import Request
from compressor.targets.coreml.slots import Slot
from compressor.targets.coreml.stubs import insert, slot_index


def target(request: Request) -> Any:
    """Core ML Tools' name of the version that is asked for."""
    return getattr(ct.target, opsets.first_system(request.version))


def forget() -> None:
    """Count the names that Core ML Tools makes from the beginning: else they depend on what was converted before."""
    mb.name_count.clear()


def convert(program: Program, slots: Sequence[Slot], wide: frozenset[int], request: Request) -> tuple[Any, Held]:
    """The model as a protobuf whose weights are stubs, and the other constants that it has in files.

    wide: the places of the slots whose values float16 cannot hold: what reads them computes in float32.

    Raises:
        CompressorError: Core ML Tools cannot convert the program.
    """
    insert(slots)
    respell(program)
    compute = _float16(wide, _stubs(program)) if request.precision == "float16" else ct.precision.FLOAT32
    with TemporaryDirectory(prefix="compressor-") as folder, quiet():
        path = Path(folder) / "model.mlpackage"
        try:
            ct.convert(
                program,
                source="milinternal",
                inputs=_with_images(program, request),
                convert_to="mlprogram",
                minimum_deployment_target=target(request),
                compute_precision=compute,
                classifier_config=ct.ClassifierConfig(list(request.classes)) if request.classes else None,
                skip_model_load=True,
                package_dir=str(path),
            )
        except Exception as error:  # a pass raises whatever it stumbles over
            # Core ML Tools' own temporary folder lives as long as the frame that made it, which the error keeps.
            traceback.clear_frames(error.__traceback__)
            raise CompressorError(f"Core ML Tools cannot convert the model: {line(error)}.") from error
        made = package.read(path)
        return made.model, values.held(made.model.mlProgram, made)


def _with_images(program: Program, request: Request) -> list[Any] | None:
    """The inputs where some take images, whose preprocessing becomes part of the program; None where none does."""
    if all(one.image is None for one in request.inputs):
        return None
    main = program.functions["main"]
    shapes = {one.name: one.shape for one in main.input_types or ()}
    made: list[Any] = []
    for (name, var), given in zip(main.inputs.items(), request.inputs, strict=True):
        shape, image = shapes.get(name, var.shape), given.image
        if image is None:
            made.append(ct.TensorType(name, shape, np.dtype(given.dtype)))
        else:
            layout = getattr(ct.colorlayout, image.color)
            made.append(ct.ImageType(name, shape, image.scale, list(image.bias) or None, layout))
    return made


def _stubs(program: Program) -> dict[int, list[Var]]:
    """The stubs of each slot."""
    found: dict[int, list[Var]] = defaultdict(list)
    for operation in operations(program):
        if (index := slot_index(operation)) is not None:
            found[index].append(operation.outputs[0])
    return found


def _float16(wide: frozenset[int], stubs: Mapping[int, Sequence[Var]]) -> Any:
    """Core ML Tools' pass that computes in float16, but for weights that cannot be in it, and for what reads those.

    An operator goes to float16 where all that it reads can. The stubs of a slot go with their readers, all or none of
    them: to one that takes no float16 it would be cast back when the model runs, where that one needs a constant; and
    what is stored once has one type.
    """

    def can_read(operation: Operation) -> bool:
        return not any(var.op is not None and slot_index(var.op) in wide for var in _read(operation).values())

    def goes(operation: Operation) -> bool:
        index = slot_index(operation)
        return can_read(operation) if index is None else slot_goes(index)

    @functools.cache  # as its readers are before the first of them goes
    def slot_goes(index: int) -> bool:
        return index not in wide and all(
            can_read(use) and passes.is_valid_op(use) and passes.should_cast_parameter(use, name)
            for var in stubs[index]
            for use, name in _readers(var)
        )

    passes = ct.transform.FP16ComputePrecision(goes)
    return passes


def _readers(stub: Any) -> Iterator[tuple[Operation, str]]:
    """The operations that read a stub, each with the parameter."""
    for use in stub.child_ops:
        yield from ((use, name) for name, var in _read(use).items() if var is stub)


def _read(operation: Operation) -> dict[str, Any]:
    """The values that an operation reads, by parameter; of a tuple the first one counts."""
    return {
        name: value[0] if isinstance(value, list | tuple) else value
        for name, value in operation.inputs.items()
        if value is not None
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Without Core ML Tools' progress bars and warnings, which name nothing that a user could change."""
    muted = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(muted)


def line(error: Exception) -> str:
    """The type of an error and its text, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
