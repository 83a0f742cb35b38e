"""Singular triplets of several experts as one matrix, whose directions do not overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cermet.maths.lowrank import Triplets
from cermet.maths.polar import polar

__all__ = ["whitened"]


def whitened(parts: Sequence[Triplets], weight: Sequence[float], lambda_: float) -> torch.Tensor:
    """λU diag(w₁Σ₁ ... w_TΣ_T) Vᵀ, U and V the polar factors of all vectors: float32.

    `weight`: one for each expert. Triplets: of one matrix shape, any number from each expert.
    """
    left, _ = polar(torch.cat([part.left for part in parts], dim=1))
    right, _ = polar(torch.cat([part.right for part in parts]))
    values = torch.cat([w * part.values for w, part in zip(weight, parts, strict=True)])
    return (left * (lambda_ * values)).float() @ right.float()
