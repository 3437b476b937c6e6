"""Sparse forms: a mask, and the values that it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import encodings
from compressor.arrays import UINT4, ArraySpec, NDArray, Shape
from compressor.encodings import Dense, Sparse
from compressor.kernels import expand, select
from compressor.packing import pack
from compressor.recognition import masks
from compressor.recognition.scan import scan
from compressor.recognition.schemes import EXACT, Candidate, Values, sparsify
from tests import strategies


def dense_inner(values: NDArray, spec: Values, where: NDArray) -> Values:
    return Dense(select(values, where))


def plain(values: NDArray) -> Candidate:
    return Candidate((), Dense(ArraySpec(values.shape, values.dtype)), "")


def test_the_example_of_the_guide() -> None:
    values = np.array([[0, 7, 0, 0, 0, 0, 0, 56.3]], np.float32)
    spec = Sparse(ArraySpec((1, 8), np.dtype(bool)), Dense(ArraySpec((2,), values.dtype)), (1, 8))
    encoded = sparsify.encode(values, spec, 0.0, dense_inner)
    assert pack(np.asarray(encoded.mask), 1).tolist() == [0b10000010]
    assert np.asarray(encoded.values.values).tolist() == [7, np.float32(56.3)]  # type: ignore[union-attr]


def test_a_layer_whose_size_is_no_multiple_of_8() -> None:
    values = np.random.default_rng(0).normal(size=(121, 21)).astype(np.float32)
    values.reshape(-1)[np.random.default_rng(1).permutation(2541)[:1143]] = 0
    (candidate,) = sparsify.detect(values, scan(values, 0.0), [plain(values)], 0.0, 0.0)
    assert encodings.nbytes(candidate.spec) == 318 + 1398 * 4
    assert candidate.evidence == "45.0% zeros, unstructured"
    encoded = sparsify.encode(values, candidate.spec, 0.0, dense_inner)  # type: ignore[arg-type]
    assert np.array_equal(encodings.decode(encoded), values)


def test_tiny_weights_are_not_zeros() -> None:
    """Weights around 1e-3, pruned: a plain threshold of 1e-3 would delete most that are left."""
    values = np.random.default_rng(0).normal(0, 1e-3, (128, 96)).astype(np.float32)
    values[np.random.default_rng(1).random((128, 96)) < 0.25] = 0
    (candidate,) = sparsify.detect(values, scan(values, 1e-3), [plain(values)], 0.01, 1e-3)
    assert candidate.loss == EXACT
    assert candidate.spec.values.values.size == np.count_nonzero(values)  # type: ignore[union-attr]


@given(strategies.shapes, st.data())
def test_a_mask_stored_by_block_is_the_mask(shape: Shape, data: st.DataObject) -> None:
    counts = data.draw(strategies.counts(shape))
    mask = expand(strategies.random(data.draw).random(counts) < 0.5, shape)
    values = mask.astype(np.float32)
    blocks, _ = masks.structure(values, 0.0)
    assert all(have % (dim // count) == 0 for have, dim, count in zip(blocks, shape, counts, strict=True))
    stored_shape = tuple(dim // block for dim, block in zip(shape, blocks, strict=True))
    spec = Sparse(ArraySpec(stored_shape, np.dtype(bool)), Dense(ArraySpec((int(mask.sum()),), values.dtype)), shape)
    stored, full = sparsify.mask(values, spec, 0.0)
    assert np.array_equal(full, mask)
    assert stored.shape == stored_shape
    assert np.array_equal(expand(stored, shape), mask)


@pytest.mark.parametrize(
    ("zeros", "dtype", "stored"),
    [
        (0.5, np.float32, "bool"),
        (0.6, np.float32, "bool"),
        (0.68, np.float32, "bool"),  # distances would take 2.6 % more
        (0.72, np.float32, "uint4"),  # 1.4 % more
        (0.72, np.float16, "bool"),  # 2.4 % more
        (0.74, np.float16, "uint4"),
        (0.9, np.float32, "uint4"),
        (0.97, np.float32, "uint8"),
        (0.9999, np.float32, "int32"),
    ],
)
def test_what_tells_the_places_is_the_smallest_but_for_a_mask(zeros: float, dtype: type, stored: str) -> None:
    """Distances are decoded sooner than a mask: they may take up to 2 % more with all that they belong to."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(512, 384)).astype(dtype)
    values[generator.random(values.shape) < zeros] = 0
    (candidate,) = sparsify.detect(values, scan(values, 0.0), [plain(values)], 0.0, 0.0)
    assert isinstance(candidate.spec, Sparse)
    assert candidate.spec.mask.dtype.name == stored
    encoded = sparsify.encode(values, candidate.spec, 0.0, dense_inner)
    assert encodings.spec(encoded) == candidate.spec
    assert np.array_equal(encodings.decode(encoded), values)


def test_blocks_keep_their_mask() -> None:
    values = np.repeat(np.random.default_rng(0).random((64, 16)) < 0.1, 4, axis=1).astype(np.float32)
    (candidate,) = sparsify.detect(values, scan(values, 0.0), [plain(values)], 0.0, 0.0)
    assert candidate.spec.mask == ArraySpec((64, 16), np.dtype(bool))  # type: ignore[union-attr]


def test_other_distances_than_were_planned_are_refused() -> None:
    values = np.eye(40, dtype=np.float32)
    spec = Sparse(ArraySpec((78,), UINT4), Dense(ArraySpec((40,), values.dtype)), (40, 40))
    with pytest.raises(ValueError, match="40 values at 78 stored places, got 40 at 118"):
        sparsify.mask(values, spec, 0.0)


def test_a_mask_of_other_blocks_is_refused() -> None:
    values = np.eye(4, dtype=np.float32)
    spec = Sparse(ArraySpec((2, 2), np.dtype(bool)), Dense(ArraySpec((4,), values.dtype)), (4, 4))
    with pytest.raises(ValueError, match=r"4 values in blocks of \[2, 2\], got 8"):
        sparsify.mask(values, spec, 0.0)


@pytest.mark.parametrize("zeros", [0, 1])
def test_without_zeros_there_is_nothing_to_leave_out(zeros: int) -> None:
    values = np.ones((8, 8), np.float32)
    values.reshape(-1)[:zeros] = 0
    assert len(list(sparsify.detect(values, scan(values, 1e-3), [plain(values)], 0.01, 1e-3))) == zeros


def test_a_palette_that_is_short_enough_without_zero() -> None:
    values = (np.arange(64 * 64) % 257).astype(np.float32).reshape(64, 64)
    found = list(sparsify.detect(values, scan(values, 0.0), [plain(values)], 0.0, 0.0))
    assert [encodings.name(candidate.spec) for candidate in found] == ["sparse", "sparse(palettized8)"]
    assert found[1].evidence == "0.4% zeros, unstructured; 256 distinct non-zero values"


def test_nothing_to_store_under_a_mask_has_no_sparse_form() -> None:
    values = np.diag(np.arange(1, 401, dtype=np.float32))
    assert not list(sparsify.detect(values, scan(values, 0.0), [], 0.0, 0.0))
