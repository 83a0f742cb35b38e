"""The polar factor: of all matrices with orthonormal columns or rows the nearest to a given one."""

from __future__ import annotations

import torch
from torch import Tensor

from cermet.maths.eigen import eigen
from cermet.maths.lowrank import FLOOR, gram

__all__ = ["polar"]

_STEEP = 1e3  # condition from which on the factor is worth another step


def polar(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The polar factor UVᵀ of a matrix UΣVᵀ, and Σ: [rows, columns] -> the same, [short side].

    Both in float64. By the Gram matrix of the short side, with an error of about 1e-16 κ² for
    the condition κ, and a Newton-Schulz step that makes steep ones orthonormal again. Where the
    rank is lower, it is the partial isometry: UVᵀ over the singular values that do not count as
    zero (`lowrank.FLOOR`).
    """
    if matrix.shape[0] > matrix.shape[1]:
        factor, values = polar(matrix.t())
        return factor.t(), values
    wide = matrix.double()
    squares, basis = eigen(gram(wide))
    values = squares.clamp_min(0.0).sqrt()
    if not values.numel() or not float(values[0]) > 0:
        return torch.zeros_like(wide), values
    kept = values > FLOOR * values[0]
    basis, values = basis[:, kept], torch.where(kept, values, 0.0)
    scaled = basis / values[kept]
    factor = (scaled @ basis.t()) @ wide
    if float(values[0]) > _STEEP * float(values[kept][-1]):
        factor = 1.5 * factor - 0.5 * (gram(factor) @ factor)
    return factor, values
