"""Files of torch, as this and older versions write them, read without torch and without running their code."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressor.accounting.account import Account, What
from compressor.accounting.explain import explain
from compressor.errors import CompressorError
from tests.accounting.sums import of


def told(path: Path) -> Account:
    found = explain(path)
    assert found.nbytes == path.stat().st_size
    return found


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Linear(128, 10)).eval()


WEIGHTS = {
    "0.weight": 64 * 128 * 4,
    "2.weight": 128 * 10 * 4,
    "2.bias": 40,
    **dict.fromkeys(("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), 512),
}
"""The bytes of each; of five arrays that hold ones or zeros, two are copies."""
VALUES = sum(WEIGHTS.values())


def values(account: Account) -> int:
    return sum(of(account, What.WEIGHTS).values()) + sum(of(account, What.COPIES).values())


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "as before 1.6"])
def test_a_state_dict(*, zipped: bool, tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    found = told(tmp_path / "m.pt")
    assert of(found, What.WEIGHTS) == {
        name: size for name, size in WEIGHTS.items() if name not in of(found, What.COPIES)
    }
    assert of(found, What.COPIES) == {}  # the buffers of a norm are as they were made
    assert of(found, What.CONSTANTS) == {"1.num_batches_tracked": 8}
    assert (What.PADDING in found.by_what()) == zipped
    assert of(found, What.UNREFERENCED) == {}
    assert found.notes == ()


@pytest.mark.parametrize("key", ["model", "state_dict", "net"])
def test_a_checkpoint_of_a_training(key: str, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    content = {"epoch": 3, "optimizer": optimizer.state_dict(), key: model.state_dict(), "ema": averaged}
    torch.save(content, tmp_path / "m.ckpt")
    found = told(tmp_path / "m.ckpt")
    trained = VALUES - 2 * 512  # running averages are trained by no optimizer
    assert values(found) == VALUES
    assert of(found, What.TRAINING) == {"optimizer": 2 * trained + 6 * 4, "ema": VALUES + 8}


def test_views_of_a_larger_storage(tmp_path: Path) -> None:
    large = torch.randn(1000, 64)
    torch.save({"w": large[10:20], "again": large[15:30], "alone": torch.ones(3)}, tmp_path / "m.pt")
    found = told(tmp_path / "m.pt")
    assert of(found, What.WEIGHTS) == {"w": 5 * 256, "again": 15 * 256, "alone": 12}
    assert of(found, What.UNREFERENCED) == {"storages larger than their tensors": (1000 - 20) * 256}


def test_a_tensor_that_two_names_have_is_stored_once(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    torch.save({"embedding": weight, "head": weight}, tmp_path / "m.pt")
    assert of(told(tmp_path / "m.pt"), What.WEIGHTS) == {"embedding": 64 * 64 * 4}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_with_their_scales(tmp_path: Path) -> None:
    scales, zeros = torch.rand(64) + 0.1, torch.zeros(64, dtype=torch.int64)
    made = torch.quantize_per_channel(torch.randn(64, 64), scales, zeros, 0, torch.qint8)
    torch.save({"w": made}, tmp_path / "m.pt")
    found = told(tmp_path / "m.pt")
    assert values(found) + sum(of(found, What.CONSTANTS).values()) == 64 * 64 + 64 * 8 + 64 * 8
    assert {one.name for one in found.portions if one.what in {What.WEIGHTS, What.CONSTANTS}} == {"w"}


def test_a_whole_module(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "m.pt")
    assert values(told(tmp_path / "m.pt")) == VALUES


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script(tmp_path: Path) -> None:
    torch.jit.script(net()).save(tmp_path / "m.pt")  # type: ignore[no-untyped-call]
    found = told(tmp_path / "m.pt")
    assert values(found) == VALUES
    assert of(found, What.NODES).keys() == {"code"}
    assert of(found, What.NAMES)["where code came from"] > 1000


def test_an_exported_program(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net(), (torch.ones(2, 64),)), tmp_path / "m.pt2")
    found = told(tmp_path / "m.pt2")
    assert of(found, What.WEIGHTS).keys() >= {"0.weight", "2.weight"}
    assert values(found) == VALUES + 8
    assert of(found, What.NODES).keys() == {"graph"}


def test_an_exported_program_as_before_2_8(tmp_path: Path) -> None:
    """An archive without a folder, of pickles, which are archives."""
    torch.save(net().state_dict(), tmp_path / "inner.pt")
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.write(tmp_path / "inner.pt", "serialized_state_dict.pt")
    found = told(tmp_path / "m.pt2")
    assert values(found) == VALUES
    assert of(found, What.NODES) == {"graph": 2}


class Runs:
    """What would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("code has run",)


def test_no_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(64, 64), "config": Runs()}, tmp_path / "m.pt")
    assert of(told(tmp_path / "m.pt"), What.WEIGHTS) == {"w": 64 * 64 * 4}
    assert capsys.readouterr().out == ""


def test_torch_is_not_needed(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "m.pt")
    code = (
        "import sys; from compressor.accounting.explain import explain; explain('m.pt'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def large_memo() -> bytes:
    """A pickle of a few bytes that asks for a memo of gigabytes."""
    return b"\x80\x02]r\xff\xff\xff\x7f."


def endless() -> bytes:
    """A list of two references to a list of two references ... : 2**60 values in all."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return pickle.dumps(value, protocol=2)


def deep() -> bytes:
    """Lists in lists."""
    return b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b"."


def disguised() -> bytes:
    """A mapping whose method is a number."""
    return b"\x80\x02ccollections\nOrderedDict\n)R}U\x05itemsK\x05sb."


@pytest.mark.parametrize(
    "content", [large_memo(), endless(), deep(), disguised(), b"\x80\x02(K\x01", b"", b"cos\nsystem\n(S'true'\ntR."]
)
def test_pickles_that_would_cost_much_or_are_damaged(content: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", content)
        archive.writestr("m/data/0", bytes(400))
    found = told(tmp_path / "m.pt")
    assert found.nbytes > 400


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "as before 1.6"])
def test_a_file_that_is_cut_off(*, kept: float, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(net().state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    if not zipped and kept >= 0.5:  # its storages are read as far as they go
        assert told(path).by_what()[What.UNREFERENCED] > 0
        return
    with pytest.raises(CompressorError, match="truncated or not a torch checkpoint") as caught:
        explain(path)
    assert "\n" not in str(caught.value)
