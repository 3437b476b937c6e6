"""What Core ML's operators make of the sign of a zero: see `formats.negative_zeros`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compressor.formats.coreml import values
from compressor.formats.coreml.programs import Scope, Site, scopes
from compressor.formats.coreml.types import BY_NUMBER, WEIGHT_DTYPES
from compressor.formats.coreml.values import Files
from compressor.formats.negative_zeros import Effect, Reader, shown_by

_DROPS = frozenset(
    # sums of products
    "conv conv_transpose einsum gru linear lstm matmul rnn scaled_dot_product_attention "
    # a zero that is added to anything but a zero is gone
    "add avg_pool batch_norm instance_norm layer_norm local_response_norm reduce_l1_norm reduce_l2_norm "
    "reduce_log_sum reduce_log_sum_exp reduce_mean reduce_sum reduce_sum_square sub "
    # even, or not zero at zero
    "abs cos cosh equal exp exp2 greater greater_equal less less_equal logical_and logical_not logical_or logical_xor "
    "non_zero not_equal quantize reduce_argmax reduce_argmin shape sigmoid sigmoid_hard softmax softplus "
    "softplus_parametric square".split()
)
_CARRIES = frozenset(
    "band_part batch_to_space ceil clip concat crop cumsum depth_to_space elu erf expand_dims fill_like flatten2d "
    "floor gather gather_along_axis gather_nd gelu identity l2_norm leaky_relu max_pool maximum minimum mul pad "
    "pixel_shuffle pixel_unshuffle prelu reduce_max reduce_min relu relu6 resample reshape reshape_like resize "
    "resize_bilinear resize_nearest_neighbor reverse reverse_sequence round scaled_tanh scatter scatter_along_axis "
    "scatter_nd select silu sin sinh slice_by_index slice_by_size slice_update sliding_windows softsign "
    "space_to_batch space_to_depth split sqrt squeeze stack tan tanh thresholded_relu tile topk transpose "
    "upsample_bilinear upsample_nearest_neighbor".split()
)


def shown_zeros(program: Any, files: Files) -> Callable[[Site], str]:
    """What tells -0.0 from 0.0 in the value of a site; empty if nothing does."""
    readers: dict[tuple[str, str, str], list[Reader]] = defaultdict(list)
    outputs: set[tuple[str, str, str]] = set()
    known: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for scope in scopes(program):
        outputs.update((scope.function, scope.opset, name) for name in scope.block.outputs)
        for operation in scope.block.operations:
            told = f"{operation.type} {operation.outputs[0].name if operation.outputs else ''!r}"
            given = [output.name for output in operation.outputs]
            for name, place in _operands(operation):
                effect = _effect(operation, place)
                if operation.type == "pow" and place == "x" and _is_positive(scope, operation.inputs["y"], files):
                    effect = "carries"
                readers[scope.function, scope.opset, name].append(Reader(told, effect, given))

    def shown(site: Site) -> str:
        return shown_by(
            site.output,
            lambda name: readers.get((site.function, site.opset, name), ()),
            lambda name: (site.function, site.opset, name) in outputs,
            known[site.function, site.opset],
        )

    return shown


def _operands(operation: Any) -> Iterator[tuple[str, str]]:
    """The values that an operation reads, each with the name of the argument."""
    for place, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name, place


def _is_positive(scope: Scope, argument: Any, files: Files) -> bool:
    """Whether an argument is a constant above zero."""
    for binding in argument.arguments:
        found = binding.value
        if binding.WhichOneof("binding") == "name":
            producer = scope.producers.get(binding.name)
            if producer is None or producer.operation.type != "const":
                return False
            found = producer.operation.attributes["val"]
        numbers = values.elements(found, files)
        if numbers is None or not (np.asarray(numbers) > 0).all():
            return False
    return True


def _effect(operation: Any, place: str) -> Effect:
    if operation.type == "cast":
        to = BY_NUMBER.get(operation.outputs[0].type.tensorType.dataType)
        return "carries" if to is None or to.dtype in WEIGHT_DTYPES else "drops"
    if operation.type == "real_div":
        return "carries" if place == "x" else "shows"
    if operation.type in _CARRIES:
        return "carries"
    return "drops" if operation.type in _DROPS else "shows"
