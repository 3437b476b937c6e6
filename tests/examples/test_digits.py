"""The bundled example: its data, what its projections promise, and the checkpoint that a short training writes."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.ao.nn import quantized

from examples.digits import data, finetune
from examples.digits.model import create, known_deprecations
from examples.digits.projections import (
    FLOOR,
    Projection,
    StraightThrough,
    blocks,
    magnitude,
    n_of_m,
    palette,
    sparse_palette,
)

ROOT = Path(__file__).parents[2]
SETTINGS: Mapping[str, float] = {
    "seed": 3,
    "dense_epochs": 1,
    "compressed_epochs": 1,
    "batch_size": 64,
    "learning_rate": 0.003,
    "shift": 2,
    "rotation": 10,
    "sparsity": 0.75,
    "n": 2,
    "m": 4,
    "block": 4,
    "palette_bits": 4,
}
SUBSET = 128


def write_params(path: Path, settings: Mapping[str, object]) -> Path:
    YAML().dump({"finetune": dict(settings), "other": {"key": 1}}, path)
    return path


@pytest.fixture
def restored_torch() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch, restored_torch: None) -> None:
    images, labels = data.training()
    inputs, answers = data.held_out()
    monkeypatch.setattr(data, "training", lambda: (images[:SUBSET], labels[:SUBSET]))
    monkeypatch.setattr(data, "held_out", lambda: ({"image": inputs["image"][:50]}, answers[:50]))


def distinct(values: Tensor) -> Tensor:
    result: Tensor = torch.unique(values)
    return result


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(5)) * 0.05


def load(path: Path) -> dict[str, Any]:
    with known_deprecations():
        state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def test_the_held_out_digits_are_balanced_and_never_trained_on() -> None:
    images, labels = data.training()
    inputs, answers = data.held_out()
    held = inputs["image"]
    assert list(inputs) == ["image"]
    assert (images.shape, str(images.dtype), str(labels.dtype)) == ((4000, 1, 28, 28), "float32", "int64")
    assert (held.shape, str(held.dtype), str(answers.dtype)) == ((1000, 1, 28, 28), "float32", "int64")
    assert (held.min(), held.max()) == (0.0, 1.0)
    assert np.bincount(labels).tolist() == [400] * 10
    assert np.bincount(answers).tolist() == [100] * 10
    assert np.bincount(answers[:50]).tolist() == [5] * 10
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in held}


def test_the_split_is_fixed() -> None:
    train, held = data.split()
    assert sorted([*train, *held]) == list(range(5000))
    assert held[:12].tolist() == [0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 4500, 5, 505]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
def test_magnitude_keeps_exactly_the_largest(weight: Tensor, sparsity: float) -> None:
    pruned = magnitude(weight, sparsity)
    kept = pruned != 0
    assert int(kept.sum()) == round((1 - sparsity) * weight.numel())
    assert sparsity == 0 or weight[kept].abs().min() >= weight[~kept].abs().max()
    assert not torch.signbit(pruned[~kept]).any()


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 1), (1, 4, 1), (3, 4, 0), (4, 8, 1)])
def test_every_group_keeps_exactly_n_of_m(weight: Tensor, n: int, m: int, axis: int) -> None:
    pruned = n_of_m(weight, n, m, axis)
    for group in (pruned != 0).movedim(axis, -1).reshape(-1, m):
        assert int(group.sum()) == n
    assert torch.equal(pruned[pruned.abs() > FLOOR], weight[pruned.abs() > FLOOR])


def test_blocks_live_and_die_together(weight: Tensor) -> None:
    pruned = blocks(weight, 0.75, 4)
    alive = (pruned != 0).reshape(16, 4, 32, 3, 3).sum(1)
    assert distinct(alive).tolist() == [0, 4]
    assert int((alive == 4).sum()) == round(0.25 * alive.numel())


def test_survivors_stay_clear_of_zero() -> None:
    tiny = torch.tensor([[1e-8, -1e-7, 0.5, 0.0]])
    assert magnitude(tiny, 0.25).tolist() == [[FLOOR, -FLOOR, 0.5, 0.0]]
    assert n_of_m(torch.zeros(1, 4), 2, 4).count_nonzero() == 2


@pytest.mark.parametrize("project", [lambda w: n_of_m(w, 2, 5), lambda w: blocks(w, 0.5, 5)])
def test_what_does_not_divide_is_refused(weight: Tensor, project: Projection) -> None:
    with pytest.raises(ValueError, match="is no multiple of 5"):
        project(weight)


@pytest.mark.parametrize("entries", [2, 16, 256])
def test_a_palette_takes_the_nearest_of_its_entries(weight: Tensor, entries: int) -> None:
    result = palette(weight, entries)
    lut = distinct(result)
    assert len(lut) == entries
    nearest = (weight.flatten()[:, None] - lut).abs().min(1).values
    assert torch.allclose((weight - result).abs().flatten(), nearest, atol=1e-7)


def test_zero_takes_no_entry_of_a_sparse_palette(weight: Tensor) -> None:
    result = sparse_palette(weight, 0.75, 16)
    assert torch.equal(result != 0, magnitude(weight, 0.75) != 0)
    assert len(distinct(result[result != 0])) == 16


def test_gradients_pass_through_to_pruned_weights(weight: Tensor) -> None:
    weight.requires_grad_()
    through = StraightThrough(lambda values: magnitude(values, 0.75))(weight)
    (through * 3).sum().backward()
    assert torch.equal(through, magnitude(weight, 0.75))
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full_like(weight, 3.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"palette": 4}, "missing or unknown: palette; expected seed, "),
        ({"n": "two"}, r"finetune\.n: expected int, got 'two'"),
        ({"n": True}, r"finetune\.n: expected int, got True"),
        ({"sparsity": 1.5}, r"out of range: finetune\.sparsity: 1\.5"),
        ({"n": 5}, r"out of range: finetune\.n: 5"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finetune.read_settings(write_params(tmp_path / "params.yaml", {**SETTINGS, **change}))


@pytest.mark.parametrize("text", ["", "other: 1\n", "finetune: [1, 2]\n", "finetune: {\n"])
def test_a_file_without_settings_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(text)
    assert finetune.main(["--params", str(params), "--out", str(tmp_path / "model.pt")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(("change", "message"), [({"m": 5}, "64 is no multiple of 5"), ({"block": 3}, "of 3")])
def test_settings_that_do_not_fit_the_layers_fail_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    params = write_params(tmp_path / "params.yaml", {**SETTINGS, **change})
    assert finetune.main(["--params", str(params), "--out", str(tmp_path / "model.pt")]) == 2
    assert message in capsys.readouterr().err


def test_a_short_run_writes_the_promised_checkpoint_twice_alike(
    tmp_path: Path, few_digits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.yaml", SETTINGS)
    paths = [tmp_path / "first" / "model.pt", tmp_path / "second" / "other.pt"]
    for path in paths:
        assert finetune.main(["--params", str(params), "--out", str(path)]) == 0
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "held-out accuracy" in capsys.readouterr().out
    assert paths[0].read_bytes() == paths[1].read_bytes()

    state = load(paths[0])
    zeros = {name: float((state[f"{name}.weight"] == 0).float().mean()) for name in ("conv2", "conv3", "conv4", "fc2")}
    assert zeros == {"conv2": 0.75, "conv3": 0.5, "conv4": 0.75, "fc2": 0.75}
    in_groups = (state["conv3.weight"] != 0).movedim(1, -1).reshape(-1, 4).sum(1)
    assert distinct(in_groups).tolist() == [2]
    assert len(distinct(state["fc1.weight"])) == 16
    assert len(distinct(state["fc2.weight"])) == 17
    assert len(distinct(state["conv1.weight"])) == 288
    codes, bias = state["fc3._packed_params._packed_params"]
    assert (codes.dtype, codes.qscheme(), codes.q_per_channel_axis()) == (torch.qint8, torch.per_channel_affine, 0)
    assert bias.dtype == torch.float32

    model = create()
    with known_deprecations():
        assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    assert isinstance(model.fc3, quantized.Linear)
    assert not model.training
    assert state["quant.scale"].item() > 0
    logits = model(torch.from_numpy(data.held_out()[0]["image"]))
    assert (logits.shape, logits.dtype) == ((50, 10), torch.float32)


def test_wider_registers_are_left_alone() -> None:
    """In the process of the stage, before torch is loaded: a processor that has AVX-512 would train otherwise."""
    program = (
        "import runpy, sys; sys.argv = ['finetune', '--params', 'none.yaml']\n"
        "try: runpy.run_module('examples.digits.finetune', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import torch; print(torch.backends.cpu.get_cpu_capability())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() != "AVX512"
    assert done.stdout.strip()


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def full(_state: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        finetune.save(create(), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt", b"old")]
