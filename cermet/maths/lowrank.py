"""Matrices of low rank: the best approximation of a matrix as a product of two thin ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["truncated"]


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a rank: [rows, columns] -> [rows, rank], [rank, columns].

    By the eigenvectors of the smaller Gram matrix, in float64: a fraction of the cost of a
    singular value decomposition. One factor is orthonormal, on the shorter side. What singular
    values lie below 1e-8 of the largest is not told apart.
    """
    wide = matrix.double()
    if matrix.shape[0] <= matrix.shape[1]:
        basis = _leading(wide @ wide.t(), rank)
        return basis.to(matrix.dtype), (basis.t() @ wide).to(matrix.dtype)
    basis = _leading(wide.t() @ wide, rank)
    return (wide @ basis).to(matrix.dtype), basis.t().to(matrix.dtype)


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, largest first: [size, size] -> [size, rank]."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(-1)[:, :rank]
