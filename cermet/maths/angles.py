"""Principal angles between subspaces: how far two matrices point into the same directions."""

from __future__ import annotations

import torch
from jaxtyping import Float

__all__ = ["column_space", "overlap", "principal_cosines"]


def column_space(matrix: Float[torch.Tensor, "rows columns"]) -> Float[torch.Tensor, "rows rank"]:
    """An orthonormal basis of the columns' span, in float64.

    By QR and the singular values of R. Directions whose singular value is below
    max(rows, columns) times the rounding of the matrix's dtype of the largest are none: rank may
    be less than columns, or 0.
    """
    outer, core = torch.linalg.qr(matrix.double())
    u, values, _ = torch.linalg.svd(core, full_matrices=False)
    least = max(matrix.shape) * torch.finfo(matrix.dtype).eps
    rank = int((values > least * values[0]).sum()) if len(values) else 0
    basis: torch.Tensor = outer @ u[:, :rank]
    return basis


def principal_cosines(
    one: Float[torch.Tensor, "rows first"], other: Float[torch.Tensor, "rows second"]
) -> Float[torch.Tensor, "angles"]:
    """Cosines of the principal angles between two subspaces, largest first.

    one, other: orthonormal bases. There are as many angles as the smaller space has dimensions:
    1 is a direction that both have, 0 one of the smaller space that is orthogonal to the other.
    """
    if not one.shape[1] or not other.shape[1]:
        return torch.zeros(0, dtype=torch.float64, device=one.device)
    cosines: torch.Tensor = torch.linalg.svdvals(one.t() @ other)
    return cosines.clamp_max(1.0)


def overlap(cosines: Float[torch.Tensor, "angles"]) -> float:
    """Mean square of the cosines: 0 of orthogonal spaces, 1 where one contains the other.

    Of random spaces of r dimensions among n it is r / n. 0 where a space is empty.
    """
    return float(cosines.square().mean()) if len(cosines) else 0.0
