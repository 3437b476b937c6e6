"""Sizes of packages against Core ML Tools' best of the same module, and the exactness of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import compressor
from compressor import sources
from compressor.encodings import decode
from compressor.sources.torch import export
from tests.benchmarks import coreml_peer as peer
from tests.benchmarks.coreml_networks import NETWORKS, TARGETS, VERSIONS, NDArray, Network, Version, readings, trained
from tests.benchmarks.measure import Figure


@dataclass(frozen=True)
class Package:
    """The bytes of a package: of all files, and of weight.bin."""

    nbytes: int
    weights: int

    def __str__(self) -> str:
        return f"{self.nbytes:,} ({self.weights:,})"


def figures(folder: Path) -> Iterator[Figure]:
    for network in NETWORKS:
        for version in VERSIONS:
            room = folder / f"{network} {version}"
            room.mkdir()
            yield from _of_version(f"{network}, {version}", NETWORKS[network], VERSIONS[version], room)


def _of_version(name: str, network: Network, version: Version, folder: Path) -> Iterator[Figure]:
    module, declared = trained(network, version)
    exported = folder / "exported"
    exported.mkdir()
    torch.save(module, folder / "module.pt")
    export(folder / "module.pt", exported, inputs=network.inputs, allow_pickle=True)
    for target in TARGETS:
        compressor.compress(exported, folder / target, target=target)
        path = folder / target / "model.mlpackage"
        ours = _package(path)
        theirs = {
            pipeline: _package(made)
            for pipeline, made in peer.packages(module, declared, network.inputs, target, folder)
        }
        yield _against(f"{name}, {target}: bytes / Core ML Tools' best", ours, theirs, 0)
        if target in version.ahead:
            theirs.pop(peer.DECLARED, None)
            yield _against(f"{name}, {target}: bytes / its best pipeline", ours, theirs, 1)
        yield _exactness(f"{name}, {target}: values that differ", path, readings(module, declared))


def _against(what: str, ours: Package, theirs: Mapping[str, Package], less: int) -> Figure:
    """Ours against the smallest of the peer's; it must be smaller by `less` bytes."""
    best = min(theirs, key=lambda pipeline: theirs[pipeline].nbytes)
    most = theirs[best].nbytes
    return Figure(what, ours.nbytes / most, (most - less) / most, f"{ours} / {theirs[best]} {best}")


def _package(path: Path) -> Package:
    sizes = {file.name: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    return Package(sum(sizes.values()), sizes["weight.bin"])


def _exactness(what: str, package: Path, expected: Mapping[str, list[NDArray]]) -> Figure:
    """The values that are not, bit for bit, those of the module, rounded once."""
    stored = {weight.name: decode(weight.encoding) for weight in sources.read(package).weights}
    differ = {
        name: min(_differing(stored[name], each) for each in expected[name]) for name in expected if name in stored
    }
    missing = sum(expected[name][0].size for name in expected.keys() - stored.keys())
    names = ", ".join(f"{name} {count:,}" for name, count in differ.items() if count)
    total = sum(each[0].size for each in expected.values())
    return Figure(what, sum(differ.values()) + missing, 0, f"of {total:,}{names and ': '}{names}")


def _differing(stored: NDArray, exact: NDArray) -> int:
    if stored.shape != exact.shape:
        return int(exact.size)
    bits = f"u{stored.dtype.itemsize}"
    return int((stored.view(bits) != exact.astype(stored.dtype).view(bits)).sum())
