"""The files that commands write: every key, from the dataclasses that they are written from."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from compressor.compilation.manifest import FileFacts, Manifest, WeightFacts
from compressor.encodings import Concatenated, Dense, Encoding, Palettized, Quantized, Sparse
from compressor.evaluation import metrics
from compressor.recognition.findings import Detection, Finding, Settings
from compressor.recognition.schemes import Candidate, Loss

from .. import display, evaluate, latency
from .docstrings import parse
from .markdown import WRITTEN, table

INTRODUCTION = f"""\
# Files

{WRITTEN}

All are UTF-8 text with lines that end with LF, keys in the order of these tables, so that Git shows what has changed. A
later version may add keys; it does not take one away or change its meaning without a line in the changelog.
"""

MANIFEST = """\
## manifest.json

Beside every artefact, from `compress`: what it was made for, by what, and what each weight became. `compressor inspect
--json` prints the same of any model file, read from the file itself.
"""

DETECTION = """\
## detection.json

From `detect --out`: what each weight is, with the evidence, and every form that could hold it. `compress --detection`
takes it, so that another target or pipeline needs no second look.
"""

SPECS = """\
### A spec

An object with the name of its `node` and a member for each part: another spec, an array as `{"dtype": "uint4", "shape":
[64, 32]}`, or `null`. Nesting is joint compression.
"""

METRICS = """\
## metrics.json

From `evaluate --out`, for `dvc metrics` and `compressor check`: flat but for `baseline`. What is not known is left out.
"""

LATENCY = """\
## latency.json

From `evaluate --latency`: times of the artefact and of the uncompressed model, run in turns.
"""

TOOLCHAIN = """\
## toolchain.json

From `toolchain --out`: the version of each package that shapes a result, by the package's name; `none` where it is not
installed.
"""


def page() -> str:
    """The whole text."""
    parts = [
        INTRODUCTION,
        MANIFEST,
        "\n".join(table(("key", "kind", ""), manifest_rows())),
        DETECTION,
        "\n".join(table(("key", "kind", ""), detection_rows())),
        SPECS,
        *map(_node, (Dense, Quantized, Palettized, Sparse, Concatenated)),
        METRICS,
        "\n".join(table(("key", ""), keys(metrics))),
        LATENCY,
        "\n".join(table(("key", ""), keys(latency))),
        TOOLCHAIN,
        "## Tables for plots\n",
        "\n".join(table(("file", "columns"), _plots())),
    ]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def manifest_rows() -> Iterator[tuple[str, str, str]]:
    """Key, kind and text of all that stands in a manifest."""
    yield from fields("", Manifest)
    yield from fields("files[].", FileFacts)
    yield from fields("weights[].", WeightFacts)


def detection_rows() -> Iterator[tuple[str, str, str]]:
    """Key, kind and text of all that stands in a detection, but for specs."""
    yield "`compressible`", "whole number", parse(Detection.compressible, ()).text
    yield "`settings`", "list of one object", "those that held."
    yield from fields("settings[].", Settings)
    yield "`findings`", "list of objects", "what each weight is, in the order of the model."
    yield from (row for row in fields("findings[].", Finding) if not row[0].endswith(".missed`"))
    yield from (row for row in fields("findings[].candidates[].", Candidate) if not row[0].endswith(".loss`"))
    yield from fields("findings[].candidates[].", Loss)


def keys(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Key and text of all that may stand in a flat file: the table in the docstring of the module that makes it."""
    rows = list[list[str]]()
    for line in (inspect.getdoc(module) or "").splitlines():
        begun = re.match(r" {4}(\S+) {2,}(.+)", line)
        if begun:
            rows.append([begun[1], begun[2]])
        elif rows and line.startswith("      "):
            rows[-1][1] += f" {line.strip()}"
    return ((f"`{key}`", text) for key, text in rows)


def fields(prefix: str, kind: type) -> Iterator[tuple[str, str, str]]:
    """Key, kind in JSON and text of a dataclass's fields."""
    names = [field.name for field in dataclasses.fields(kind)]
    said, hints = parse(kind, names), get_type_hints(kind)
    for name in names:
        yield f"`{prefix}{name}`", _kind(hints[name]), said.names[name].replace("None", "`null`")


def _node(kind: type) -> str:
    said = parse(kind, [field.name for field in dataclasses.fields(kind)])
    rows = [(f"`{name}`", text) for name, text in said.names.items()]
    return "\n".join([f"#### {kind.__name__}\n", said.text, "", *table(("member", ""), rows), ""])


KINDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", dict: "object"}


def _kind(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Encoding:
        return "spec"
    if origin in (Union, UnionType):
        return " or ".join("`null`" if part is type(None) else _kind(part) for part in parts)
    if origin is tuple:
        return f"list of {_kind(parts[0])}".removesuffix("s") + "s" * (parts[0] is not str)
    return KINDS.get(origin or hint, "object")


def _plots() -> Iterator[tuple[str, str]]:
    rows = {
        "`detect --plots`: a row for each weight": display.SPARSITY_COLUMNS,
        "`compress --plots`: two rows for each weight": display.BYTES_COLUMNS,
        f"`evaluate --plots-dir`: `{evaluate.ACCURACY_SIZE}`, one row": ("size_mb", "the metric"),
        f"`evaluate --plots-dir`: `{evaluate.CONFUSION}`, a row for each sample": ("actual", "predicted"),
    }
    return ((file, ", ".join(columns)) for file, columns in rows.items())
