"""`compressor targets`: what artefacts can be made for."""

from __future__ import annotations

from .options import AsJson


def targets(*, as_json: AsJson = False) -> None:
    """List the deployment targets.

    Examples:
        compressor targets
    """
    from compressor import targets as known

    from . import display

    summaries = [(name, known.get(name).summary) for name in known.names()]
    if as_json:
        display.show_json([{"name": name, "summary": summary} for name, summary in summaries])
    else:
        display.show(display.pairs("target", "", summaries))
