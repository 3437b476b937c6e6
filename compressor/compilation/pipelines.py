"""Pass pipelines: which schemes may take part. The names are those that users of Core ML Tools know, and `auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from compressor.errors import unknown
from compressor.recognition.schemes import describing, linear_quantize, palettize, scaled_table, sparsify
from compressor.recognition.schemes.sparsify import THRESHOLD


@dataclass(frozen=True)
class PassPipeline:
    """A choice of schemes.

    name: as users ask for it.
    schemes: that may take part; a form that the source already has is always kept.
    summary: what it does, in a line.
    threshold: values up to this magnitude may become zero; 0.0: no value of any weight changes.
    rule: the pattern of the rule by which it is another one for some weights; empty for all others.
    """

    name: str
    schemes: frozenset[str]
    summary: str
    threshold: float = 0.0
    rule: str = ""


PIPELINES: Mapping[str, PassPipeline] = MappingProxyType(
    {
        pipeline.name: pipeline
        for pipeline in (
            PassPipeline(
                "auto",
                frozenset({sparsify.NAME, *(scheme.NAME for scheme in describing())}),
                "every scheme and their joint forms: the smallest exact one wins, weight by weight",
            ),
            PassPipeline(
                "default_pruning",
                frozenset({sparsify.NAME}),
                f"sparse storage of pruned weights; values up to {THRESHOLD:g} in them become zero",
                THRESHOLD,
            ),
            PassPipeline(
                "default_palettization",
                frozenset({palettize.NAME, scaled_table.NAME}),
                "lookup tables for few distinct values, with scales for channels or blocks too",
            ),
            PassPipeline("default_quantization", frozenset({linear_quantize.NAME}), "codes for weights on a grid"),
        )
    }
)


UNCOMPRESSED = PassPipeline("", frozenset(), "no scheme: what a compressed model is compared with")


def get(name: str, threshold: float | None = None) -> PassPipeline:
    """The pipeline of that name.

    threshold: what is asked for instead of the pipeline's own, if anything is.

    Raises:
        UsageError: there is none.
    """
    if name not in PIPELINES:
        raise unknown("pipeline", name, PIPELINES)
    found = PIPELINES[name]
    return found if threshold is None else replace(found, threshold=threshold)
