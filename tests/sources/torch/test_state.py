"""The weights of a checkpoint without its model."""

import numpy as np
import pytest
import safetensors.torch
import torch

import compressor
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
        (VALUES.to_sparse(), "float32", VALUES.numpy()),
        (torch.complex(VALUES, -VALUES).conj(), "float32", np.stack([VALUES, VALUES], -1)),
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


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_a_tensor_without_a_shape_is_named(tmp_path):
    torch.save({"w": torch.nested.nested_tensor([VALUES[0], VALUES[1, :2]])}, tmp_path / "n.pt")
    with pytest.raises(CompressorError, match=r"n.pt: w is a nested tensor, which has no shape"):
        sources.weights(tmp_path / "n.pt")


def test_a_pickle_that_runs_code_is_not_read(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(CompressorError, match=r"runs code .* Then name the graph that `compressor export` writes"):
        sources.weights(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_counters_and_masks_beside_the_weights(tmp_path, suffix):
    """What no form is for stays what it is, on targets that would not hold it in a graph either."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.Linear(64, 64))
    state = network.state_dict()
    state |= {"2.weight": (state["2.weight"] * 20).round() / 20, "mask": torch.rand(64, 64) > 0.5}
    state |= {"ids": torch.arange(5000, dtype=torch.int32).reshape(50, 100)}
    path = tmp_path / f"m{suffix}"
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert compressor.detect(path).compressible == 1
    for target in ("onnxruntime", "iOS17"):
        facts = {choice.name: choice.facts for choice in compressor.dry_run(path, target=target).choices}
        assert facts["2.weight"].encoding == ("palettized3" if target == "onnxruntime" else "palettized4")
        assert facts["ids"].encoding in ("dense", "uint8")
        assert facts["ids"].nbytes == facts["ids"].dense_nbytes
    assert {one.name for one in compressor.inspect(path).weights} == facts.keys()
