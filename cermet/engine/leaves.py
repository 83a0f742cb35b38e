"""Sums over whole leaves, which no cut changes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FEW", "leaf_grams", "leaf_sums"]

FEW = 4
"""Models up to which inner products are made pair by pair: twice as fast as a thin product."""

_LANES = 1024  # as STRIP in kernels.c, which adds in the same order


def leaf_sums(values: Tensor, leaf: int) -> Tensor:
    """Sums of whole leaves along the last axis, the last one perhaps shorter: float64."""
    whole = values.shape[-1] // leaf * leaf
    parts = []
    if whole:
        parts.append(_in_pairs(values[..., :whole].reshape(*values.shape[:-1], -1, leaf)))
    if whole < values.shape[-1]:
        parts.append(_in_pairs(values[..., None, whole:]))
    return torch.cat(parts, dim=-1).to(torch.float64)


def _in_pairs(values: Tensor) -> Tensor:
    """Sums along the last axis: rows of lanes as a binary tree, then the lanes by halves.

    The error grows with the logarithm of the length, and the order is the same on any device.
    """
    missing = -values.shape[-1] % _LANES
    padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
    rows = padded.reshape(*values.shape[:-1], -1, _LANES)
    while rows.shape[-2] > 1:
        pairs = rows.shape[-2] // 2 * 2
        added = rows[..., 0:pairs:2, :] + rows[..., 1:pairs:2, :]
        odd = rows.shape[-2] > pairs
        rows = torch.cat([added, rows[..., pairs:, :]], dim=-2) if odd else added
    lanes = rows[..., 0, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def leaf_grams(values: Tensor, leaf: int) -> Tensor:
    """Inner products of models [models, elements] over leaves: float64 [models, models, leaves]."""
    count = len(values)
    if count > FEW:
        starts = range(0, values.shape[-1], leaf)
        wide = [values[:, at : at + leaf].to(torch.float64) for at in starts]
        return torch.stack([w @ w.t() for w in wide], dim=-1)
    leaves = -(-values.shape[-1] // leaf)
    gram = torch.empty(count, count, leaves, dtype=torch.float64, device=values.device)
    for i in range(count):
        for j in range(i, count):
            gram[i, j] = gram[j, i] = leaf_sums(values[i] * values[j], leaf)
    return gram
