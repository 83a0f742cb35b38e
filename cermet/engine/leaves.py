"""Sums over whole leaves, which no cut changes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["leaf_gram", "leaf_sums"]


def leaf_sums(values: Tensor, leaf: int) -> Tensor:
    """Sums of whole leaves along the last axis, the last one perhaps shorter: float64."""
    whole = values.shape[-1] // leaf * leaf
    parts = []
    if whole:
        parts.append(values[..., :whole].reshape(*values.shape[:-1], -1, leaf).sum(dim=-1))
    if whole < values.shape[-1]:
        parts.append(values[..., whole:].sum(dim=-1, keepdim=True))
    return torch.cat(parts, dim=-1).to(torch.float64)


def leaf_gram(leaf: Tensor) -> Tensor:
    """Inner products of the models over one leaf: float64 [models, models]."""
    count = len(leaf)
    if count > 4:
        wide = leaf.to(torch.float64)
        return wide @ wide.t()
    # For few models, products and their sums are twice as fast as a thin matrix product.
    gram = torch.empty(count, count, dtype=torch.float64, device=leaf.device)
    for i in range(count):
        for j in range(i, count):
            gram[i, j] = gram[j, i] = (leaf[i] * leaf[j]).sum()
    return gram
