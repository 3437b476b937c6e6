"""The digest of a file that is still being written."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import compressor
from compressor.compilation import artefact
from compressor.compilation import compile as compile_
from compressor.compilation.digests import Digests, digest
from compressor.errors import CompressorError
from compressor.formats.layout import Followed


@pytest.mark.parametrize("ends", [(), (0,), (3, 3, 1_000_000), (600_000, 1_000_000), (1_000_000,)])
def test_a_digest_is_that_of_what_is_complete(tmp_path: Path, ends: tuple[int, ...]) -> None:
    content = np.random.default_rng(0).bytes(1_000_000)
    (tmp_path / "f").write_bytes(content)
    assert digest(tmp_path / "f", ends) == hashlib.sha256(content[: max(ends, default=0)]).hexdigest()


def test_a_file_that_ends_before_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with pytest.raises(CompressorError, match="ends at byte 3"):
        digest(tmp_path / "f", [2, 4])


def test_nothing_is_read_before_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(6))
    with ThreadPoolExecutor(1) as executor:
        digests = Digests(executor)
        with digests.following(tmp_path, "f") as complete:
            for place in range(3):
                with file.open("r+b") as opened:
                    opened.seek(2 * place)
                    opened.write(b"ab")
                complete(2 * place + 2)
                time.sleep(0.01)
        digests.settle()
        assert digests.found["f"].result() == hashlib.sha256(b"ababab").hexdigest()


def test_a_block_that_fails_ends_its_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    with ThreadPoolExecutor(1) as executor:
        digests = Digests(executor)
        with pytest.raises(TypeError, match="NoneType"), digests.following(tmp_path, "f") as complete:
            complete(len(None) if complete(2) is None else 6)  # type: ignore[arg-type]
        assert digests.found["f"].result() == hashlib.sha256(b"ab").hexdigest()


def test_weights_that_lie_in_another_order_are_waited_for() -> None:
    followed = Followed("f", 10, {"a": 6, "b": 2, "c": 4})
    assert followed.complete(["a", "b", "c"]) == [2, 4, 10]
    assert followed.complete(["c", "b", "a"]) == [2, 6, 10]
    assert followed.complete(["none"]) == [10]


@pytest.mark.parametrize("apart", [False, True])
def test_the_digests_of_an_artefact_are_those_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, apart: bool
) -> None:
    rng, nodes, weights = np.random.default_rng(0), [], []
    for place in range(6):
        values = rng.standard_normal((64, 64), np.float32)
        values = values.reshape(-1)[rng.integers(0, 16, (64, 64))] if place % 2 else values
        weights.append(onnx.numpy_helper.from_array(values, f"w{place}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"x{place}", f"w{place}"], [f"x{place + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 64]) for name in ("x0", "x6")]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    monkeypatch.setattr(artefact, "_FOLLOWED", 0)
    if apart:
        monkeypatch.setattr("compressor.formats.onnx.writing.SINGLE_FILE_BYTES", 20_000)
    followed: list[str] = []

    class Noting(Digests):
        def following(self, directory: Path, file: str) -> Any:
            followed.append(file)
            return super().following(directory, file)

    monkeypatch.setattr(compile_, "Digests", Noting)
    made = compressor.compress(tmp_path / "m.onnx", tmp_path / "out")
    assert followed == ["model.onnx.data" if apart else "model.onnx"]
    assert {file.name for file in made.files} == {"model.onnx", *followed}
    for file in made.files:
        assert file.sha256 == hashlib.sha256((tmp_path / "out" / file.name).read_bytes()).hexdigest()
