"""How far values are apart, in the way in which they agree most."""

import numpy as np
import pytest

from compressor.blocks import BLOCK
from compressor.differences.values import Values, compare

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(size=(5, 7)).astype(np.float32)
SQUARE = RANDOM.normal(size=(6, 6)).astype(np.float32)
F16, F32 = np.float16, np.float32
KERNEL = np.arange(135, dtype=np.float32).reshape(3, 3, 3, 5)
"""As Keras has it: height, width, in, out. Its first three axes are of one size."""
TUNED = KERNEL.transpose(3, 2, 0, 1) + 2 * (KERNEL.transpose(3, 2, 0, 1) == 7)
"""As ONNX has it, one value changed."""


def floats(*values, dtype=F32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (MATRIX, MATRIX.copy(), Values("equal")),
        (MATRIX, MATRIX.astype(np.float64), Values("equal")),
        (floats(0, 1), floats(-0.0, 1), Values("zeros")),
        (floats(np.nan, np.inf), floats(np.nan, np.inf), Values("equal")),
        (MATRIX, MATRIX.astype(F16), Values("rounded")),
        (MATRIX.astype(F16), MATRIX, Values("rounded")),
        (floats(1e6, 1), floats(np.inf, 1, dtype=F16), Values("apart", "", 1, 0.0, 0.0, 1)),  # beyond what float16 has
        (floats(3, 4), floats(3, 5), Values("apart", "", 1, 1.0, 0.2)),
        (floats(0, 0), floats(0, 5), Values("apart", "", 1, 5.0, None)),
        (floats(3, 4), floats(np.nan, 5), Values("apart", "", 2, 1.0, 0.2, 1)),
        (floats(3, np.inf), floats(3, 4), Values("apart", "", 1, 0.0, 0.0, 1)),
        (np.array([1, 2], np.int64), np.array([1, 3], np.int64), Values("apart", "", 1, 1.0, (1 / 5) ** 0.5)),
        (np.array([1, 2], np.int8), floats(1, 2.5), Values("apart", "", 1, 0.5, 0.5 / 5**0.5)),
        (np.array([1, 2], np.int8), floats(1, 2), Values("equal")),
        (MATRIX, MATRIX.T, Values("equal", "transposed")),
        (SQUARE, SQUARE.T.astype(F16), Values("rounded", "transposed")),
        (KERNEL, KERNEL.transpose(3, 2, 0, 1).astype(F16), Values("equal", "transposed")),
        (KERNEL[..., :3], KERNEL[..., :3].transpose(3, 2, 0, 1), Values("equal", "transposed")),
        (KERNEL, TUNED, Values("apart", "transposed", 1, 2.0, 2 / float((KERNEL**2).sum()) ** 0.5)),
        (KERNEL, KERNEL.reshape(5, 3, 3, 3), Values("equal", "reshaped")),
        (MATRIX, MATRIX[[3, 1, 0, 2, 4]], Values("equal", "reordered")),
        (MATRIX, MATRIX[[3, 1, 0, 2, 4]].astype(F16), Values("rounded", "reordered")),
        (np.zeros((3, 2), F32), np.zeros((3, 2), F32), Values("equal")),
        (MATRIX, MATRIX.reshape(5, 7, 1), Values("equal", "reshaped")),
        (MATRIX, MATRIX[:4], Values("none", relative_rms=None)),
        (floats(), floats(), Values("equal")),
        (np.array(2.0, F32), np.array(2.0, F32), Values("equal")),
    ],
)
def test_two_weights(before, after, expected):
    assert compare(before, after) == expected


def test_every_block_is_looked_at():
    before = np.ones(3 * BLOCK + 5, F32)
    for place in (0, BLOCK, before.size - 1):
        after = before.copy()
        after[place] = 1.5
        assert compare(before, after) == Values("apart", "", 1, 0.5, 0.5 / before.size**0.5)
