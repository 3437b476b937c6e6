"""Variants: each is what `detect` recognises as that kind of compression, and no worse than it need be."""

import ml_dtypes
import numpy as np
import pytest
from sklearn.cluster import KMeans

from compressor.encodings import Dense, decode, nbytes, spec
from compressor.recognition.find import find
from compressor.recognition.findings import Settings
from compressor.sensitivity import means
from compressor.sensitivity.variants import VARIANTS, palettized, pruned, quantized
from compressor.weight import Weight

WEIGHT = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)


@pytest.mark.parametrize(
    ("variant", "evidence", "bytes_a_weight"),
    [
        ("pruned50", "50.0% zeros, unstructured", 1 / 8 + 4 / 2),
        ("pruned75", "75.0% zeros, unstructured", 4 / 4 + 785 / (64 * 96)),
        ("int8", "int8 grid per channel along axis 0", 1 + 4 / 96),
        ("int4", "int4 grid per channel along axis 0", 1 / 2 + 4 / 96),
        ("palette4", "16 distinct values", 1 / 2 + 16 * 4 / (64 * 96)),
        ("palette2", "4 distinct values", 1 / 4 + 4 * 4 / (64 * 96)),
    ],
)
def test_a_variant_is_what_detect_recognises(variant, evidence, bytes_a_weight):
    encoding = VARIANTS[variant].encode(WEIGHT, 0)
    assert nbytes(spec(encoding)) == pytest.approx(bytes_a_weight * WEIGHT.size)
    found = find(Weight("w", Dense(decode(encoding))), Settings())
    assert evidence in found.evidence
    assert nbytes(spec(encoding)) in [nbytes(one.spec) for one in found.candidates]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_dtype_and_the_shape_stay(variant, dtype):
    values = WEIGHT[:8, :12].astype(dtype).reshape(8, 3, 2, 2)
    made = decode(VARIANTS[variant].encode(values, 0))
    assert (made.dtype, made.shape) == (values.dtype, values.shape)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([4, -1, 3, 2], 0.5, [4, 0, 3, 0]),
        ([1, -1, 1, 1], 0.5, [0, 0, 1, 1]),  # equal magnitudes: the first ones
        ([0, 5, 0, 0], 0.5, [0, 5, 0, 0]),  # as many zeros already
        ([0, 0, 1, 2], 0.75, [0, 0, 0, 2]),
        ([1, 2, 3], 0.5, [0, 0, 3]),  # 1.5 of 3 are 2
    ],
)
def test_pruned(values, share, expected):
    assert decode(pruned(np.array([values], np.float32), 0, share)).tolist() == [expected]


@pytest.mark.parametrize(("axis", "scales"), [(0, [[1 / 127], [2 / 127]]), (1, [[2 / 127, 1 / 127, 1.5 / 127]])])
def test_a_channel_has_a_scale_of_its_own(axis, scales):
    encoding = quantized(np.array([[1, 0.5, 0], [-2, 1, 1.5]], np.float32), axis, np.dtype(np.int8))
    np.testing.assert_allclose(encoding.scale, scales, rtol=1e-6)


def test_a_channel_of_zeros_has_a_finite_scale():
    encoding = quantized(np.array([[0, 0], [7, -7]], np.float32), 0, np.dtype(ml_dtypes.int4))
    assert encoding.scale.tolist() == [[1], [1]]
    assert decode(encoding).tolist() == [[0, 0], [7, -7]]


def test_values_that_are_a_palette_stay():
    values = np.random.default_rng(1).choice(np.array([-0.3, 0.1, 0.7], np.float32), (16, 16))
    assert np.array_equal(decode(palettized(values, 0, 2)), values)


def cost(values, centres):
    return float(np.square(values.astype(np.float64) - centres[means.nearest(values, centres)]).sum())


@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.parametrize("power", [1, 3], ids=["normal", "long tails"])
def test_centres_are_as_good_as_ten_random_beginnings_of_a_peer(power, count):
    values = (WEIGHT**power).reshape(-1)
    peer = KMeans(count, n_init=10, random_state=0).fit(values[:, None].astype(np.float64))
    assert cost(values, means.means(values, count)) <= 1.001 * peer.inertia_


def test_the_order_of_values_does_not_matter():
    shuffled = np.random.default_rng(2).permutation(WEIGHT.reshape(-1))
    assert np.array_equal(means.means(shuffled, 16), means.means(WEIGHT, 16))
