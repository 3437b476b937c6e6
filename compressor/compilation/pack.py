"""The pack pass: codes and masks become the bytes that lie in a file, on the thread that made them."""

from __future__ import annotations

from dataclasses import replace

from compressor.encodings import packed
from compressor.weight import Weight


def pack(weight: Weight) -> Weight:
    """The pass that packs what a weight stores in less than a byte an element."""
    return replace(weight, encoding=packed(weight.encoding))
