"""Every encoding in every version: written, read back, and computed by Core ML Tools, it is what `decode` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from compressor import packing
from compressor.arrays import CODE_DTYPES, Array, NDArray, PackedArray
from compressor.encodings import Dense, Encoding, Palettized, Quantized, Sparse, decode, map_arrays, name, spec
from compressor.formats.coreml import constants, lowering, package, values
from compressor.formats.coreml.blob import Blobs
from compressor.targets.coreml.legality import legalize, why_not
from tests import conformance, strategies
from tests.conformance import Case, same
from tests.formats.coreml.models import materialized, save
from tests.strategies import bits_of

VERSIONS = (7, 8, 9, 10)

# Core ML Tools takes its time: a form in so many is computed, others in each version.
SAMPLED = {7: 3, 8: 7, 9: 4, 10: 5}

F16 = np.float16


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(conformance.forms())


def legal(cases: list[Case], version: int) -> dict[str, tuple[str, Encoding]]:
    """The legal forms under names that programs can spell."""
    found = [(case, encoding) for case, encoding in cases if not why_not(encoding, version)]
    return {f"w{number}": (case, legalize(encoding, version)) for number, (case, encoding) in enumerate(found)}


@pytest.mark.parametrize(("version", "step", "fewest"), [(7, 1, 700), (8, 3, 200), (9, 1, 1700), (10, 3, 500)])
def test_what_is_written_is_read_back(version: int, step: int, fewest: int, cases: list[Case], tmp_path: Path) -> None:
    forms = legal(cases[::step], version)
    assert len(forms) >= fewest
    found = package.read(save(tmp_path, version, {name: encoding for name, (_, encoding) in forms.items()}))
    lifted = constants.lift(found.model.mlProgram, found)
    assert lifted.opaque == {}
    read = {weight.name: weight.encoding for weight in lifted.weights}
    assert read.keys() == forms.keys()
    wrong = [case for each, (case, encoding) in forms.items() if spec(read[each]) != spec(encoding)]
    wrong += [
        case for each, (case, encoding) in forms.items() if bits_of(decode(read[each])) != bits_of(decode(encoding))
    ]
    assert wrong == []


@pytest.mark.parametrize("version", VERSIONS)
def test_core_ml_tools_computes_the_same(version: int, cases: list[Case], tmp_path: Path) -> None:
    forms = legal(cases[:: SAMPLED[version]], version)
    computed = materialized(save(tmp_path, version, {name: encoding for name, (_, encoding) in forms.items()}))
    assert [case for each, (case, encoding) in forms.items() if not same(computed[each], decode(encoding))] == []


def packed(array: Array, width: int) -> Array:
    if width >= 8:
        return array
    return PackedArray(packing.pack(np.asarray(array), width), array.shape, array.dtype, width)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_knows_the_size_of_everything(version: int, cases: list[Case], tmp_path: Path) -> None:
    forms, layout, written = legal(cases[::7], version), Blobs(), Blobs()
    for each, (case, encoding) in forms.items():
        planned = lowering.lower(each, spec(encoding), version, layout)
        made = lowering.lower(each, map_arrays(packed, encoding), version, written)
        assert [one.ByteSize() for one in planned] == [one.ByteSize() for one in made], case
        assert layout.end == written.end, case
    path = save(tmp_path, version, {name: encoding for name, (_, encoding) in forms.items()})
    assert (path / package.WEIGHTS).stat().st_size == layout.end


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(encoding=strategies.encodings())
def test_any_bits_survive(version: int, encoding: Encoding, tmp_path: Path) -> None:
    if why_not(encoding, version):
        return
    made = legalize(encoding, version)
    assert spec(made) == legalize(spec(encoding), version)
    assert bits_of(decode(made)) == bits_of(decode(encoding))
    found = package.read(save(tmp_path, version, {"w": made}))
    (weight,) = constants.lift(found.model.mlProgram, found).weights
    assert bits_of(decode(weight.encoding)) == bits_of(decode(encoding))


@pytest.mark.parametrize("count", [1, 9, 10])
@pytest.mark.parametrize("of", [np.float32, np.float16])
def test_small_values_lie_in_the_program_whatever_their_bits(of: Any, count: int, tmp_path: Path) -> None:
    """A signalling NaN, which becomes another one where it is cast."""
    unsigned = np.dtype(f"u{np.dtype(of).itemsize}")
    array = np.full(count, int(np.array(np.inf, of).view(unsigned)) + 1, unsigned).view(of)
    path = save(tmp_path, 9, {"w": Dense(array)})
    assert (path / package.WEIGHTS).exists() == (count >= 10)
    found = package.read(path)
    (weight,) = constants.lift(found.model.mlProgram, found).weights
    assert bits_of(decode(weight.encoding)) == bits_of(array)


# The examples of Core ML Tools' docstrings.


def of(*numbers: float, shape: tuple[int, ...], dtype: Any = F16) -> NDArray:
    return np.array(numbers, np.float64).astype(dtype).reshape(shape)


TABLES = of(1, 5, 9, 13, 2, 10, 18, 26, shape=(2, 1, 4, 1))
GROUPED = Palettized(of(2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3, shape=(6, 2), dtype=np.uint8), TABLES)
ROWS = of(1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 4), dtype=np.bool_)
SPARSE_BLOCKWISE = Sparse(
    ROWS,
    Quantized(
        Dense(of(10, 11, 3, 4, 5, 6, 7, 8, 9, shape=(9,), dtype=np.int8)),
        of(0.1, 0.2, 0.3, 0.4, shape=(4, 1), dtype=np.float32),
        of(1, 2, 3, 4, shape=(4, 1), dtype=np.int8),
    ),
    (4, 4),
)
AFFINE = Quantized(
    Dense(of(1, 2, 3, 1, 2, 3, shape=(2, 3), dtype=np.int8)),
    of(2, 4, shape=(2, 1)),
    of(1, 2, shape=(2, 1), dtype=np.int8),
)
SPARSE = Sparse(of(1, 1, 0, 1, shape=(4, 1), dtype=np.bool_), Dense(of(1, 2, 4, shape=(3,))), (4, 1))


@pytest.mark.parametrize(
    ("encoding", "version", "expected"),
    [
        (SPARSE, 7, [1, 2, 0, 4]),
        (SPARSE, 9, [1, 2, 0, 4]),
        (AFFINE, 7, [0, 2, 4, -4, 0, 4]),
        (AFFINE, 9, [0, 2, 4, -4, 0, 4]),
        (GROUPED, 9, [9, 13, 13, 1, 5, 1, 26, 2, 18, 10, 2, 26]),
        (SPARSE_BLOCKWISE, 9, [0.9, 1, 0, 0, 0.2, 0.4, 0.6, 0, 0, 0, 0.9, 1.2, 1.6, 2, 0, 0]),
    ],
)
def test_known_answers(encoding: Encoding, version: int, expected: list[float], tmp_path: Path) -> None:
    path = save(tmp_path, version, {"w": legalize(encoding, version)})
    found = package.read(path)
    (weight,) = constants.lift(found.model.mlProgram, found).weights
    np.testing.assert_allclose(decode(weight.encoding).reshape(-1), expected, rtol=1e-6)
    np.testing.assert_allclose(materialized(path)["w"].reshape(-1), expected, rtol=1e-6)


def attribute(operation: Any, key: str) -> list[Any]:
    array = values.elements(operation.attributes[key], None)  # type: ignore[arg-type]
    assert array is not None
    return np.asarray(array).reshape(-1).tolist()


def test_the_attributes_of_ios16() -> None:
    (sparse,) = lowering.lower("w", SPARSE, 7, Blobs())
    assert sparse.type == "constexpr_sparse_to_dense"
    assert attribute(sparse, "mask") == [11]
    assert attribute(sparse, "nonzero_data") == [1, 2, 4]
    assert attribute(sparse, "shape") == [4, 1]
    (affine,) = lowering.lower("w", AFFINE, 7, Blobs())
    assert affine.type == "constexpr_affine_dequantize"
    assert [attribute(affine, key) for key in ("axis", "scale", "zero_point")] == [[0], [2, 4], [1, 2]]
    single = Quantized(AFFINE.data, of(2, shape=(1, 1)), of(3, shape=(1, 1), dtype=np.int8))
    (affine,) = lowering.lower("w", single, 7, Blobs())
    assert affine.attributes["scale"].type.tensorType.rank == 0


INT8, UINT4 = CODE_DTYPES["int8"], CODE_DTYPES["uint4"]
RNG = np.random.default_rng(0)
TABLE = conformance.palette(RNG, (4, 4), INT8, 16)
NON_ZEROS = Palettized(np.zeros(9, np.uint8), TABLE.lut)


@pytest.mark.parametrize(
    ("encoding", "version", "expected"),
    [
        (Dense(np.zeros((4, 4), F16)), 7, "const"),
        (Palettized(GROUPED.indices, TABLES[:1]), 7, "lut_to_dense"),
        (GROUPED, 9, "lut_to_dense"),
        (AFFINE, 9, "blockwise_shift_scale"),
        (
            Sparse(ROWS, Palettized(np.zeros(9, np.uint8), of(1, 2, shape=(1, 1, 2, 1))), (4, 4)),
            9,
            "lut_to_sparse sparse_to_dense",
        ),
        (SPARSE_BLOCKWISE, 9, "sparse_blockwise_shift_scale sparse_to_dense"),
        (Quantized(TABLE, of(2, shape=(1, 1))), 9, "blockwise_shift_scale lut_to_dense"),
        (Quantized(TABLE, of(2, shape=(1, 1))), 10, "lut_to_dense blockwise_shift_scale"),
        (
            Sparse(ROWS, Quantized(NON_ZEROS, of(2, shape=(1, 1))), (4, 4)),
            9,
            "blockwise_shift_scale lut_to_sparse sparse_to_dense",
        ),
        (
            Sparse(ROWS, Quantized(NON_ZEROS, of(2, shape=(1, 1))), (4, 4)),
            10,
            "lut_to_sparse sparse_blockwise_shift_scale sparse_to_dense",
        ),
    ],
)
def test_operations(encoding: Encoding, version: int, expected: str) -> None:
    made = lowering.lower("w", encoding, version, Blobs())
    assert " ".join(one.type.removeprefix("constexpr_") for one in made) == expected
    assert made[-1].outputs[0].name == "w"
    names = [output.name for one in made for output in one.outputs]
    assert len(set(names)) == len(names)
    assert all(each.startswith("w") for each in names)
    assert all(one.attributes["name"].immediateValue.tensor.strings.values for one in made)


def test_operations_again_under_another_name() -> None:
    encoding = Sparse(ROWS, Quantized(NON_ZEROS, of(2, shape=(1, 1))), (4, 4))
    made = lowering.lower("w", encoding, 10, Blobs())
    again = lowering.renamed(made, "w", "other")
    assert [one.SerializeToString(deterministic=True) for one in again] == [
        one.SerializeToString(deterministic=True) for one in lowering.lower("other", encoding, 10, Blobs())
    ]
    assert made[-1].outputs[0].name == "w"


def test_the_blobs_of_a_weight_come_in_the_order_of_its_operations() -> None:
    store = Blobs()
    encoding = conformance.quantized(
        RNG, Dense(conformance.codes(RNG, (12, 40), UINT4)), np.dtype(F16), (12, 2), zero_point=True
    )
    lowering.lower("w", encoding, 9, store)
    assert [(one.type.name, one.dims) for one in store.stored.values()] == [
        ("uint4", (12, 40)),
        ("float16", (12, 2)),
        ("uint4", (12, 2)),
    ]
    assert name(encoding) == "uint4"
