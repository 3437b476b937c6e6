"""The file of `compressor evaluate --latency`: how long an artefact and its uncompressed model take, and where.

It is no part of `metrics.json`: times are noise, and every changed digit is a row of `dvc metrics diff`. Its keys are
those of no other file, so that `dvc exp show` has short names for its columns.

    latency_measured    whether anything was timed; if not, `latency_reason` is the only other key
    latency_reason      why not: another runtime stands in for the target's own
    latency_p50_ms      the median of the artefact's runs, in milliseconds; 3 decimals
    latency_p90_ms      nine of ten runs take at most this
    load_ms             the median of its loads
    latency_ratio       of the artefact's median to the uncompressed model's; 2 decimals
    load_ratio          of their loads
    latency_runs        the runs of each model that count
    latency_samples     in one run
    latency_runtime     what ran them
    cpu                 what the processor calls itself
    cpus                how many of it this process may use
    baseline            `latency_p50_ms`, `latency_p90_ms` and `load_ms` of the uncompressed model
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressor.evaluation.latency import Latency, Timed
    from compressor.targets import Target
    from compressor.targets.session import Session

    from .groups import Evaluate

Document = dict[str, float | str | bool | dict[str, float]]

CPU_FILE = Path("/proc/cpuinfo")


def timed(
    baseline: Callable[[], Session], artefact: Callable[[], Session], target: Target, own: Evaluate, runtime: str | None
) -> Document:
    """The content of the file, of both models as the target opens them. runtime: what ran them.

    Raises:
        CompressorError: a model does not load or run, or the samples do not fit it.
    """
    from compressor import targets
    from compressor.evaluation import latency

    from . import progress

    if runtime != (family := targets.family(target.name)):
        reason = (
            f"{runtime} stands in for {family} here, with decoded weights: its times are not those of {target.name}"
        )
        return {"latency_measured": False, "latency_reason": reason}
    with progress.shown("runs") as shown:
        settings = latency.Settings(**own.latency.model_dump())
        return _document(latency.measure(baseline, artefact, own.data, settings, shown), own.latency.runs)


def _document(found: Latency, runs: int) -> Document:
    from compressor.compilation.stream import processors

    before, after = _times(found.before), _times(found.after)
    return {
        "latency_measured": True,
        **after,
        "latency_ratio": round(found.after.percentile(50) / found.before.percentile(50), 2),
        "load_ratio": round(found.after.load / found.before.load, 2),
        "latency_runs": runs,
        "latency_samples": found.batch_size,
        "latency_runtime": found.runtime,
        "cpu": cpu(),
        "cpus": processors(),
        "baseline": before,
    }


def _times(found: Timed) -> dict[str, float]:
    seconds = {"latency_p50_ms": found.percentile(50), "latency_p90_ms": found.percentile(90), "load_ms": found.load}
    return {name: round(1000 * value, 3) for name, value in seconds.items()}


def cpu() -> str:
    """What the processor of this machine calls itself."""
    try:
        lines = CPU_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(filter(None, named), platform.processor() or platform.machine())


def rows(found: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """What the times are, in the columns of the metrics: the name, uncompressed, compressed."""
    before = found.get("baseline")
    if not isinstance(before, dict):
        return []
    names = (*before, "latency_ratio", "load_ratio")
    return [(name, f"{before[name]}" if name in before else "", f"{found[name]}") for name in names]


def told(found: Mapping[str, object]) -> str:
    """What was timed, or why nothing was."""
    if not found["latency_measured"]:
        return f"latency is not measured: {found['latency_reason']}"
    return f"timed in turns, {found['latency_samples']} a run, on {found['cpu']} ({found['cpus']} processors)"
