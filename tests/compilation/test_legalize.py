"""The legalize pass: what the target did with the spec, it does with the data."""

from __future__ import annotations

import numpy as np
import pytest

from compressor import encodings
from compressor.compilation.legalize import legalize
from compressor.compilation.stream import InexactError
from compressor.encodings import Dense, Encoding
from compressor.targets import Illegal
from compressor.weight import Weight


def halved(encoding: Encoding) -> Encoding:
    return encodings.map_arrays(lambda array, _: np.asarray(array) / 2, encoding)


def refused(_: Encoding) -> Encoding:
    raise Illegal("no such tables")


def test_the_encoding_is_the_targets_and_all_else_is_kept() -> None:
    weight = Weight("w", Dense(np.array([[2, 4]], np.float32)), ("MatMul",), "an input")
    legal = legalize(halved)(weight)
    assert encodings.decode(legal.encoding).tolist() == [[1, 2]]
    assert (legal.name, legal.uses, legal.pinned) == ("w", ("MatMul",), "an input")


def test_data_that_the_target_refuses_is_a_form_that_fails() -> None:
    with pytest.raises(InexactError, match=r"weight w float32\[1, 1\]: no such tables"):
        legalize(refused)(Weight("w", Dense(np.ones((1, 1), np.float32))))
