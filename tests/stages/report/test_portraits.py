"""What a weight looks like: histograms, tables, grids and masks, of encodings whose values are known."""

import base64
import math
import struct
import zlib

import numpy as np
import pytest

from compressor import encodings
from compressor.compilation.manifest import WeightFacts
from compressor.encodings import Dense, Palettized, Quantized, Sparse
from compressor.errors import CompressorError
from compressor.stages.report import png
from compressor.stages.report.portraits import CORNER, WHOLE, chosen, portrait
from compressor.weight import Weight

GENERATOR = np.random.default_rng(0)
TABLE = np.array([0.5, -1.0, 2.0, 0.25], np.float32).reshape(1, 1, 4, 1)


def facts(encoding, name="w"):
    shape = encodings.shape(encoding)
    dense = math.prod(shape) * encodings.dtype(encoding).itemsize
    return WeightFacts(name, shape, "float32", encodings.name(encoding), encodings.nbytes(encoding), dense)


def drawn(encoding):
    return portrait(facts(encoding), Weight("w", encoding))


def test_a_palette_is_a_bar_for_each_entry():
    found = drawn(Palettized(np.array([[0, 1, 1], [3, 3, 3]], np.uint8), TABLE))
    assert found.bars == ((-1.0, -1.0, 2), (0.25, 0.25, 3), (0.5, 0.5, 1))
    assert (found.stems, found.marks, found.note) == (True, (-1.0, 0.25, 0.5, 2.0), "one table of 4 values")


def test_tables_of_groups_are_marked_below_the_values():
    lut = np.stack([TABLE[0], 3 * TABLE[0]])
    found = drawn(Palettized(GENERATOR.integers(0, 4, (64, 8)).astype(np.uint8), lut))
    assert (found.stems, found.marks) == (False, (-3.0, -1.0, 0.25, 0.5, 0.75, 1.5, 2.0, 6.0))
    assert found.note == "2 tables of 4 values each"
    assert sum(count for *_, count in found.bars) == 512


@pytest.mark.parametrize(
    ("scales", "note"),
    [
        ([[0.5]], "value = code \N{MULTIPLICATION SIGN} 0.5"),
        ([[0.5], [0.25]], "value = code \N{MULTIPLICATION SIGN} scale, 2 scales from 0.25 to 0.5"),
    ],
)
def test_a_grid_is_counted_by_codes(scales, note):
    codes = np.array([[-2, 0, 1], [1, 1, 0]], np.int8)
    found = drawn(Quantized(Dense(codes), np.array(scales, np.float32)))
    assert found.bars == ((-2.0, -2.0, 1), (-1.0, -1.0, 0), (0.0, 0.0, 2), (1.0, 1.0, 3))
    assert (found.unit, found.note) == ("code", note)


def test_zeros_are_counted_and_not_drawn():
    mask = GENERATOR.random((32, 16, 3, 3)) < 0.25
    values = np.linspace(1, 2, np.count_nonzero(mask), dtype=np.float32)
    found = drawn(Sparse(mask, Dense(values), mask.shape))
    assert found.zeros == np.count_nonzero(~mask)
    assert (found.bars[0][0], found.bars[-1][1], sum(count for *_, count in found.bars)) == (1.0, 2.0, values.size)
    assert (found.mask.corner == mask[: CORNER[0], : CORNER[1], 0, 0]).all()
    assert found.mask.whole.shape == (32, 144)
    assert (found.mask.whole == mask.reshape(32, 144)).all()


def test_a_large_mask_is_shrunk_to_shares():
    mask = np.zeros((1000, 700), np.bool_)
    mask[:500] = True
    found = drawn(Sparse(mask, Dense(np.ones(350_000, np.float32)), mask.shape)).mask.whole
    assert found.shape == WHOLE
    assert (found[:63] == 1).all()
    assert (found[65:] == 0).all()
    assert found.mean() == pytest.approx(0.5, abs=0.01)


def test_a_block_of_values_far_out_is_said_and_not_drawn():
    values = GENERATOR.normal(size=(100, 100)).astype(np.float32)
    values[0, :3] = 1000
    found = drawn(Dense(values))
    assert found.bars[-1][1] < 10
    assert found.outside == np.count_nonzero((values < found.bars[0][0]) | (values > found.bars[-1][1]))


@pytest.mark.parametrize(
    ("encoding", "bars"),
    [
        (Dense(np.zeros((4, 4), np.float32)), 0),
        (Dense(np.full((4, 4), 2, np.float32)), 1),
        (Dense(np.array([[np.nan, np.inf], [1, 2]], np.float32)), 60),
        (Sparse(np.zeros((4, 4), np.bool_), Dense(np.empty(0, np.float32)), (4, 4)), 0),
        (Quantized(Dense(np.zeros((4, 4), np.int8)), np.ones((1, 1), np.float32)), 1),
    ],
)
def test_weights_that_hardly_have_values(encoding, bars):
    assert len(drawn(encoding).bars) == bars


def test_whole_numbers_that_are_no_codes_have_no_portrait():
    assert drawn(Dense(np.arange(4, dtype=np.int64).reshape(2, 2))) is None


def test_damage_is_told_with_the_name():
    broken = Sparse(np.ones((2, 2), np.bool_), Dense(np.ones(3, np.float32)), (2, 2))
    with pytest.raises(CompressorError, match="weight w: damaged: expected a mask of 4 set bits for 3 values"):
        drawn(broken)


def test_the_largest_of_each_kind_are_chosen_first():
    sizes = {"a": ("dense", 90), "b": ("sparse", 80), "c": ("sparse", 70), "d": ("int8", 60), "e": ("int8", 10)}
    weights = [WeightFacts(name, (size, 8), "float32", form, 1, size * 32) for name, (form, size) in sizes.items()]
    tiny = WeightFacts("tiny", (2, 2), "float32", "palettized4", 1, 16)
    bias = WeightFacts("bias", (999,), "float32", "dense", 1, 3996)
    assert [weight.name for weight in chosen([*weights, tiny, bias], 4)] == ["a", "b", "c", "d"]
    assert [weight.name for weight in chosen([*weights, tiny, bias], 3)] == ["a", "b", "d"]


def test_a_picture_has_the_shares_as_opacity():
    density = np.array([[0, 0.2, 1], [1, 0.6, 0]], np.float32)
    prefix, _, content = png.data_uri(density, (1, 2, 3)).partition(",")
    assert prefix == "data:image/png;base64"
    raw, chunks, place = base64.b64decode(content), {}, 8
    while place < len(raw):
        length, kind = struct.unpack(">I4s", raw[place : place + 8])
        body = raw[place + 8 : place + 8 + length]
        assert struct.unpack(">I", raw[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 3, 2, 4, 3, 0, 0, 0)
    assert chunks[b"PLTE"] == bytes((1, 2, 3)) * 16
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(2, 3)[:, 1:]
    levels = np.stack([lines >> 4, lines & 15], axis=-1).reshape(2, 4)[:, :3]
    opacity = np.frombuffer(chunks[b"tRNS"], np.uint8)[levels] / 255
    assert opacity == pytest.approx(density)
