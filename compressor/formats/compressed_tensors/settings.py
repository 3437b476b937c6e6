"""The `quantization_config` of config.json: which layers are quantized, and how.

Layers are named by patterns. A type of layers, `Linear`, would be shorter and name layers too whose weights are not in
the files, since they are tied to others.

Source: the configuration of the compressed-tensors library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from compressor.formats.compressed_tensors.schemes import Scheme

MIXED = "mixed-precision"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def settings(schemes: Mapping[str, Scheme], dense: Iterable[str]) -> dict[str, Any]:
    """The settings of a model.

    schemes: by the name of each layer that is quantized. dense: the names of the others that could be.
    """
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    formats = sorted({scheme.format for scheme in groups})
    others = tuple(dense)
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats[0] if len(formats) == 1 else MIXED,
        "config_groups": {
            f"group_{number}": {
                "targets": list(patterns(names, {*schemes, *others} - {*names})),
                "weights": _weights(scheme),
                "input_activations": None,
                "output_activations": None,
                "format": scheme.format,
            }
            for number, (scheme, names) in enumerate(groups.items())
        },
        "ignore": list(patterns(others, schemes)),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(scheme: Scheme) -> dict[str, Any]:
    block = {} if scheme.block is None else {"block_structure": list(scheme.block)}
    scale = {} if scheme.scale is None else {"scale_dtype": scheme.scale}
    return {
        "num_bits": scheme.bits,
        "type": scheme.type,
        "symmetric": scheme.symmetric,
        "strategy": scheme.strategy,
        "group_size": scheme.group,
        "dynamic": False,
        **block,
        **scale,
    }


def patterns(names: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    r"""Patterns that name these layers, and none of the others.

    What stands before the first number is left open: loaders call it in their own ways.

    >>> list(patterns(["model.layers.0.mlp.up", "model.layers.1.mlp.up", "head"], ["model.layers.2.mlp.gate"]))
    ['re:.*layers\\.\\d+\\.mlp\\.up$', 'head']
    >>> list(patterns(["model.layers.0.up"], ["model.layers.1.up"]))
    ['re:.*layers\\.0\\.up$']
    """
    rest = [*others]
    by_pattern: dict[str, list[str]] = {}
    for name in names:
        by_pattern.setdefault(_open(_NUMBER.sub("\0", name)), []).append(name)
    for pattern, named in by_pattern.items():
        if not _numbered(pattern):
            yield from named
        elif not any(re.fullmatch(pattern, other) for other in rest):
            yield f"re:{pattern}$"
        else:
            yield from (_alone(name, rest) for name in named)


def _alone(name: str, others: Iterable[str]) -> str:
    """A pattern for one layer, or its name where the end of another one's is the same."""
    pattern = _open(name)
    return name if any(re.fullmatch(pattern, other) for other in others) else f"re:{pattern}$"


def _open(name: str) -> str:
    """A pattern for a name from the part before its first number on; a `NUL` stands for any number."""
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part == "\0" or part.isdecimal()), None)
    tail = parts if first is None else parts[max(0, first - 1) :]
    return (".*" if first is not None else "") + r"\.".join(
        r"\d+" if part == "\0" else re.escape(part) for part in tail
    )


def _numbered(pattern: str) -> bool:
    return pattern.startswith(".*")
