"""`compressor targets`: what artefacts can be made for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from compressor.stages.options import AsJson

if TYPE_CHECKING:
    from compressor.targets import Target


def targets(*, as_json: AsJson = False) -> None:
    """List the deployment targets."""
    from compressor import targets as known
    from compressor.stages import report
    from compressor.stages.sheet import Row, Sheet

    rows = [(name, *_described(known.get(name))) for name in known.names()]
    if as_json:
        report.show_json([{"name": name, "opset": opset, "summary": summary} for name, opset, summary in rows])
    else:
        lines = tuple(Row((name, str(opset or "")), summary) for name, opset, summary in rows)
        report.show(Sheet(("target", "opset"), lines, numbers=1))


def _described(target: Target) -> tuple[int | None, str]:
    """The newest opset of a model for the target, and what it is; of no ONNX target, what its module says of itself."""
    from compressor.targets.onnxruntime import RUNS_OPSET, OnnxRuntime

    if not isinstance(target, OnnxRuntime):
        return None, (sys.modules[type(target).__module__].__doc__ or "").partition("\n")[0]
    newest = target.newest()
    if target.opset is None:
        return newest, "the ONNX Runtime that is installed here"
    major, minor = min(version for version, opset in RUNS_OPSET.items() if opset >= newest)
    return newest, f"ONNX Runtime {major}.{minor} and later"
