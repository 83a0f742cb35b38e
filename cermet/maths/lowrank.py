"""Matrices of low rank: singular triplets and approximations, by the smaller Gram matrix.

The Gram matrix is formed in float64, so the singular value σⱼ has a relative error of about
1e-16 (σ₁/σⱼ)², and its vectors one that grows with 1/gap as LAPACK's do: for float32 matrices
this is less than the error of a singular value decomposition in float32, at a part of its cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cermet.maths.eigen import eigen, leading_eigen

__all__ = ["FLOOR", "Triplets", "column_space", "complement", "gram", "leading", "truncated"]

FLOOR = 5e-7
"""Singular values below this share of the largest are rounding of float32, and count as zero."""
_WHOLE = 512  # rows of which all inner products are formed, though half of them are the same


@dataclass(frozen=True, slots=True)
class Triplets:
    """Singular triplets of a matrix, the largest first: left [rows, rank], right [rank, columns].

    values [rank], float64. Where a value counts as zero, it and its vectors are zero: no
    direction is made up for it.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor


def gram(wide: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows: [rows, columns] -> [rows, rows].

    Of a large matrix by halves, since two of the four quarters are the same.
    """
    rows = len(wide)
    if rows <= _WHOLE:
        return wide @ wide.t()
    half = rows // 2
    first, last = wide[:half], wide[half:]
    found = wide.new_empty(rows, rows)
    found[:half, :half], found[half:, half:] = gram(first), gram(last)
    corner = last @ first.t()
    found[half:, :half], found[:half, half:] = corner, corner.t()
    return found


def leading(matrix: torch.Tensor, rank: int, size: float = 0.0) -> Triplets:
    """The leading singular triplets of a matrix: float32 [rows, columns] -> `rank` of them.

    Fewer where a side is shorter. `size`: the norm of what the matrix is the rest of, whose
    rounding it holds.
    """
    wide = matrix.double()
    tall = matrix.shape[0] > matrix.shape[1]
    short = wide.t() if tall else wide
    basis = leading_eigen(gram(short), rank)
    other = basis.t() @ short
    values = torch.linalg.vector_norm(other, dim=1)
    kept = values > FLOOR * max(size, float(values.amax())) if values.numel() else values > 0
    values = torch.where(kept, values, 0.0)
    inverse = torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
    first = (basis * kept).to(matrix.dtype)
    second = other.mul_(inverse[:, None]).to(matrix.dtype)
    return Triplets(second.t(), values, first.t()) if tall else Triplets(first, values, second)


def truncated(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of a rank: [rows, columns] -> [rows, rank], [rank, columns].

    One factor is orthonormal, on the shorter side. What singular values lie below 1e-8 of the
    largest is not told apart.
    """
    wide = matrix.double()
    if matrix.shape[0] <= matrix.shape[1]:
        basis = leading_eigen(gram(wide), rank)
        return basis.to(matrix.dtype), (basis.t() @ wide).to(matrix.dtype)
    basis = leading_eigen(gram(wide.t()), rank)
    return (wide @ basis).to(matrix.dtype), basis.t().to(matrix.dtype)


def complement(basis: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what is orthogonal to orthonormal columns.

    [rows, columns] -> [rows, rows - columns].
    """
    whole: torch.Tensor = torch.linalg.qr(basis, mode="complete").Q
    return whole[:, basis.shape[1] :]


def column_space(blocks: torch.Tensor, least: float, share: float) -> torch.Tensor:
    """Left singular vectors of [X₁ ... X_T], side by side: [models, rows, columns] -> [rows, rank].

    Those whose singular values lie above `least` and above the `share` of the largest; float64.
    """
    count, rows, columns = blocks.shape
    if rows <= count * columns:
        total = torch.zeros(rows, rows, dtype=torch.float64, device=blocks.device)
        for block in blocks:
            total += gram(block.double())
        values, basis = eigen(total)
        sizes = values.clamp_min(0.0).sqrt()
    else:
        wide = blocks.double().movedim(0, 1).reshape(rows, count * columns)
        _, right = eigen(gram(wide.t()))
        basis = wide @ right
        sizes = torch.linalg.vector_norm(basis, dim=0)
        basis /= torch.where(sizes > 0, sizes, 1.0)
    largest = float(sizes.amax()) if sizes.numel() else 0.0
    kept = int((sizes > max(least, share * largest)).sum())
    return basis[:, :kept]
