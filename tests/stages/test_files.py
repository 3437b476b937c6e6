"""Files between commands, and output directories that are replaced as a whole."""

from pathlib import Path

import pytest

from compressor.compilation import publish
from compressor.errors import CompressorError, UsageError
from compressor.stages import files

ROWS = [{"weight": 'a,"b"', "bytes": 1}, {"weight": "é", "bytes": 2}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rows.csv", 'weight,bytes\n"a,""b""",1\né,2\n'),
        (
            "rows.json",
            '[\n {\n  "weight": "a,\\"b\\"",\n  "bytes": 1\n },\n {\n  "weight": "é",\n  "bytes": 2\n }\n]\n',
        ),
    ],
)
def test_rows(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / "new" / "folder" / name
    files.write_rows(path, ROWS, ("weight", "bytes"))
    assert path.read_bytes().decode() == expected
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_rows_of_no_known_kind() -> None:
    with pytest.raises(UsageError, match=r"a\.tsv: expected a name that ends with \.csv or \.json, got '\.tsv'"):
        files.check_rows(Path("a.tsv"))


def test_text_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="absent: cannot be read: No such file"):
        files.read_text(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(CompressorError, match="bytes: not UTF-8 text: invalid start byte at byte 0"):
        files.read_text(tmp_path / "bytes")


def test_a_directory_that_holds_only_an_artefact_may_be_replaced(tmp_path: Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out"
    publish.check_directory(out, [model])
    out.mkdir()
    publish.check_directory(out, [model])
    for name in ("model.onnx", "model.onnx.data", "manifest.json"):
        (out / name).touch()
    publish.check_directory(out, [model])


@pytest.mark.parametrize("made", ["out/notes.txt", "out/model.onnx", "out"])
def test_nothing_else_is_replaced(tmp_path: Path, made: str) -> None:
    out, file = tmp_path / "out", tmp_path / made
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(UsageError, match=rf"^{out}: (holds .*notes\.txt|holds .*model\.onnx, which would|a file)"):
        publish.check_directory(out, [out / "model.onnx"])


def test_the_model_s_own_folder_is_not_replaced_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(UsageError, match="would be replaced"):
        publish.check_directory(tmp_path / "link", [tmp_path / "real"])
