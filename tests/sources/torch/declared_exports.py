"""Models that are exported and compressed, each weight of which must be the trained one, in the file too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import safetensors.torch
import torch

from compressor import compress, encodings, sources
from compressor.model import Model
from compressor.sources.torch import InputSpec, export

FLAT = InputSpec((2, 64), dynamic={0: "batch"})
IMAGE = InputSpec((2, 16, 4, 4), dynamic={0: "batch"})


class Exported:
    """A model that was exported, read and compressed, each weight of which is compared with the trained one."""

    def __init__(
        self,
        source: Path,
        directory: Path,
        trained: Mapping[str, torch.Tensor],
        spec: InputSpec,
        name: str = "x",
        **settings,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        export(source, directory, **{"inputs": {name: spec}} | settings)
        self.path = directory / "model.onnx"
        self.model: Model = sources.read(directory)
        self.weights = {weight.name: weight.encoding for weight in self.model.weights}
        self.manifest = compress(self.model, directory / "compressed")
        written = {weight.name: weight.encoding for weight in sources.read(directory / "compressed").weights}
        self.stored = {short(one.name): one.encoding for one in self.manifest.weights if len(one.shape) > 1}
        for weight, encoding in self.weights.items():
            if weight not in trained:
                assert encodings.nbytes(encoding) <= 8  # a limit or a scale of an activation
                continue
            value = trained[weight].detach()
            assert encodings.dtype(encoding).name == str(value.dtype).removeprefix("torch.")
            for one in (encoding, written[weight]):
                decoded = encodings.decode(one).astype(np.float64)
                np.testing.assert_array_equal(decoded, value.double().numpy(), err_msg=weight)

    @property
    def names(self) -> dict[str, str]:
        return {short(name): encodings.name(one) for name, one in self.weights.items() if len(encodings.shape(one)) > 1}

    @property
    def notes(self) -> dict[str, str]:
        return {short(key.removeprefix("compressor.note.")): text for key, text in self.model.metadata.items()}

    def __getitem__(self, layer: str):
        return next(one for name, one in self.weights.items() if short(name) == layer)

    def run(self, x: torch.Tensor, path: Path | None = None) -> np.ndarray:
        session = ort.InferenceSession(path or self.path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]

    def check_results(self, model: torch.nn.Module, x: torch.Tensor, atol: float = 1e-6) -> None:
        expected = model(x).detach().numpy()
        assert np.abs(expected).max() > 100 * atol
        for path in (self.path, self.path.parent / "compressed" / "model.onnx"):
            np.testing.assert_allclose(self.run(x, path), expected, atol=atol)


def short(name: str) -> str:
    return name.removeprefix("layers.").removesuffix(".weight")


def kept(
    model: torch.nn.Module, tmp_path: Path, names: list[str], suffix: str = ".pt", dtype: str = "float32"
) -> Exported:
    """The state dict of `model`, exported with the factory of a model that declares nothing."""
    source, state = tmp_path / f"trained{suffix}", model.state_dict()
    if suffix == ".pt":
        torch.save(state, source)
    else:
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, source)
    spec = IMAGE if "conv" in names else FLAT
    args = {"names": names, "dtype": dtype}
    return Exported(source, tmp_path / "out", state, spec, factory="declared_networks:layers", args=args)
