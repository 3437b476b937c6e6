"""`make bench`: size, speed and memory as ratios within one run, against `cp`, the dense model and the peer.

    python -m tests.benchmarks [onnxruntime] [load] [kernels] [detection] [coreml-sizes] [coreml-time] [cluster]
        [checkpoint]
        [--blocks 12] [--large 60] [--times 3] [--no-peer] [--json FILE]

Nothing here is a test: machines differ, and a limit that is missed is printed as such.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import loading, measure, models
from tests.benchmarks.measure import Figure

COMPRESSOR = Path(sys.executable).with_name("compressor")
KILOBYTES_64 = 64 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all of them if none is named")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of 7.1 M weights (12: 85 M)")
    parser.add_argument("--large", type=int, default=60, help="blocks of the large model (60: 425 M); 0 for none")
    parser.add_argument("--shards", type=int, default=16, help="of the checkpoint, 67 MB each (7 B weights: 210)")
    parser.add_argument("--times", type=int, default=5, help="measurements, of which the median counts")
    parser.add_argument("--no-peer", action="store_true", help="leave Core ML Tools out")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="compressor-bench-") as folder:
        sections = arguments.sections or SECTIONS
        if unknown := set(sections) - set(SECTIONS):
            parser.error(f"no section {', '.join(sorted(unknown))}")
        for figure in (each for section in sections for each in SECTIONS[section](Path(folder), arguments)):
            figures.append(figure)
            print(
                f"{'ok  ' if figure.reached else 'MISS'} {figure.what}: {figure.got:.2f}  {figure.detail}", flush=True
            )
    _print(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def _onnxruntime(folder: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    yield from _startup(arguments.times)
    for blocks, limit, dense_limit in ((arguments.blocks, 5.0, 4.0), (arguments.large, 2.5, 3.0)):
        for kind in models.KINDS if blocks else ():
            source = folder / f"{kind}{blocks}"
            models.write(source, kind, blocks)
            artefact = folder / f"{kind}{blocks}-out"
            yield from _whole_process(
                source, artefact, kind, blocks, dense_limit if kind == "dense" else limit, arguments.times
            )
            if blocks == arguments.blocks:
                yield from loading.figures(source, artefact, kind, arguments.times)
            if not (blocks == arguments.blocks and kind in ("palettized", "pruned")):
                _remove(source)
            _remove(artefact)
    if not arguments.no_peer:
        for kind in ("palettized", "pruned"):
            yield _against_peer(folder / f"{kind}{arguments.blocks}", kind, arguments.times)


def _kernels(_: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import kernels

    yield from kernels.figures(2 * arguments.times)


def _detection(folder: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import detection

    yield from detection.figures(folder, arguments.blocks, arguments.times)


def _loading(folder: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    """Sessions alone, of a small model too."""
    import compressor

    for blocks in (2, arguments.blocks):
        for kind in ("palettized", "pruned", "masked", "mixed"):
            source, artefact = folder / f"load-{kind}{blocks}", folder / f"load-{kind}{blocks}-out"
            models.write(source, kind, blocks)
            compressor.compress(source, artefact)
            yield from loading.figures(
                source, artefact, f"{kind} {blocks * models.BLOCK_PARAMETERS / 1e6:.0f} M", arguments.times
            )
            _remove(source)
            _remove(artefact)


def _coreml_sizes(folder: Path, _: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import coreml_sizes

    yield from coreml_sizes.figures(folder)


def _coreml_time(folder: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import coreml_time

    yield from coreml_time.figures(folder, arguments.times)


def _cluster(folder: Path, _: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import cluster

    yield from cluster.figures(folder)


def _checkpoint(folder: Path, arguments: argparse.Namespace) -> Iterator[Figure]:
    from tests.benchmarks import checkpoint

    yield from checkpoint.figures(folder, arguments.shards)


SECTIONS = {
    "onnxruntime": _onnxruntime,
    "load": _loading,
    "kernels": _kernels,
    "detection": _detection,
    "coreml-sizes": _coreml_sizes,
    "coreml-time": _coreml_time,
    "cluster": _cluster,
    "checkpoint": _checkpoint,
}


def _startup(times: int) -> Iterator[Figure]:
    seconds = measure.median(lambda: measure.process([COMPRESSOR, "--help"]).seconds, times)
    python = measure.median(lambda: measure.process([sys.executable, "-c", ""]).seconds, times)
    yield Figure("compressor --help, seconds over Python", seconds - python, 0.12, f"{seconds:.3f} s - {python:.3f} s")


def _whole_process(source: Path, artefact: Path, kind: str, blocks: int, limit: float, times: int) -> Iterator[Figure]:
    """`compressor compress` against `cp` of the dense files, in turn; the peak of its memory; the artefact's size."""
    measure.warm(source)
    ours: list[measure.Run] = []
    copies: list[measure.Run] = []
    peak = 0
    for _ in range(times + 1):
        measure.sync()
        copies.append(measure.process(["cp", "-r", source, source.with_name("copy")]))
        _remove(source.with_name("copy"))
        _remove(artefact)  # a copy replaces nothing either
        measure.sync()
        run = measure.process([COMPRESSOR, "compress", source, artefact])
        ours.append(run)
        peak = max(peak, run.anonymous)
    seconds, copy = (statistics.median(run.seconds for run in runs[1:]) for runs in (ours, copies))
    cpu = statistics.median(run.cpu for run in ours[1:])
    parameters = blocks * models.BLOCK_PARAMETERS
    name = f"{kind} {parameters / 1e6:.0f} M"
    yield Figure(
        f"{name}: compress / cp",
        seconds / copy,
        limit,
        f"{seconds:.2f} s ({cpu:.2f} s of the processors) / {copy:.2f} s",
    )
    yield Figure(f"{name}: peak anonymous MB", peak / measure.MB, 80, "polled every 20 ms")
    needed = _needed(artefact)
    stored = measure.size(artefact, without=("manifest.json",))
    over = 100 * (stored - needed - KILOBYTES_64) / needed
    yield Figure(f"{name}: % over need + 64 KB", over, 1.0, f"{stored:,} bytes for {needed:,.0f} needed")


