"""Tensors of torchao's whose codes are floats: NF4, float8, MX and NVFP4 keep their codes and scales."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.sources.torch import InputSpec
from tests.sources.torch.declared_exports import FLAT, Exported

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


NETWORKS = "declared_networks"


@pytest.fixture(scope="module")
def makers() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """By layer: what torchao makes of a weight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.mx_formats.mx_tensor import MXTensor
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
        from torchao.prototype.quantization.codebook_coreml import CodebookQuantizedTensor
        from torchao.quantization import Float8Tensor
        from torchao.quantization.granularity import PerRow, PerTensor
        from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4
    whole = torch.tensor(0.0007)
    return {
        "grouped": lambda weight: CodebookQuantizedTensor.from_float(weight, torch.uint4, [-1, 16]),
        "normal": lambda weight: to_nf4(weight, 64, 2),
        "short": lambda weight: to_nf4(weight, 32, 4),
        "rows": lambda weight: Float8Tensor.from_hp(weight, granularity=PerRow()),
        "one": lambda weight: Float8Tensor.from_hp(weight, granularity=PerTensor()),
        "e5m2": lambda weight: Float8Tensor.from_hp(weight, float8_dtype=torch.float8_e5m2, granularity=PerRow()),
        "mx8": lambda weight: MXTensor.to_mx(weight, torch.float8_e4m3fn, 32),
        "mx4": lambda weight: MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32),
        "nv": NVFP4Tensor.to_nvfp4,
        "nv2": lambda weight: NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=whole),
        "kernel": lambda weight: NVFP4Tensor.to_nvfp4(weight, is_swizzled_scales=True),
    }


def values(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What torchao gives back."""

    def plain(tensor):
        if hasattr(tensor, "get_original_weight"):
            return tensor.get_original_weight()
        return tensor.dequantize() if hasattr(tensor, "qdata") or hasattr(tensor, "codebook") else tensor

    return {name: plain(tensor) for name, tensor in state.items()}


def exported(networks, makers, path: Path, dtype: str, names: list[str], opset: int) -> Exported:
    model = networks.layers(names, dtype)
    for name in names:
        weight = makers[name](model.layers[name].weight.data)
        model.layers[name].weight = torch.nn.Parameter(weight, requires_grad=False)
    torch.save(model.state_dict(), path / "trained.pt")
    args = {"names": names, "dtype": dtype}
    spec = FLAT if dtype == "float32" else InputSpec((2, 64), dtype=dtype)
    settings = {"factory": "declared_networks:layers", "args": args, "opset": opset}
    return Exported(path / "trained.pt", path / "out", values(model.state_dict()), spec, **settings)


TOLD = {
    "grouped": "palettized4",
    "normal": "scaled(palettized4)",
    "short": "scaled(palettized4)",
    "rows": "scaled(float8_e4m3fn)",
    "one": "scaled(float8_e4m3fn)",
    "e5m2": "scaled(float8_e5m2)",
    "mx8": "scaled(float8_e4m3fn)",
    "mx4": "scaled(palettized4)",
    "nv": "scaled(palettized4)",
    "nv2": "scaled(palettized4)",
    "kernel": "dense",
}


@pytest.mark.parametrize("opset", [18, 24])
def test_float_codes_are_kept(networks, makers, tmp_path: Path, monkeypatch, opset: int) -> None:
    # torchao allows its classes when it is imported, which a process that reads a file has not done yet.
    monkeypatch.setattr(torch._weights_only_unpickler, "_marked_safe_globals_set", set())
    found = exported(networks, makers, tmp_path, "float32", list(TOLD), opset)
    as_tables = {
        name: form.replace("float8_e4m3fn", "palettized8").replace("float8_e5m2", "palettized8")
        for name, form in TOLD.items()
    }
    assert found.names == (TOLD if opset == 24 else as_tables)
    assert found.notes == {"kernel": "torchao's NVFP4Tensor is kept as values: its scales are in the order of a kernel"}


def test_float_codes_in_bfloat16(networks, makers, tmp_path: Path) -> None:
    """Scales that are float32 are not rounded: where bfloat16 does not hold them, there are values."""
    layers = [name for name in TOLD if name != "grouped"]  # whose maker knows no bfloat16
    found = exported(networks, makers, tmp_path, "bfloat16", layers, 24)
    values_of = {"nv2", "kernel"}
    assert found.names == {name: "dense" if name in values_of else TOLD[name] for name in layers}
    told = "torchao's NVFP4Tensor is kept as values: its scales are float32 that bfloat16 does not hold"
    assert found.notes["nv2"] == told
