"""Files whose pieces have their places before they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.arrays import UINT8
from compressor.errors import CompressorError
from compressor.formats.layout import FileLayout, Piece, put
from compressor.formats.onnx.lowered import Part

LAYOUT = FileLayout(
    {"a": 10, "folder/b": 6},
    [Piece("a", 8, b"yz"), Piece("a", 0, b"ab"), Piece("folder/b", 0, Part("c", 2, (3,), np.array([1, 2, 3], UINT8)))],
    {},
)


def test_files_have_their_length_before_the_weights_are_there(tmp_path: Path) -> None:
    LAYOUT.begin(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"ab" + bytes(6) + b"yz"
    assert (tmp_path / "folder" / "b").read_bytes() == b"\1\2\3" + bytes(3)
    assert LAYOUT.nbytes == 16


def test_a_piece_changes_nothing_beside_it(tmp_path: Path) -> None:
    LAYOUT.begin(tmp_path)
    put(tmp_path, [Piece("folder/b", 4, b"!"), Piece("a", 3, b"cde")])
    assert (tmp_path / "a").read_bytes() == b"ab\0cde" + bytes(2) + b"yz"
    assert (tmp_path / "folder" / "b").read_bytes() == b"\1\2\3\0!\0"
    LAYOUT.check(tmp_path)


def test_what_was_begun_is_compared(tmp_path: Path) -> None:
    LAYOUT.begin(tmp_path)
    put(tmp_path, [Piece("a", 9, b"Z")])
    says = r"a: bytes 8 to 10, read back, are not what was written\. Nothing was published"
    with pytest.raises(CompressorError, match=says):
        LAYOUT.check(tmp_path)


def test_an_artefact_that_was_begun_anew_has_nothing_of_the_last_one(tmp_path: Path) -> None:
    LAYOUT.begin(tmp_path)
    put(tmp_path, [Piece("a", 3, b"cde")])
    LAYOUT.begin(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"ab" + bytes(6) + b"yz"
