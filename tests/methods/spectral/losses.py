"""The losses of WUDI-Merging and OptMerge as their authors write them, with torch's optimisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["kept", "optimised"]

Pairs = Sequence[tuple[Tensor, Tensor]]


def kept(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a rank, and its singular values times right vectors."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rows = values[:rank, None] * right[:rank]
    return left[:, :rank] @ rows, rows


def optimised(
    start: Tensor,
    pairs: Pairs,
    models: Sequence[Tensor],
    make: Callable[[list[torch.nn.Parameter]], Any],
    steps: int,
) -> Tensor:
    """The point after some steps on Σ ‖(Θ − target) rowsᵀ‖² / ‖τ‖², in float64."""
    point = torch.nn.Parameter(start.double().clone())
    optimizer = make([point])
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for (target, rows), tau in zip(pairs, models, strict=True):
            size = tau.double().square().sum()
            loss = loss + ((point - target) @ rows.t()).square().sum() / size
        loss.backward()
        optimizer.step()
    return point.detach()
