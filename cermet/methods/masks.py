"""Binary masks that several methods leave of their experts, and models made of them again."""

from __future__ import annotations

import torch
from jaxtyping import Float

__all__ = ["chosen"]


def chosen(
    merged: Float[torch.Tensor, "*block"],
    *,
    base: Float[torch.Tensor, "*block"],
    mask: Float[torch.Tensor, "*block"] | None,
) -> Float[torch.Tensor, "*block"]:
    """The merged weights where an expert's mask is 1, the base's elsewhere.

    θ₀ + m(θ − θ₀) without arithmetic, so nothing is rounded a second time. A tensor without a
    mask is as it was merged.
    """
    return merged if mask is None else torch.where(mask != 0, merged, base)
