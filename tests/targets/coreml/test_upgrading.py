"""Older programs in newer versions: Core ML Tools loads them, and they mean the same."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.encodings import Dense, decode
from compressor.errors import CompressorError
from compressor.formats.coreml import blob, lowering, package, programs, values
from compressor.formats.coreml.constants import lift
from compressor.formats.coreml.importing import coremltools, messages
from compressor.formats.coreml.types import TYPES
from compressor.targets.coreml import upgrading
from tests.formats.coreml.models import in_package, materialized, model, read, write

F16 = np.float16
OPERATORS = "gather topk reshape slice_by_index slice_by_size reduce_argmax scatter linear conv".split()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of iOS 16 with operators that have changed since."""
    ct = coremltools()
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

    weight = np.linspace(-1, 1, 40 * 20, dtype=np.float32).reshape(40, 20)

    @mb.program(input_specs=[mb.TensorSpec((4, 20), dtype=types.fp32)], opset_version=ct.target.iOS16)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        y = mb.linear(x=x, weight=weight)
        y = mb.gather(x=y, indices=np.array([1, 0], np.int32), axis=0)
        y = mb.reshape(x=y, shape=(2, 4, 10))
        y = mb.slice_by_index(x=y, begin=[0, 0, 1], end=[2, 4, 9], stride=[1, 1, 2])
        y = mb.slice_by_size(x=y, begin=[0, 1, 0], size=[2, 3, 4])
        y = mb.scatter(data=y, indices=np.array([0], np.int32), updates=np.zeros((1, 3, 4), np.float32), axis=0)
        y = mb.conv(x=y, weight=np.ones((5, 3, 1), np.float32))
        values_, indices = mb.topk(x=y, k=2, axis=-1)
        return values_, indices, mb.reduce_argmax(x=y, axis=1)

    with redirect_stderr(io.StringIO()):
        made = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16)
    path = tmp_path_factory.mktemp("old") / "m.mlpackage"
    made.save(str(path))
    return path


@pytest.mark.parametrize("version", [8, 9, 10])
def test_core_ml_tools_loads_what_was_raised(version: int, old: Path) -> None:
    coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load

    found = package.read(old)
    assert found.model.specificationVersion == 7
    before = [
        operation.type for scope in programs.scopes(found.model.mlProgram) for operation in scope.block.operations
    ]
    assert set(OPERATORS) <= set(before)
    upgrading.upgrade(found.model, version)
    program = load(found.model, version, str((old / package.WEIGHTS).parent))
    after = [operation.op_type for operation in program.functions["main"].operations]
    assert [kind for kind in after if kind != "const"] == [kind for kind in before if kind != "const"]
    assert [each.opset for each in found.model.mlProgram.functions.values()] == [f"CoreML{version - 1}"]
    (scope,) = programs.scopes(found.model.mlProgram)
    assert scope.opset == f"CoreML{version - 1}"


def test_what_is_as_new_stays_as_it_is(old: Path) -> None:
    found = package.read(old).model
    before = found.SerializeToString(deterministic=True)
    for version in (6, 7):
        upgrading.upgrade(found, version)
    assert found.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("kinds", "version", "expected"),
    [
        (["crop_resize", "relu", "non_maximum_suppression"], 8, "crop_resize, non_maximum_suppression: .*iOS16.*iOS17"),
        (["crop_resize"], 10, "crop_resize: .* iOS26"),
        (["constexpr_lut_to_dense"], 9, "constexpr_lut_to_dense"),
        (["constexpr_lut_to_dense"], 8, ""),
        (["relu"], 10, ""),
    ],
)
def test_operators_of_another_form(kinds: list[str], version: int, expected: str) -> None:
    made = model(7, [messages("MIL").Operation(type=kind) for kind in kinds], [])
    if not expected:
        upgrading.upgrade(made, version)
        assert made.specificationVersion == version
        return
    before = made.SerializeToString(deterministic=True)
    with pytest.raises(CompressorError, match=expected):
        upgrading.upgrade(made, version)
    assert made.SerializeToString(deterministic=True) == before


def test_casts_get_inputs(tmp_path: Path) -> None:
    def build(store: blob.Store) -> Any:
        operation = messages("MIL").Operation(type="constexpr_cast")
        operation.outputs.add(name="w", type=values.tensor_type(TYPES["float32"], (30,)))
        operation.attributes["name"].CopyFrom(values.string("w"))
        operation.attributes["source_val"].CopyFrom(
            values.value(blob.whole("float16", np.arange(30, dtype=F16)), store)
        )
        operation.attributes["output_dtype"].CopyFrom(values.string("fp32"))
        made = model(7, [operation], ["w"])
        upgrading.upgrade(made, 9)
        return made

    found = in_package(tmp_path, build)
    (scope,) = programs.scopes(found.model.mlProgram)
    assert set(scope.block.operations[0].inputs) == {"source_val", "output_dtype"}
    assert set(scope.block.operations[0].attributes) == {"name"}
    np.testing.assert_array_equal(materialized(tmp_path)["w"], np.arange(30, dtype=np.float32))


def test_weights_are_lowered_for_the_new_version(old: Path, tmp_path: Path) -> None:
    found = package.read(old)
    lifted = lift(found.model.mlProgram, found)
    made = {}
    blobs = blob.Blobs()
    for weight in lifted.weights:
        (site,) = lifted.sites[weight.name]
        made[site] = lowering.lower(site.output, Dense(decode(weight.encoding)), 9, blobs)
    programs.substitute(found.model.mlProgram, made)
    upgrading.upgrade(found.model, 9)
    write(tmp_path, found.model, blobs)
    again = {weight.name: weight for weight in read(tmp_path).weights}
    assert again.keys() == {weight.name for weight in lifted.weights}
    for weight in lifted.weights:
        np.testing.assert_array_equal(decode(again[weight.name].encoding), decode(weight.encoding))
