"""From a path to the account of its files: one accountant a format, in any folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from compressor.accounting import coreml, files, gguf, onnx, safetensors, torch
from compressor.accounting.account import Account, Claim, Found, What, account
from compressor.accounting.copies import marked
from compressor.errors import CompressorError, line, unknown
from compressor.formats import places
from compressor.formats.coreml.package import MANIFEST
from compressor.formats.wire import WireError
from compressor.sources import check_readable
from compressor.sources.onnx import TRACED, place

_ACCOUNTANTS: Sequence[ModuleType] = (gguf, onnx, safetensors, torch)
"""Of files; a package is a folder."""

_PACKAGE = ".mlpackage"

_LEFT_OVER = (".data", ".onnx_data", ".weights", ".weight", ".bin", ".raw")
"""Suffixes of files that nothing but a model refers to: one that none does is of no use."""

_UNREADABLE = (
    ".mlmodel",
    ".h5",
    ".keras",
    ".tflite",
    ".ort",
    ".pb",
    ".npz",
    ".msgpack",
    ".ckpt",
    ".pt",
    ".pth",
    ".onnx",
)
"""Suffixes of models that are of another kind than those that are read here, or not what they are called."""

_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "sentencepiece")

Claims = Callable[[Path, Found], None]


def explain(path: Path | str) -> Account:
    """Where every byte of a model is.

    path: a file, which counts with those that it refers to, or a folder, of which all files count.

    Raises:
        UsageError: it is a file of no known kind.
        CompressorError: there is no such file, it is damaged, or one that it needs cannot be read.
    """
    path = named(path)
    if not path.is_dir() and not path.is_file():
        raise CompressorError(f"{path}: no such file or directory; expected a model file, or a directory of one.")
    try:
        found = _folder(path) if path.is_dir() else _file(path)
        return account(found, partial(files.gap, found.root))
    except OSError as error:
        raise CompressorError(f"{error.filename or path}: cannot be read: {error.strerror}.") from error
    except WireError as error:
        raise CompressorError(f"{path}: {error}.") from error


def named(path: Path | str) -> Path:
    """The path with a name, which tells what it is: the current directory has none."""
    return Path(path) if Path(path).name else Path(path).resolve()


def _file(path: Path) -> Found:
    """A file by its suffix, which says what it must be."""
    for module in _ACCOUNTANTS:
        if path.suffix.lower() in module.SUFFIXES:
            path = place(path) if module is onnx else path
            found = Found(path.parent)
            _claimed(module.claim, path, found)
            return found
    check_readable(path)
    suffixes = {suffix for module in _ACCOUNTANTS for suffix in module.SUFFIXES}
    raise unknown("kind of model file", path.suffix or path.name, {*suffixes, _PACKAGE})


def _folder(path: Path) -> Found:
    """All files of a folder: models, what these refer to, and what is left."""
    found = Found(path)
    present = [*_present(path, found)]
    packages = sorted({one.parent for one in present if one.name == MANIFEST and one.parent.suffix == _PACKAGE})
    if path.suffix.lower() == _PACKAGE:
        packages = [path]
        _claimed(coreml.claim, path, found)
    for package in packages:
        if package != path:
            _tried(coreml.claim, package, found)
    loose = [one for one in present if not any(one.is_relative_to(package) for package in packages)]
    for folder in sorted({one.parent for one in loose if one.suffix.lower() in safetensors.SUFFIXES}):
        _tried(safetensors.claim_folder, folder, found)
    for one in loose:
        for module in (gguf, onnx):
            if one.suffix.lower() in module.SUFFIXES:
                _tried(module.claim, one, found)
    claimed = {claim.file for claim in found.claims}
    modelled = bool(claimed or found.notes)
    for one in present:
        if (name := found.add(one)) not in claimed:
            modelled |= _left(one, name, found)
    if not modelled:
        raise CompressorError(f"{path}: a directory without a model file; expected one that holds a model.")
    return found


def _present(path: Path, found: Found) -> Iterator[Path]:
    """The files in a folder; links that lead out of it are none."""
    for one in sorted(path.rglob("*")):
        if one.is_file():
            if reason := places.why_not(one.relative_to(path).as_posix(), path, path, "the folder"):
                found.notes.append(f"{one.relative_to(path).as_posix()} {reason}: not counted")
            else:
                yield one


def _claimed(claim: Claims, path: Path, found: Found, *, beside: bool = False) -> None:
    """Claims on one model, in which what is stored twice is told; `beside`: in the shards of its folder too."""
    before = len(found.claims)
    claim(path, found)
    shards = ((path if path.is_dir() else path.parent) / "*.safetensors").relative_to(found.root).as_posix()
    name = path.relative_to(found.root).as_posix()
    if claim is safetensors.claim_folder:
        name = shards
    elif path == found.root:
        name = path.name
    own = [one._replace(model=name) for one in found.claims[before:]]
    others = [one for one in found.claims[:before] if beside and one.model == shards]
    found.claims[before:] = [*marked(own, found.root, others)]


def _tried(claim: Claims, path: Path, found: Found, *, beside: bool = False) -> None:
    """Claims on one of several models; those of one that is damaged are a note, and its files are left."""
    before = len(found.claims)
    try:
        _claimed(claim, path, found, beside=beside)
    except CompressorError as error:
        del found.claims[before:]
        found.notes.append(line(error))


def _left(path: Path, name: str, found: Found) -> bool:
    """Claim a file that no model refers to; whether it is a model itself."""
    suffix = path.suffix.lower()
    if suffix in torch.SUFFIXES and path.name != TRACED and torch.is_one(path):
        before = len(found.claims)
        _tried(torch.claim, path, found, beside=True)  # as pytorch_model.bin lies beside model.safetensors
        if len(found.claims) > before:
            return True
    what = What.OTHER
    if path.name == TRACED:
        pass  # a module without weights, from which Core ML's are converted
    elif suffix in {*_UNREADABLE, *gguf.SUFFIXES, *safetensors.SUFFIXES}:
        what = What.UNREADABLE
    elif suffix in _LEFT_OVER:
        what = What.UNREFERENCED
    kind = "tokenizer" if what is What.OTHER and path.name.lower().startswith(_TOKENIZER) else name
    found.claims.append(Claim(name, 0, found.files[name], what, kind))
    return what is What.UNREADABLE
