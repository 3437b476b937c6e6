"""`.gguf` files: metadata key by key (a tokenizer is most of it), and the blocks of each tensor."""

from __future__ import annotations

from pathlib import Path

from compressor.accounting.account import Claim, Found, What
from compressor.formats import gguf

SUFFIXES = (".gguf",)


def claim(path: Path, found: Found) -> None:
    """Claim every byte of the file at `path`; the other parts of a model are accounted for by themselves.

    Raises:
        CompressorError: it is damaged.
        OSError: it cannot be read.
    """
    header = gguf.read(path)
    name = found.add(path)
    found.claims.append(Claim(name, 0, gguf.HEADER, What.CONTAINER, "header"))
    found.claims.extend(Claim(name, *at, What.NAMES, key) for key, at in header.fields.items())
    found.claims.append(Claim(name, *header.described, What.NAMES, "names and shapes of tensors"))
    for tensor in header.tensors:
        what = What.CONSTANTS if tensor.kind.name in gguf.INTEGERS else What.WEIGHTS
        at = (tensor.offset, tensor.offset + tensor.nbytes)
        found.claims.append(Claim(name, *at, what, tensor.name, tensor.kind.name))
