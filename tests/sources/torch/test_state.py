"""The weights of a checkpoint without its model."""

import numpy as np
import pytest
import torch

from compressor import sources
from compressor.encodings import decode
from compressor.errors import CompressorError

VALUES = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8


@pytest.mark.parametrize(
    ("tensor", "dtype", "expected"),
    [
        (VALUES, "float32", VALUES.numpy()),
        (VALUES.T, "float32", VALUES.numpy().T),
        (VALUES.to(torch.bfloat16), "bfloat16", VALUES.numpy()),
        (VALUES.to(torch.float8_e4m3fn), "float32", VALUES.numpy()),
        (torch.nn.Parameter(VALUES), "float32", VALUES.numpy()),
        (torch.tensor(3), "int64", np.array(3)),
    ],
)
def test_every_kind_of_tensor_is_values(tmp_path, tensor, dtype, expected):
    torch.save({"state_dict": {"w": tensor, "extra": "text"}}, tmp_path / "c.ckpt")
    (weight,) = sources.weights(tmp_path / "c.ckpt").weights
    values = decode(weight.encoding)
    assert (weight.name, values.dtype.name) == ("w", dtype)
    np.testing.assert_array_equal(values.astype(expected.dtype), expected)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_codes_are_values_too(tmp_path):
    torch.save({"w": torch.quantize_per_tensor(VALUES, 0.125, 0, torch.qint8)}, tmp_path / "c.pt")
    (weight,) = sources.weights(tmp_path / "c.pt").weights
    np.testing.assert_array_equal(decode(weight.encoding), VALUES.numpy())


@pytest.mark.filterwarnings("ignore:.*script.* is deprecated:DeprecationWarning")
def test_a_program_has_no_state_dict(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "s.pt"))
    with pytest.raises(CompressorError, match=r"s.pt: holds a program, not a state dict"):
        sources.weights(tmp_path / "s.pt")


def test_a_pickle_that_runs_code_is_not_read(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(CompressorError, match=r"runs code .* Then name the graph that `compressor export` writes"):
        sources.weights(tmp_path / "m.pt")
