"""Where models vary most, and how much of their energy is there: what the forms of SCE share."""

from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, Sum
from cermet.maths import native
from cermet.maths.lowered import Above, Norms, Ordered, lowered
from cermet.maths.select import Cutoff, kept_mask

__all__ = ["energy_of_selected", "most_varied", "selected"]


@lowered(Ordered("variance"))
def _variance(deltas: Float[torch.Tensor, "models *block"]) -> Float[torch.Tensor, "1 *block"]:
    """Population variance over the models; exactly 0 where they agree."""
    rows = native.stored(deltas.unbind()) if native.plain(deltas) else None
    if rows is not None:
        return torch.from_numpy(rows.variance()[0]).view(1, *deltas.shape[1:])
    share = 1.0 / len(deltas)
    first, *others = deltas
    mean, room = torch.zeros_like(first), torch.empty_like(first)  # offsets from the first
    for other in others:
        mean.add_(torch.sub(other, first, out=room), alpha=share)
    variance = mean.square().mul_(share)
    for other in others:
        offset = torch.sub(other, first, out=room).sub_(mean)
        variance.add_(offset.square_(), alpha=share)
    return variance[None]


def _largest(*, select_topk: float, nonzero: list[int]) -> list[list[int]]:
    return [[int(n * select_topk)] for n in nonzero]


def _selective(*, select_topk: float) -> bool:
    return select_topk < 1


@lowered(Above("varied"))
def selected(
    deltas: Float[torch.Tensor, "models *block"], *, varied: Cutoff | None
) -> Float[torch.Tensor, "1 *block"]:
    """1.0 at the positions that are selected, else 0.0; the same for every model."""
    if varied is None:
        return torch.ones_like(deltas[:1])
    variance = _variance(deltas)
    return kept_mask(variance[0], varied)[None]


@lowered(Norms("mask", power=2, before=False))
def _energy(
    deltas: Float[torch.Tensor, "models *block"], *, mask: Float[torch.Tensor, "1 *block"]
) -> Float[torch.Tensor, "models *block"]:
    return (deltas * mask).square_()


most_varied = Kth("varied", of=_variance, rank=_largest, when=_selective)
"""The variance from which on an element is selected."""

energy_of_selected = Sum("energy", of=_energy, arrays=True)
"""Σ τ² of each model over the selected elements."""
