"""`.safetensors` files: a header, and tensors one behind the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compressor.accounting.account import Claim, Found, What
from compressor.accounting.known import Known, known
from compressor.arrays import FLOAT_DTYPES
from compressor.errors import CompressorError, line
from compressor.formats import safetensors

SUFFIXES = (".safetensors",)


def claim(path: Path, found: Found) -> None:
    """Claim every byte of the file at `path`; `config.json` beside it says how weights are stored.

    Raises:
        CompressorError: it is damaged.
        OSError: it cannot be read.
    """
    from compressor.sources.safetensors import read

    _claim(path, found, known(lambda: read(path), found.notes) or Known())


def claim_folder(folder: Path, found: Found) -> None:
    """Claim every byte of the `.safetensors` files of a Hugging Face folder; one that is damaged is not readable.

    Raises:
        OSError: one cannot be read.
    """
    from compressor.sources.huggingface import read

    read_as = known(lambda: read(folder), found.notes) or Known()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            _claim(path, found, read_as)
        except CompressorError as error:
            found.notes.append(line(error))
            name = found.add(path)
            found.claims = [one for one in found.claims if one.file != name]
            found.claims.append(Claim(name, 0, found.files[name], What.UNREADABLE, name))


def _claim(path: Path, found: Found, read_as: Known) -> None:
    described, start, size = safetensors.header(path)
    name = found.add(path)
    found.claims.append(Claim(name, 0, 8, What.CONTAINER, "length of the header"))
    found.claims.append(Claim(name, 8, start, What.NAMES, "header"))
    for key, entry in described.items():
        if key == safetensors.METADATA:
            continue
        _, begin, stop, _, dtype, _ = safetensors.place(path, key, entry)
        if start + stop > size:
            found.notes.append(f"{name}: tensor {key!r}: expected bytes up to {start + stop}, the file has {size}")
        found.claims.append(_tensor(name, path, key, (start + begin, start + stop), dtype.name, read_as))


def _owners(key: str) -> Iterator[str]:
    """The names that the weight may have of which a tensor is a part, or may be one itself."""
    layer = key.rpartition(".")[0]
    yield from (key, f"{layer}.weight", layer, layer.removesuffix(".quant_state"))
    yield from (key.removesuffix(part) for part in ("_blocks", "_scales", "_scale_inv") if key.endswith(part))


def _tensor(file: str, path: Path, key: str, at: tuple[int, int], dtype: str, read_as: Known) -> Claim:
    weight = read_as.at(path, at[0]) or read_as.named(_owners(key))
    if weight is not None:
        return Claim(file, *at, What.WEIGHTS, weight, read_as.forms[weight])
    if dtype in FLOAT_DTYPES:
        return Claim(file, *at, What.WEIGHTS, key, "dense")
    return Claim(file, *at, What.CONSTANTS, key, dtype)
