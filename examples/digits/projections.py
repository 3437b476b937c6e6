"""What compressed training projects weights onto, and how gradients pass through it.

Every projection is a pure function of a weight: the same values give the same zeros and the same palette.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

LLOYD_STEPS = 8
# Survivors are at least this large: training cannot park one near zero, where a reader that calls |w| <= 1e-3 pruned
# (as Core ML's guide does) would lose it, and n:m and block counts are exact.
FLOOR = 2.0**-9

Projection = Callable[[Tensor], Tensor]


def _largest(scores: Tensor, count: int) -> Tensor:
    """The `count` largest scores along the last axis: bool, the shape of `scores`. Ties cannot add to the count."""
    chosen = scores.topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, value=True)


def _keep(weight: Tensor, mask: Tensor) -> Tensor:
    """`weight` where `mask` is set, pushed out to `FLOOR`; zero elsewhere (a product would leave -0.0)."""
    return torch.where(mask, weight.abs().clamp(min=FLOOR).copysign(weight), 0.0)


def magnitude(weight: Tensor, sparsity: float) -> Tensor:
    """The `round((1 - sparsity) * n)` largest magnitudes of the whole weight, zero elsewhere."""
    count = round((1 - sparsity) * weight.numel())
    return _keep(weight, _largest(weight.abs().flatten(), count).view_as(weight))


def n_of_m(weight: Tensor, n: int, m: int, axis: int = 1) -> Tensor:
    """The `n` largest magnitudes of every `m` neighbours along `axis`, zero elsewhere.

    Axis 1 is the input channels, over which a convolution or a linear layer sums: the axis that n:m hardware skips on.

    Raises: ValueError where a group would cross the axis' end.

    Source: Mishra et al., "Accelerating sparse deep neural networks", 2021, section 3.
    """
    if weight.shape[axis] % m:
        raise ValueError(
            f"{n}:{m} along axis {axis} of {list(weight.shape)}: {weight.shape[axis]} is no multiple of {m}"
        )
    last = weight.abs().movedim(axis, -1)
    kept = _largest(last.reshape(-1, m), n).view(last.shape)
    return _keep(weight, kept.movedim(-1, axis))


def blocks(weight: Tensor, sparsity: float, block: int) -> Tensor:
    """The blocks of `block` neighbouring output channels (axis 0) with the largest norms, zero elsewhere.

    Raises: ValueError where the channels do not divide into blocks.
    """
    if len(weight) % block:
        raise ValueError(
            f"blocks of {block} along axis 0 of {list(weight.shape)}: {len(weight)} is no multiple of {block}"
        )
    norms = weight.reshape(-1, block, *weight.shape[1:]).square().sum(1)
    count = round((1 - sparsity) * norms.numel())
    kept = _largest(norms.flatten(), count).view_as(norms)
    return _keep(weight, kept.repeat_interleave(block, dim=0))


def palette(weight: Tensor, entries: int) -> Tensor:
    """Each value replaced by the nearest of at most `entries` k-means centres.

    In one dimension the clusters are intervals, so an assignment is a binary search between the centres' midpoints.
    Centres start as members of the weight at even ranks.

    Source: Lloyd, "Least squares quantization in PCM", 1982.
    """
    values = weight.flatten().contiguous()
    ranks = (torch.arange(entries) + 0.5) * (values.numel() / entries)
    centres = values.sort().values[ranks.long()]
    for _ in range(LLOYD_STEPS):
        nearest = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
        counts = torch.bincount(nearest, minlength=entries)
        sums = torch.bincount(nearest, weights=values, minlength=entries)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres).to(weight.dtype)
    nearest = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
    return centres[nearest].view_as(weight)


def sparse_palette(weight: Tensor, sparsity: float, entries: int) -> Tensor:
    """`magnitude`, then a palette of the survivors only: zero takes none of the entries."""
    pruned = magnitude(weight, sparsity)
    kept = pruned != 0
    return pruned.masked_scatter(kept, palette(pruned[kept], entries))


class _PassThrough(torch.autograd.Function):
    """`project(weight)` forwards, the identity backwards.

    Source: Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013.
    """

    @staticmethod
    def forward(_ctx: Any, weight: Tensor, project: Projection) -> Tensor:
        return project(weight)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class StraightThrough(nn.Module):
    """A parametrization: the layer computes with `project(weight)`, the optimizer moves the dense weight behind it.

    Every step projects anew, so a pruned weight that grows comes back and the palette follows its values.
    """

    def __init__(self, project: Projection) -> None:
        super().__init__()
        self.project = project

    def forward(self, weight: Tensor) -> Tensor:
        return cast(Tensor, _PassThrough.apply(weight, self.project))  # type: ignore[no-untyped-call]
