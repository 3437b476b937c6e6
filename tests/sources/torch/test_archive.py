"""Archives that torch's own readers would run code for, or fill memory with, are refused before they are read."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressor.errors import CompressorError
from compressor.sources.torch.archive import entries
from compressor.sources.torch.load import load

pytestmark = pytest.mark.filterwarnings("ignore")


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Halves(torch.nn.Module):
    """Its sizes are formulas: the program holds them as text, which sympy evaluates."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.table = torch.rand(2, 4)

    def forward(self, x):
        return torch.cat([self.linear(x), x, self.table]).reshape(-1, 8).mean(0, keepdim=True)[:, : x.shape[0] // 2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    rows = 2 * torch.export.Dim("rows", min=1, max=1000)
    exported = torch.export.export(Halves(), (torch.rand(4, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(exported, tmp_path / "whole.pt2")
    return tmp_path / "whole.pt2"


Edit = Callable[[str, bytes], bytes]


def edited(source: Path, edit: Edit, *extra: tuple[str, bytes]) -> Path:
    """A copy of `source` with other contents; `extra` entries have names under the archive's root."""
    target = source.with_name("evil.pt2")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))
        for name, content in extra:
            new.writestr(f"{root}/{name}", content)
    return target


def refused(source: Path, message: str) -> None:
    with pytest.raises(CompressorError, match=message) as raised:
        load(source, factory=None, args={}, allow_pickle=False)
    assert "\n" not in str(raised.value)


def replacing(old: bytes, new: bytes) -> Edit:
    return lambda _, content: content.replace(old, new, 1)


def test_a_program_with_formulas_is_read(program: Path):
    assert isinstance(load(program, factory=None, args={}, allow_pickle=False), torch.export.ExportedProgram)
    # So is one that was written anew.
    assert load(edited(program, lambda _, content: content), factory=None, args={}, allow_pickle=False)


def test_pickles_of_a_program(program: Path):
    """Torch reads its example inputs with code where they cannot be read without."""
    witness = program.with_name("witness")
    pickled = program.with_name("pickled.pt")
    torch.save(RunsCode(witness), pickled)
    evil = edited(program, lambda name, content: pickled.read_bytes() if "sample_inputs" in name else content)
    refused(evil, r"sample_inputs/model\.pt holds more than tensors.*run code.*set export\.allow_pickle")
    assert not witness.exists()
    with pytest.raises(CompressorError, match="not a readable ExportedProgram"):
        load(evil, factory=None, args={}, allow_pickle=True)
    assert witness.exists()


def test_pickled_weights_and_constants_of_a_program(program: Path):
    witness = program.with_name("witness")
    content = pickle.dumps(RunsCode(witness))

    def use_pickle(name: str, old: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return old.replace(b'"use_pickle": false', b'"use_pickle": true').replace(
                b'"use_pickle":false', b'"use_pickle":true'
            )
        return content if "weights/weight_" in name else old

    refused(edited(program, use_pickle), r"weights/weight_\d holds more than tensors")
    opaque = edited(program, lambda _, old: old, ("data/constants/opaque_obj_0", content))
    refused(opaque, r"opaque_obj_0 is a pickled object")
    assert not witness.exists()


def test_compiled_code_of_a_program(program: Path):
    refused(edited(program, lambda _, old: old, ("data/aotinductor/model/a.so", b"")), "compiled code")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch witness')",
        "Add('__import__(1)')",
        "Symbol(Symbol('print(1)'))",
        "x.__class__",
        "lambdify(1)",
        "9**9**9",
        "[1, 2]",
        "(" * 1000,
    ],
)
def test_sizes_that_are_code(program: Path, text: str):
    def edit(name: str, old: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return old
        content = json.loads(old)
        pending, changed = [content], 0
        while pending:
            value = pending.pop()
            if isinstance(value, dict):
                if "expr_str" in value:
                    value["expr_str"], changed = text, changed + 1
                pending.extend(value.values())
            elif isinstance(value, list):
                pending.extend(value)
        assert changed
        return json.dumps(content).encode()

    refused(edited(program, edit), "has a size that is no formula")


def test_functions_beyond_operators(program: Path):
    refused(edited(program, replacing(b"torch.ops.aten.mean.dim", b"torch.os.system")), r"calls 'torch\.os\.system'")


def test_size_bombs(tmp_path: Path):
    torch.save({"weight": torch.ones(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(5):
            archive.writestr(f"a/data/{index}", bytes(1 << 26))
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 20
    with pytest.raises(CompressorError, match=r"compressed entries claim 335,544,320 bytes"):
        entries(tmp_path / "bomb.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    # The size of an entry in the directory at the end of the file.
    at = content.rindex(b"PK\x01\x02") + 20
    content[at : at + 8] = (2**31).to_bytes(4, "little") * 2
    (tmp_path / "long.pt").write_bytes(content)
    with pytest.raises(CompressorError, match=r"entries claim 2,147,4\d\d,\d\d\d bytes"):
        entries(tmp_path / "long.pt")


@pytest.mark.parametrize("name", ["/etc/passwd", "a/../../b", "a\\b"])
def test_paths_outside(tmp_path: Path, name: str):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(CompressorError, match="lies outside the archive"):
        entries(tmp_path / "a.pt")
