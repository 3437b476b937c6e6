"""What training tools declared about their compression: the first hypothesis, which must give back the very weights.

    load --attach--> module that holds its declarations --declare--> float weights, encodings, notes --exported--> graph

A tool leaves its declarations in a module: buffers beside a weight (`coremltools`), a weight of a class of its own
(`torchao`), a fake quantizer (`fake_quantize`). Those of a bare state dict are put in the same places (`attach`), so
that each is read in one way. What holds bit for bit is stored in that form (`exported`); the rest is noted and ignored.
"""

# ruff: noqa: TID253 - imported where a torch model is exported, and nowhere else

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module

from compressor.encodings import Encoding
from compressor.sources.torch import ao
from compressor.sources.torch.declared import coremltools, torchao
from compressor.sources.torch.declared.bare import BareGrid
from compressor.sources.torch.declared.claims import Claim


@dataclass(frozen=True)
class Declared:
    """encodings: by the weight's name in the state dict. notes: likewise, what was declared and does not hold."""

    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def declare(model: Module | ExportedProgram) -> Declared:
    """What is declared about the weights of `model`, whose weights become plain float parameters, in place."""
    claims: list[Claim] = []
    with np.errstate(all="ignore"):  # what overflows is not the weight either
        if isinstance(model, Module):
            claims += torchao.settle(model)
            if any(ao.is_own(module) or isinstance(module, BareGrid) for module in model.modules()):
                from compressor.sources.torch.legacy import fake_quantize

                claims += fake_quantize.settle(model)
        state = model.state_dict() if isinstance(model, Module) else model.state_dict
        claims += coremltools.claims({name: value for name, value in state.items() if isinstance(value, Tensor)})
    encodings = {claim.weight: claim.encoding for claim in claims if claim.encoding is not None}
    notes: dict[str, list[str]] = defaultdict(list)
    for claim in claims:
        notes[claim.weight] += [claim.note] if claim.note else []
    return Declared(encodings, {weight: "; ".join(said) for weight, said in notes.items() if said})
