"""The pages of the documentation that are written from code; they are committed, and a test holds them to it.

`python -m compressor.stages.reference docs` writes them again (`make reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import api, commands, files, formats, settings

PAGES: Mapping[str, Callable[[], str]] = {
    "api.md": api.page,
    "commands.md": commands.page,
    "files.md": files.page,
    "formats.md": formats.page,
    "params.md": settings.page,
}
"""What gives the text of each page."""
