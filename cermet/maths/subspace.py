"""The leading singular subspaces of a matrix, and how much two of them have in common."""

from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.maths.eigen import fixed_start

__all__ = ["leading", "overlap"]

_MARGIN = 8  # directions that are carried along, and left out of the result
_STEP = 2  # rounds between two looks at what is found
_MOST = 5  # looks
_STABLE = 1e-3  # of the energy found: what two more rounds may add


def leading(
    matrix: Float[torch.Tensor, "rows columns"], count: int
) -> tuple[
    Float[torch.Tensor, "rows kept"],
    Float[torch.Tensor, " kept"],
    Float[torch.Tensor, "columns kept"],
]:
    """The left vectors, values and right vectors of the `count` largest singular values.

    By subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4) from a fixed start: a
    few products with thin matrices in place of a decomposition. It goes on until two more rounds
    find less than a thousandth more of the matrix's energy, ten at most. Exact where the rank is
    at most `count`; else values whose successors are nearly as large come out a little small. The
    largest first, in float64; fewer than `count` where the matrix has fewer rows or columns.
    """
    rows, columns = matrix.shape
    wanted = min(count, rows, columns)
    width = min(wanted + _MARGIN, rows, columns)
    left = _basis(matrix @ fixed_start(columns, width, matrix))
    small, found = left.t() @ matrix, 0.0
    for _ in range(_MOST):
        for _ in range(_STEP):
            left = _basis(matrix @ _basis(small.t()))
            small = left.t() @ matrix
        before, found = found, float(small.square().sum(dtype=torch.float64))
        if found - before <= _STABLE * found:
            break
    small = small.to(torch.float64)
    inner, values, right = torch.linalg.svd(small, full_matrices=False)
    vectors = left.to(torch.float64) @ inner
    return vectors[:, :wanted], values[:wanted], right.t()[:, :wanted]


def _basis(block: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that span those of a thin matrix, in its dtype."""
    basis: torch.Tensor = torch.linalg.qr(block.to(torch.float64)).Q
    return basis.to(block.dtype)


def overlap(
    first: Float[torch.Tensor, "size one"], second: Float[torch.Tensor, "size other"]
) -> float:
    """The mean squared cosine of the principal angles between two subspaces, from 0 to 1.

    Both are given by orthonormal columns. Where they have unequal dimensions, the smaller one is
    measured: 1 says that it lies in the other. Two subspaces drawn at random have the dimension
    of the larger divided by `size`.
    """
    shared = float((first.t() @ second).square().sum())
    return min(1.0, shared / min(first.shape[1], second.shape[1]))
