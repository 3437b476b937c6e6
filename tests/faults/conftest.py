"""Every fault is provoked in a folder of its own, beside an artefact of an earlier run."""

from pathlib import Path

import pytest

from tests.faults.commands import chain, done, weights, working_directory


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("earlier")
    with working_directory(folder):
        done("compress", chain(Path("m.onnx"), weights(seed=1)), "out")
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, artefact: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with `out/` of an earlier run."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    for name, content in artefact.items():
        (Path("out") / name).write_bytes(content)
    return tmp_path
