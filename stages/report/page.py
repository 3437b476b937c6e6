"""The page: one file that needs nothing else, from templates that escape whatever others have named."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from compressor.errors import plural

from .. import display
from ..sheet import elided
from ..text import size, visible
from . import plots, png, tradeoff, views
from .facts import KINDS, NAMELESS, Report, kind, number
from .portraits import Portrait

TEMPLATES = Path(__file__).parent / "templates"
MASK_COLOUR = (31, 157, 143)  # as that of sparse forms in style.css, seen on light and on dark
MOST_NAME = 240  # characters of a name; no page is longer for one of thousands
MOST_FOUND = 1000  # rows of a detection where there is no artefact

_BREAKS = re.compile(r"([./:_\-]|(?<=[a-z])(?=[A-Z]))")
_LONG = re.compile(r"\w{24}")


def html(report: Report, portraits: Mapping[str, Sequence[Portrait]], version: str) -> str:
    """The report as a page.

    portraits: of weights, by the name of the artefact.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size,
        "wrapped": wrapped,
        "coded": coded,
        "signed": views.signed,
        "plural": plural,
        "said": views.said,
        "shape": views.shape,
        "bound": views.bound,
        "histogram": plots.histogram,
        "picture": partial(png.data_uri, colour=MASK_COLOUR),
        "place": "{:.2f}".format,
    }
    environment.globals |= {
        "kind": kind,
        "ratio": display.ratio,
        "number": number,
        "KINDS": KINDS,
        "nameless": NAMELESS,
    }
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return environment.get_template("page.html").render(
        report=report,
        artefacts=[views.artefact(variant, report.found) for variant in report.variants],
        portraits=portraits,
        scatter=tradeoff.scatter(report),
        sides=views.side_by_side(report.variants),
        shown=views.SHOWN,
        most_compared=views.MOST_COMPARED,
        most_found=MOST_FOUND,
        verified=views.verified(report),
        version=version,
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704 - see above
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """What the page may load and run: its own style and script, and the pictures that it holds."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _shown(value: Any) -> Any:
    """What every expression of a template comes to: nothing that a reader cannot see."""
    return visible(value) if type(value) is str else value


def coded(said: str) -> Markup:
    """A sentence with what stands in it between backticks as code.

    >>> coded("run `dvc pull` <b>")
    Markup('run <code>dvc pull</code> &lt;b&gt;')
    """
    parts = [escape(part) for part in visible(said).split("`")]
    if len(parts) % 2 == 0:  # one of them is of a name
        return escape(visible(said))
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def wrapped(name: str) -> Markup:
    """A name that may be broken where its parts end, in a direction of its own.

    >>> wrapped("encoder.attn<q>")
    Markup('<bdi>encoder.<wbr>attn&lt;q&gt;</bdi>')
    """
    parts = _BREAKS.sub(lambda found: f"{found[0]}\0", elided(visible(name), MOST_NAME))
    parts = _LONG.sub(lambda found: f"{found[0]}\0", parts)
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr>").join(map(escape, filter(None, parts.split("\0")))))
