"""Masks, norms and prefixes: what stands apart from a weight in a checkpoint is part of it in the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from compressor.errors import CompressorError
from compressor.sources.torch.load import fill, load
from compressor.sources.torch.merge import unhooked, unparametrized

pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.ConvTranspose1d(1, 3, 2)).eval()


class Masked(nn.Module):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def pruned(model: nn.Module) -> None:
    prune.random_unstructured(model[0], "weight", 0.5)
    prune.ln_structured(model[0], "weight", 0.25, n=2, dim=0)
    prune.l1_unstructured(model[2], "weight", 4)
    prune.random_unstructured(model[0], "bias", 2)


def masked(model: nn.Module) -> None:
    parametrize.register_parametrization(model[0], "weight", Masked(torch.rand(8, 6) > 0.5))
    parametrize.register_parametrization(model[0], "weight", Masked((torch.rand(8, 6) > 0.5).float()))


class Scheduled(Masked):
    """As coreai-opt prunes: a mask, and the counter of its schedule."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__(mask)
        self.register_buffer("step_count", torch.tensor(3))


def scheduled(model: nn.Module) -> None:
    parametrize.register_parametrization(model[0], "weight", Scheduled((torch.rand(8, 6) > 0.5).float()))


def trained(module: nn.Module, *shape: int) -> None:
    """In training mode, since a spectral norm updates its vectors there."""
    module.train()
    for _ in range(3):
        module(torch.randn(shape))
    module.eval()


PARTS: dict[str, Callable[[nn.Module], object]] = {
    "prune": pruned,
    "masks": masked,
    "scheduled masks": scheduled,
    "weight norm": lambda m: (parametrizations.weight_norm(m[0]), parametrizations.weight_norm(m[2], dim=1)),
    "weight norm of all": lambda m: parametrizations.weight_norm(m[0], dim=None),
    "old weight norm": lambda m: (weight_norm(m[0]), weight_norm(m[3], dim=1)),
    "spectral norm": lambda m: (
        parametrizations.spectral_norm(m[0]),
        trained(m[0], 2, 6),
        parametrizations.spectral_norm(m[3]),
    ),
    "old spectral norm": lambda m: (
        spectral_norm(m[0]),
        trained(m[0], 2, 6),
        spectral_norm(m[3]),
        trained(m[3], 2, 1, 5),
    ),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("of", ["the file", "the module"])
def test_parts_become_the_weight(tmp_path: Path, parts: str, of: str):
    torch.manual_seed(0)
    source = network()
    PARTS[parts](source)
    source.eval()
    x = torch.randn(3, 1, 6)
    first, last = source[:3](x), source[3](torch.ones(1, 1, 4))
    model = network()
    if of == "the module":
        PARTS[parts](model)
    fill(model, source.state_dict(), tmp_path / "a.pt", "it")
    model = unparametrized(unhooked(model))
    names = {"0.weight", "0.bias", "2.weight", "3.weight", "3.bias"}
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model[:3](x), first)
    torch.testing.assert_close(model[3](torch.ones(1, 1, 4)), last)
    if "norm" not in parts:
        expected = source[0].weight.detach()
        assert torch.equal(model[0].weight, expected)
        assert (expected == 0).float().mean() > 0.4


def test_parts_that_nobody_knows_are_listed(tmp_path: Path):
    state = network().state_dict()
    state["0.parametrizations.weight.original"] = state.pop("0.weight")
    state["0.parametrizations.weight.0.base"] = torch.randn(3)
    with pytest.raises(CompressorError, match=r"missing from the file: 0\.weight; unknown to the model: 0\.parametri"):
        fill(network(), state, tmp_path / "a.pt", "it")


def test_weights_that_a_training_still_computes(tmp_path: Path):
    state = network().state_dict()
    state["0.parametrizations.weight.original"] = state.pop("0.weight")
    state["0.parametrizations.weight.0.fake_quant_enabled"] = torch.ones(1)
    with pytest.raises(CompressorError, match=r"coreai-opt still computes its weights: save what its `finalize\("):
        fill(network(), state, tmp_path / "a.pt", "it")


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "model._orig_mod.", "net.module."])
def test_a_prefix_of_all_names_is_dropped(tmp_path: Path, prefix: str):
    source, model = network(), network()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "last.ckpt")
    fill(model, torch.load(tmp_path / "last.ckpt")["state_dict"], tmp_path / "last.ckpt", "it")
    assert torch.equal(model[0].weight, source[0].weight)


def lightning(**modules: nn.Module) -> dict[str, torch.Tensor]:
    """What a LightningModule with these attributes saves, and the weights by class of its loss."""
    state = {f"{at}.{name}": value for at, it in modules.items() for name, value in it.state_dict().items()}
    return state | {"criterion.weight": torch.ones(5)}


def test_what_stands_beside_the_model_in_a_wrapper_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = network(), network()
    fill(model, lightning(net=source), tmp_path / "best.ckpt", "it")
    assert torch.equal(model[0].weight, source[0].weight)
    assert "best.ckpt: left out, beside the model of it: criterion.weight." in caplog.text


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"net": network(), "averaged": network()}, r"unknown to the model: net\.0\.weight .*and 3 more"),
        ({"net": nn.Sequential(*network(), nn.Linear(2, 2))}, r"it: unknown to the model: 4\.weight"),
        ({"net": network()[:3]}, r"missing from the file: 0\.weight \(closest: net\.0\.weight\)"),
    ],
    ids=["two fit", "more layers", "fewer layers"],
)
def test_no_part_of_a_wrapper_stands_for_another_model(
    tmp_path: Path, modules: dict[str, nn.Module], message: str
) -> None:
    with pytest.raises(CompressorError, match=message):
        fill(network(), lightning(**modules), tmp_path / "best.ckpt", "it")


def test_a_compiled_part(tmp_path: Path):
    source, model = network(), network()
    state = {name.replace("2.", "2._orig_mod."): value for name, value in source.state_dict().items()}
    fill(model, state, tmp_path / "a.pt", "it")
    assert torch.equal(model[2].weight, source[2].weight)


def test_a_prefix_stays_where_names_are_missing_without_it(tmp_path: Path):
    state = {f"model.{name}": value for name, value in network().state_dict().items() if name != "2.weight"}
    message = r"missing from the file: 0\.weight \(closest: model\.0\.weight\).*unknown to the model: model\.0\.weight"
    with pytest.raises(CompressorError, match=message):
        fill(network(), state, tmp_path / "a.pt", "it")


class Settings:
    """What Lightning saves beside the weights when a module is given an object."""


def test_pickled_hyper_parameters_are_refused(tmp_path: Path):
    torch.save({"state_dict": network().state_dict(), "hyper_parameters": {"it": Settings()}}, tmp_path / "last.ckpt")
    with pytest.raises(CompressorError, match=r"runs code.*Settings.*set export\.allow_pickle: true"):
        load(tmp_path / "last.ckpt", factory="torch.nn:Identity", args={}, allow_pickle=False)