def _needed(artefact: Path) -> float:
    """The bytes that the encodings need by themselves, from their definition and not from the manifest's sizes."""
    manifest = json.loads((artefact / "manifest.json").read_text())
    needed = 0.0
    for weight in manifest["weights"]:
        elements = 1
        for dimension in weight["shape"]:
            elements *= dimension
        needed += {
            "palettized4": elements / 2 + 16 * 4,
            "sparse": elements / 8 + 0.25 * elements * 4,
            "dense": elements * 4,
        }[weight["encoding"]]
    return needed


def _against_peer(source: Path, kind: str, times: int) -> Figure:
    """CPU time of detection, plan and encoding against the peer's pass, both on weights that lie in memory."""
    import numpy as np

    from compressor import sources, targets
    from compressor.compilation.encode import stored
    from compressor.compilation.pipelines import PIPELINES
    from compressor.compilation.plan import plan
    from compressor.compilation.stream import stream
    from compressor.encodings import decode
    from compressor.recognition.find import find
    from compressor.recognition.findings import Settings
    from tests.benchmarks import peer

    weights = sources.read(source).weights
    target = targets.get("onnxruntime")

    def ours() -> float:
        started = time.process_time()
        findings = list(stream(lambda weight: find(weight, Settings()), weights))
        chosen = plan(findings, target, PIPELINES["auto"])
        for _ in stream(partial(stored, target.legalize), weights, chosen.choices):
            pass
        return time.process_time() - started

    seconds = measure.median(ours, times)
    theirs = peer.seconds(kind, [np.array(decode(weight.encoding)) for weight in weights])
    detail = f"{theirs:.1f} s / {seconds:.3f} s"
    return Figure(
        f"{kind}: times faster than Core ML Tools' pass",
        theirs / seconds,
        400 if kind == "palettized" else 150,
        detail,
        at_least=True,
    )


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _print(figures: list[Figure]) -> None:
    table = Table(title="compressor, in ratios of one run")
    table.add_column("what")
    for column in ("measured", "limit"):
        table.add_column(column, justify="right")
    table.add_column("from")
    for figure in figures:
        style = "" if figure.reached else "bold red"
        limit = f"{'>=' if figure.at_least else '<='} {figure.limit:g}"
        table.add_row(figure.what, f"{figure.got:.2f}", limit, figure.detail, style=style)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
