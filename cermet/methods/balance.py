"""The competition of parameters: scores inside a model and between models, for PCB-Merging."""

from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.maths.combine import weighted_sum
from cermet.maths.select import Cutoff

__all__ = ["at_sorted", "balanced", "clamped", "dropped", "inside", "limits_of", "relative"]

_LEAST = 1e-12  # a sum of scales below this is taken for none


def at_sorted(index: int, numel: int) -> int:
    """The rank from above of the value at an index of the ascending order."""
    return numel - min(max(index, 0), numel - 1)


def limits_of(*, ratio: float, numel: int, count: int) -> list[list[int]]:
    """Ranks of the upper and lower bound to which the magnitudes of each model are clamped."""
    high, low = int(numel * (1.0 - ratio) - 1), int(numel * ratio)
    return [[at_sorted(high, numel), at_sorted(low, numel)]] * count


def clamped(
    deltas: Float[torch.Tensor, "models *block"], clamp: Cutoff
) -> Float[torch.Tensor, "models *block"]:
    """|τᵢ| between the bounds of its model."""
    sizes = deltas.abs()
    for size, (high, low) in zip(sizes, clamp.value, strict=True):
        size.clamp_(low, max(low, high))
    return sizes


def relative(
    sizes: Float[torch.Tensor, "models *block"], clamp: Cutoff
) -> Float[torch.Tensor, "models *block"]:
    """Clamped magnitudes on a scale from 0 to 1 of each model; 0 where all are equal."""
    found = torch.empty_like(sizes)
    for out, size, (high, low) in zip(found, sizes, clamp.value, strict=True):
        torch.sub(size, low, out=out).mul_(1.0 / (high - low) if high > low else 0.0)
    return found


def inside(shares: Float[torch.Tensor, "models *block"]) -> Float[torch.Tensor, "models *block"]:
    """Competition inside a model: exp(N n²), so large entries count far more."""
    return shares.square().mul_(float(len(shares))).exp_()


def dropped(*, density: float, numel: int, count: int) -> list[list[int]]:
    """Ranks of the largest score of each model and of that from which on entries are kept."""
    return [[1, at_sorted(int(numel * (1.0 - density)), numel)]] * count


def balanced(
    deltas: Float[torch.Tensor, "models *block"],
    scores: Float[torch.Tensor, "models *block"],
    clamp: Cutoff,
    drop: Cutoff,
    weight: PerModel,
) -> Float[torch.Tensor, "*block"]:
    """Σ wᵢSᵢτ̄ᵢ / Σ Sᵢ, with the scores above the threshold as scales S from 0 to 1."""
    for score, (high, low) in zip(scores, drop.value, strict=True):
        score.sub_(low).clamp_min_(0.0).mul_(1.0 / (high - low) if high > low else 0.0)
    divisor = weighted_sum(scores, [1.0] * len(scores)).clamp_min_(_LEAST)
    parts = clamped(deltas, clamp).mul_(deltas.sign()).mul_(scores)
    return weighted_sum(parts, weight).div_(divisor)
