"""What compression adds to a plain conversion of 85 M parameters, against what Core ML Tools' passes add."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import compressor
from compressor.sources.torch import export
from tests.benchmarks import coreml_networks as networks
from tests.benchmarks import coreml_peer as peer
from tests.benchmarks import measure
from tests.benchmarks.measure import Figure, Seconds

TARGET = "iOS17"
"""The last one at which the peer's passes are of no other form than ours."""

KINDS = {
    "palettized": ("palettized, 16 values", "DEFAULT_PALETTIZATION", 20),
    "pruned": ("pruned 75 %", "DEFAULT_PRUNING", 5),
}
"""Version, pipeline and by how much the peer's pass must be slower."""


def figures(folder: Path, times: int) -> Iterator[Figure]:
    for kind, (version, pipeline, limit) in KINDS.items():
        module, _ = networks.trained(networks.LARGE, networks.VERSIONS[version])
        room = folder / kind
        (room / "exported").mkdir(parents=True)
        torch.save(module, room / "module.pt")
        export(room / "module.pt", room / "exported", inputs=networks.LARGE.inputs, allow_pickle=True)
        yield _against(f"{kind} 85 M", module, room, pipeline, limit, times)


def _against(name: str, module: nn.Module, folder: Path, pipeline: str, limit: float, times: int) -> Figure:
    """In seconds of the processors, which other programs on the machine change least."""
    inputs = networks.LARGE.inputs
    trace = peer.traced(module, inputs)

    def converted(by: str) -> Seconds:
        return measure.call(lambda: peer.convert(trace, inputs, TARGET, by, folder / f"{by}.mlpackage"))

    def compressed() -> Seconds:
        return measure.call(lambda: compressor.compress(folder / "exported", folder / "out", target=TARGET))

    pairs = [(converted("DEFAULT"), compressed()) for _ in range(times + 1)][1:]
    plain, ours = (_median([pair[side] for pair in pairs]) for side in (0, 1))
    theirs = converted(pipeline)
    detail = ", ".join(
        f"{what} {each.cpu:.1f} s ({each.wall:.1f})"
        for what, each in (("plain", plain), ("ours", ours), ("theirs", theirs))
    )
    added = ours.cpu - plain.cpu  # less than nothing where Core ML Tools takes longer for the weights themselves
    ratio = (theirs.cpu - plain.cpu) / added if added > 0 else float("inf")
    return Figure(f"{name}: their pass's time / ours, beside a conversion", ratio, limit, detail, at_least=True)


def _median(taken: list[Seconds]) -> Seconds:
    return Seconds(statistics.median(each.wall for each in taken), statistics.median(each.cpu for each in taken))
