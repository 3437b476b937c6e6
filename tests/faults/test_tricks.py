"""Files that are made to harm: they claim far more than they hold, show one reader what another does not see, lead out
of their folder, or never end. Each is refused, in little memory, with a line that says what to do.
"""

from __future__ import annotations

import io
import os
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.arrays import NDArray
from compressor.encodings import Dense
from compressor.errors import CompressorError
from compressor.sources.torch.load import load
from tests.faults.commands import SIZE, chain, done, refused
from tests.faults.mutations import varint
from tests.formats.coreml import models as coreml_models
from tests.sources.huggingface.folders import saved

MEMORY = 256 << 20
"""What refusing a file may take at most, with all that is imported for it."""
HUGE = 100 << 30


@pytest.fixture(autouse=True)
def in_little_memory(folder: Path) -> object:
    """The peak of the process must hardly grow."""
    del folder
    done("detect", chain(Path("warm.onnx")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY


class RunsCode:
    """Longer than what it takes the place of."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned #" + "x" * 5000,)


def archive(edit: Callable[[str, bytes], bytes] = lambda _, content: content) -> bytes:
    """An ExportedProgram, its entries edited."""
    if not Path("whole.pt2").exists():
        torch.export.save(torch.export.export(torch.nn.Linear(4, 4), (torch.ones(2, 4),)), "whole.pt2")
    made = io.BytesIO()
    with zipfile.ZipFile("whole.pt2") as whole, zipfile.ZipFile(made, "w") as copy:
        for name in whole.namelist():
            copy.writestr(zipfile.ZipInfo(name), edit(name, whole.read(name)))
    return made.getvalue()


def evil(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    torch.save(RunsCode(), made)
    return made.getvalue() if "sample_inputs" in name else content


def parts(content: bytes) -> tuple[bytes, bytes, bytes]:
    """The entries of an archive, its directory, and its end."""
    end = content.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<LL", content, end + 12)
    return content[:start], content[start : start + size], content[end:]


def refuses(message: str, path: str = "evil.pt2") -> None:
    with pytest.raises(CompressorError, match=message) as caught:
        load(Path(path), factory=None, args={}, allow_pickle=False)
    assert "\n" not in str(caught.value)
    assert not Path("pwned").exists()


@pytest.mark.filterwarnings("ignore")
def test_two_directories_of_one_archive() -> None:
    """Python reads the one before the end; torch reads the one where the end says, which has the pickle."""
    (bad, bad_directory, _), (good, good_directory, end) = parts(archive(evil)), parts(archive())
    directory, at, moved = bytearray(good_directory), 0, len(bad) + len(bad_directory)
    away = moved + len(good) - len(bad)  # between the two directories, which zipfile adds to every offset
    while at < len(directory):
        (offset,) = struct.unpack_from("<L", directory, at + 42)
        struct.pack_into("<L", directory, at + 42, offset + moved - away)
        at += 46 + sum(struct.unpack_from("<HHH", directory, at + 28))
    end = end[:16] + struct.pack("<L", len(bad)) + end[20:]
    Path("evil.pt2").write_bytes(bad + bad_directory + good + directory + end)
    assert len(bad) > len(good)
    refuses(rf"its directory is at byte {moved + len(good)}, its end says {len(bad)}\. Save it again")


def test_bytes_behind_the_end_of_an_archive() -> None:
    Path("evil.pt2").write_bytes(archive() + b"PK\5\6" + bytes(9))
    refuses(r"evil\.pt2: .*Save it again")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("spell", [str, str.upper, lambda name: f"{name}\0x"], ids=["same", "case", "zero"])
def test_names_that_readers_take_for_one_another(spell: Callable[[str], str]) -> None:
    Path("evil.pt2").write_bytes(archive())
    with zipfile.ZipFile("evil.pt2", "a") as opened:
        name = opened.namelist()[-1]
        added = zipfile.ZipInfo(name)
        added.filename = spell(name)
        opened.writestr(added, b"other")
    refuses("is there twice, or readers spell it in different ways")


@pytest.mark.parametrize("name", ["evil.pt", "evil.ckpt", "evil.ts"])
def test_an_entry_that_claims_100_gigabytes(name: str) -> None:
    torch.save({"weight": torch.ones(4)}, name)
    with zipfile.ZipFile(name, "a") as opened:
        info = next(info for info in opened.infolist() if "/data/" in info.filename)
        info.file_size = info.compress_size = HUGE
        opened.writestr("archive/x", b"")  # so that the directory is written again
    refuses(r"its entries claim 107,374,18\d,\d{3} bytes, the file has [\d,]+\. Save it again", name)


@pytest.mark.parametrize(
    "name", ["torch.\\\nfrom_file", "torch\\\n.save", "torch.# a remark\nfrom_file", "ops.aten . from_file"]
)
def test_torchscript_that_reaches_out(name: str) -> None:
    with zipfile.ZipFile("evil.ts", "w") as made:
        made.writestr("a/constants.pkl", b"\x80\2)\x2e")
        made.writestr("a/code/__torch__.py", f"def f(x):\n  return {name}('x', False, 4)\n")
    refuses(r"calls (torch|aten)\S*\.\S*(save|from_file), which reads or writes files", "evil.ts")


def arrays(labels: NDArray | None = None) -> None:
    done("compress", chain(Path("m.onnx")), "made")
    np.savez_compressed("data.npz", x=np.ones((8, SIZE), np.float32), y=np.arange(8) if labels is None else labels)


def refuses_samples(says: str) -> None:
    refused("evaluate", "m.onnx", "made", "-S", "evaluate.data=data.npz", status=1, says=says)


def test_samples_that_claim_100_gigabytes() -> None:
    arrays()
    with zipfile.ZipFile("data.npz", "a") as opened:
        opened.infolist()[0].file_size = HUGE
        opened.writestr("z.npy", b"")
    refuses_samples("data.npz: not a readable .npz file (its arrays claim 107,374,182,592 bytes, the file has")


def test_samples_whose_header_claims_more_than_memory() -> None:
    arrays()
    made = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(made, header)
    with zipfile.ZipFile("data.npz", "a") as opened:
        opened.writestr("z.npy", made.getvalue())
    refuses_samples("data.npz: not a readable .npz file (Unable to allocate 4.00 PiB")


def test_samples_that_are_pickles_run_no_code() -> None:
    arrays(np.array([RunsCode()], object))
    refuses_samples("Object arrays cannot be loaded when allow_pickle=False")
    assert not Path("pwned").exists()


LENGTHS = [1 << 31, 1 << 40, 1 << 62, (1 << 64) - 1]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("field", [1, 7, 20])
def test_a_field_of_a_graph_that_claims_to_be_huge(length: int, field: int) -> None:
    content = chain(Path("m.onnx")).read_bytes()
    Path("m.onnx").write_bytes(content + varint(field << 3 | 2) + varint(length) + bytes(2000))
    refused("inspect", "m.onnx", status=1, says="m.onnx: not an ONNX model, or truncated: ")


@pytest.mark.parametrize("length", LENGTHS)
def test_a_field_of_a_package_that_claims_to_be_huge(length: int) -> None:
    model = package() / "Data/com.apple.CoreML/model.mlmodel"
    model.write_bytes(model.read_bytes() + varint(502 << 3 | 2) + varint(length) + bytes(2000))
    refused("inspect", "m.mlpackage", status=1, says="not a Core ML model, or truncated")


def package() -> Path:
    return coreml_models.save(Path("m.mlpackage"), 9, {"w": Dense(np.ones((64, 64), np.float16))})


@pytest.mark.parametrize("place", [8, 16], ids=["bytes", "offset"])
@pytest.mark.parametrize("number", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_blob_that_claims_to_be_huge_or_elsewhere(place: int, number: int) -> None:
    file = package() / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(file.read_bytes())
    struct.pack_into("<Q", content, 64 + place, number)
    file.write_bytes(content)
    refused("inspect", "m.mlpackage", status=1, says="weight.bin: the blob at 64: ")


def test_weights_of_a_package_behind_a_link_that_leads_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    weights = package() / "Data/com.apple.CoreML/weights"
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    refused("inspect", "m.mlpackage", status=1, says="is a link that leads out of the package, to ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", "model.safetensors: not a readable safetensors file (not a regular file)"),
        ("model.safetensors.index.json", "model.safetensors.index.json: not a regular file, expected JSON."),
        ("config.json", "config.json: not a regular file, expected JSON."),
        ("model.onnx", ": not a file, expected an ONNX model."),
    ],
)
@pytest.mark.parametrize("endless", [False, True])
def test_a_folder_with_a_pipe_or_an_endless_file(name: str, says: str, endless: bool) -> None:  # noqa: FBT001
    """Opening a pipe waits for its writer, and reading /dev/zero never ends."""
    Path("m").mkdir()
    if name != "model.safetensors" and "index" not in name:
        saved(Path("m/model.safetensors"), {"w": np.ones((4, 4), np.float32)})
    Path("m", name).symlink_to("/dev/zero") if endless else os.mkfifo(Path("m", name))
    refused("inspect", "m", status=1, says=says)


def test_weights_behind_links_as_the_hub_s_cache_has_them() -> None:
    Path("blobs").mkdir()
    Path("snapshot").mkdir()
    saved(Path("blobs/0123"), {"w": np.ones((64, 64), np.float32)})
    Path("snapshot/model.safetensors").symlink_to("../blobs/0123")
    assert "1 of 1 weights can be stored smaller" in done("detect", "snapshot")


ALIASES = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"{ALIASES}\ndetect: {{threshold: *a8}}",
            "its aliases stand for more than 1,000,000 values. Write the values",
        ),
        ("detect: &a {threshold: *a}", "its aliases stand for more than 1,000,000 values"),
        ("detect: {threshold: " + "[" * 1000, "not valid YAML: nested too deep"),
        ("detect: {threshold: 2026-99-99}", "not valid YAML: month must be in 1..12"),
        ("detect: {min_elements: " + "9" * 9000 + "}", "not valid YAML: Exceeds the limit"),
        ("detect: {threshold: !!python/object/apply:os.system ['touch pwned']}", "not valid YAML in line 1"),
    ],
    ids=["bomb", "circle", "deep", "date", "digits", "code"],
)
def test_settings_that_harm(text: str, says: str) -> None:
    Path("params.yaml").write_text(text)
    refused("detect", "warm.onnx", status=2, says=says)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 9000])
def test_json_that_is_too_deep_or_too_long(text: str) -> None:
    Path("compression").mkdir()
    for name in ("metrics.json", "detection.json", "compression/toolchain.json"):
        Path(name).write_text(text)
    refused("check", "metrics.json", status=2, says="metrics.json: ")
    refused("detect", "warm.onnx", "--strict", status=1, says="toolchain.json: not valid JSON: ")
    Path("compression/toolchain.json").unlink()
    refused("compress", "warm.onnx", "made", "--detection", "detection.json", status=1, says="not a detection: ")


def test_an_override_that_is_too_deep() -> None:
    refused("detect", "warm.onnx", "-S", "detect.threshold=" + "[" * 3000, status=2, says="nested too deep")
