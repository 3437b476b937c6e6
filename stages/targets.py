"""`compressor targets`: what artefacts can be made for."""

from __future__ import annotations

from compressor.stages.options import AsJson


def targets(*, as_json: AsJson = False) -> None:
    """List the deployment targets."""
    from compressor import targets as known
    from compressor.stages import report

    names = known.names()
    report.show_json(list(names)) if as_json else report.show("\n".join(names))
