"""Sums over whole leaves, which no cut changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["FEW", "Leaves", "added", "leaf_grams", "leaf_sums"]

# as a string: torch is not imported for its name
Leaves = Union["torch.Tensor", npt.NDArray[np.float64]]
"""A number of each leaf, on the last axis: from torch, or from the compiled kernels."""

FEW = 4
"""Models up to which inner products are made pair by pair: twice as fast as a thin product."""

_ROWS, _LANES = 8, 128  # as in leaves.h, which adds in the same order


def added(leaves: Sequence[Leaves]) -> npt.NDArray[np.float64]:
    """The sum over all leaves of a tensor, which are given in their order: [...]."""
    if not any(isinstance(part, np.ndarray) for part in leaves):
        whole = torch.cat([torch.as_tensor(part) for part in leaves], dim=-1).cpu().numpy()
    else:
        arrays = [p if isinstance(p, np.ndarray) else p.cpu().numpy() for p in leaves]
        whole = np.concatenate(arrays, axis=-1)
    found: npt.NDArray[np.float64] = whole.sum(axis=-1)
    return found


def leaf_sums(values: torch.Tensor, leaf: int) -> torch.Tensor:
    """Sums of whole leaves along the last axis, the last one perhaps shorter: float64."""
    whole = values.shape[-1] // leaf * leaf
    parts = []
    if whole:
        parts.append(_in_pairs(values[..., :whole].reshape(*values.shape[:-1], -1, leaf)))
    if whole < values.shape[-1]:
        parts.append(_in_pairs(values[..., None, whole:]))
    return torch.cat(parts, dim=-1).to(torch.float64)


def _in_pairs(values: torch.Tensor) -> torch.Tensor:
    """Sums along the last axis: eight rows of lanes one after another, what comes of them as a
    binary tree, then the lanes by halves.

    The error grows with the logarithm of the length, and the order is the same on any device.
    """
    missing = -values.shape[-1] % (_ROWS * _LANES)
    padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
    first, *others = padded.reshape(*values.shape[:-1], -1, _ROWS, _LANES).unbind(-2)
    rows = first + others[0]
    for other in others[1:]:
        rows += other
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


def leaf_grams(values: torch.Tensor, leaf: int) -> torch.Tensor:
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
