"""Commands on small models, and the check that a refused one says why in a line and leaves everything as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from typer.testing import CliRunner

from compressor.arrays import NDArray
from compressor.formats.onnx.dtypes import DATA_TYPES
from compressor.stages import app
from tests.sources.onnx.models import save, tensor, value

SIZE = 64


def weights(seed: int = 0) -> dict[str, NDArray]:
    """Sixteen distinct values, three quarters zeros, and neither."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((3, SIZE, SIZE)).astype(np.float32)
    zeros = rng.random((SIZE, SIZE)) < 0.75
    return {
        "palette": rng.standard_normal(16).astype(np.float32)[rng.integers(0, 16, (SIZE, SIZE))],
        "pruned": np.where(zeros, np.float32(0), plain[1] + np.copysign(np.float32(0.1), plain[1])),
        "plain": plain[2],
    }


def chain(path: Path, values: dict[str, NDArray] | None = None, *, external: bool = False, location: str = "") -> Path:
    """A chain of matrix products with these weights, inside of the model's file or beside it at `location`."""
    values = weights() if values is None else values
    steps = [f"h{place}" for place in range(len(values))]
    nodes = [
        helper.make_node("MatMul", [before, weight], [after])
        for before, weight, after in zip(["x", *steps], values, steps, strict=False)
    ]
    made = [tensor(name, array) for name, array in values.items()]
    ends = {"inputs": [value("x", ["n", SIZE])], "outputs": [value(steps[-1], ["n", SIZE])]}
    save(path, nodes, made, opset=18, **ends)
    if external:
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location=location or f"{path.name}.data", size_threshold=0)
    return path


def holding(path: Path, values: NDArray, *, opset: int = 21) -> Path:
    """A model that returns a weight through an operator that copies its bits."""
    kind = DATA_TYPES[values.dtype.name]
    stored = TensorProto(name="w", data_type=kind, dims=values.shape, raw_data=values.tobytes())
    nodes = [helper.make_node("Unsqueeze", ["w", "axes"], ["y"])]
    outputs = [value("y", [1, *values.shape], kind)]
    return save(path, nodes, [stored, tensor("axes", np.array([0]))], outputs=outputs, opset=opset)


def encodings(out: Path) -> dict[str, str]:
    """What the manifest of an artefact says."""
    content = json.loads((out / "manifest.json").read_text())
    return {weight["name"]: weight["encoding"] for weight in content["weights"]}


def done(*arguments: object) -> str:
    """What a command that succeeds prints."""
    ended = CliRunner().invoke(app.app, [str(argument) for argument in arguments])
    assert ended.exit_code == 0, ended.stderr
    return ended.stdout


def refused(*arguments: object, status: int, says: str, changes: Sequence[Path] = ()) -> str:
    """The one line of a command that fails: what and where, nothing printed, nothing written, no traceback.

    changes: files that somebody else writes meanwhile.
    """
    before = snapshot(Path())
    ended = CliRunner().invoke(app.app, [str(argument) for argument in arguments])
    check_refusal(ended.exit_code, ended.stdout, ended.stderr, status=status, says=says)
    after = snapshot(Path())
    for file in map(str, changes):
        after[file] = before[file]
    assert after == before
    return ended.stderr


def check_refusal(code: int, stdout: str, stderr: str, *, status: int, says: str) -> None:
    """`stderr` may hold the lines of progress before the error."""
    assert (code, stdout) == (status, ""), stderr
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], stderr
    assert "Traceback" not in stderr
    assert says in lines[-1]


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder but Python's own caches: the bytes of files, where links lead, None for folders."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
