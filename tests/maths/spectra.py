"""Matrices with a given spectrum."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["falling", "orthogonal", "with_values"]


def orthogonal(rows: int, columns: int, seed: int) -> Tensor:
    """Orthonormal columns, float64."""
    own = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=own).double()).Q


def with_values(rows: int, columns: int, values: Tensor, seed: int = 0) -> Tensor:
    """A float32 matrix with these singular values, to rounding."""
    size = min(rows, columns)
    left, right = orthogonal(rows, size, 2 * seed), orthogonal(columns, size, 2 * seed + 1)
    return (left * values.double() @ right.t()).float()


def falling(rows: int, columns: int, condition: float, seed: int = 0) -> Tensor:
    """A matrix whose singular values fall evenly, on a logarithmic scale, from 1."""
    size = min(rows, columns)
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), size)
    return with_values(rows, columns, values, seed)
