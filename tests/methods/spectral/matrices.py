"""Pools of matrices, and what holds of methods that see nothing but their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cermet import merge_tensors
from tests.maths.spectra import orthogonal, with_values

__all__ = ["close", "deltas", "merged", "turned"]


def deltas(count: int, rows: int = 12, columns: int = 20, seed: int = 0) -> list[Tensor]:
    """Deltas with falling spectra and directions of their own."""
    values = 1.0 / torch.arange(1, min(rows, columns) + 1)
    return [with_values(rows, columns, values, 10 * seed + i) for i in range(count)]


def merged(method: str, models: Sequence[Tensor], name: str = "w", **parameters: Any) -> Tensor:
    """The merged delta of one matrix: the base is zero."""
    base = {name: torch.zeros_like(models[0])}
    return merge_tensors(method, base, [{name: m} for m in models], **parameters)[name]


def turned(models: Sequence[Tensor], seed: int = 5) -> tuple[Tensor, list[Tensor], Tensor]:
    """P, all deltas as PτQ, and Q, with P and Q orthogonal."""
    rows, columns = models[0].shape
    left, right = orthogonal(rows, rows, seed).float(), orthogonal(columns, columns, seed).float()
    return left, [left @ m @ right for m in models], right


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to a share of the largest entry."""
    atol = tolerance * float(other.abs().amax())
    torch.testing.assert_close(one, other, rtol=0, atol=atol)
