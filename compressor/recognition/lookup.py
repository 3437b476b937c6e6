"""Tables of floats: those that formats define, and where the entry next to a value is found."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from compressor.arrays import DType, NDArray
from compressor.formats.narrow_floats import E2M1, E4M3, E5M2, table
from compressor.recognition.rows import exact

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of a normal distribution. Source: QLoRA (arXiv:2305.14314), appendix E."""

_INT4 = np.arange(-8, 8, dtype=np.float32)
"""Codes times float32 scales: what GGUF's Q4_0 are in a model that was saved in half precision."""

_FP4 = np.array([0, 0.0625, 2, 3, 4, 6, 8, 12], np.float32) / np.float32(12)
"""Source: bitsandbytes 0.50, functional.py, `get_4bit_type`."""

_SLOT = np.uint32(16)
"""The bits of a float32 that are rounded off for the place of its entry to be looked up."""


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table of floats, and where the entry next to a value is found.

    entries: ascending, of the weight's type, or float32 where products are rounded to that last.
    places: uint8, by the upper bits of a float32; None where entries are too near each other for that.
    """

    entries: NDArray
    places: NDArray | None

    @classmethod
    def of(cls, entries: NDArray) -> Lookup:
        """The lookup of at most 256 ascending entries.

        >>> Lookup.of(np.array([-1, 0, 0.5], np.float32)).index(np.array([0.49999, -0.9, -0.01], np.float32)).tolist()
        [2, 0, 1]
        """
        values = exact(entries)
        apart = np.diff(values) > np.maximum(np.abs(values[1:]), np.abs(values[:-1])) / 64
        if values.dtype != np.float32 or not apart.all():
            return cls(entries, None)
        return cls(entries, _nearest(values, _every_slot()))

    def index(self, quotients: NDArray) -> NDArray:
        """The place of the entry that is nearest to each value of the type in which products are made."""
        if self.places is None:
            return _nearest(exact(self.entries), quotients)
        slots = quotients.view(np.uint32) + np.uint32(1 << 15)
        slots >>= _SLOT
        return np.take(self.places, slots.astype(np.intp), mode="clip")


@functools.cache
def known(dtype: DType) -> tuple[tuple[str, Lookup], ...]:
    """The tables that formats define, the shortest first, by their names: in the type, and as float32.

    Some libraries round a table to the type before they multiply, others do not.
    """
    found = []
    if dtype.itemsize < _INT4.itemsize:  # in the type itself they are a grid
        found.append((f"int4, rounded to {dtype} last", _INT4))
    for name, entries in formats():
        own = entries.astype(dtype)
        held = np.array_equal(own.astype(np.float32), entries)
        found.append((name if held else f"{name} in {dtype}", own))
        if dtype.itemsize < entries.itemsize:
            found.append((f"{name}, rounded to {dtype} last", entries))
            if not held:
                found.append((f"{name} in {dtype}, rounded to it last", own.astype(np.float32)))
    return tuple((name, Lookup.of(entries)) for name, entries in found)


def _nearest(entries: NDArray, values: NDArray) -> NDArray:
    return np.searchsorted(entries[:-1] / 2 + entries[1:] / 2, values).astype(np.uint8)


@functools.cache
def _every_slot() -> NDArray:
    """The float32 of every sixteen upper bits."""
    values: NDArray = (np.arange(1 << 16, dtype=np.uint32) << _SLOT).view(np.float32)
    return values


@functools.cache
def formats() -> tuple[tuple[str, NDArray], ...]:
    """Tables by their names: float32, ascending, zero once."""
    tables = {"nf4": np.array(_NF4, np.float32), "bitsandbytes fp4": np.array([*-_FP4[:0:-1], *_FP4])}
    for kind in (E2M1, E4M3, E5M2):
        values = table(kind)
        tables[kind.name] = np.unique(values[np.isfinite(values)] + 0.0)
    return tuple(sorted(tables.items(), key=lambda item: item[1].size))
