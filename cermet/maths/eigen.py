"""Eigenvectors of symmetric matrices: all of them, or the leading ones by a checked iteration."""

from __future__ import annotations

import math

import torch

__all__ = ["eigen", "fixed_start", "leading_eigen"]

_RESIDUAL = 2e-7  # of the singular values that are sought: that of a float32 decomposition
_ROUNDS = 8
_DEGREE = 3
_MIX = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # of SplitMix64


def eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, the largest first, and eigenvectors: float64 [n, n] -> [n], [n, n].

    LAPACK's: a value is wrong by some 1e-15 of the largest, a vector by that over its gap.
    """
    if matrix.shape[0] == 0:
        return matrix.new_zeros(0), matrix
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


def leading_eigen(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Eigenvectors of the largest eigenvalues of a Gram matrix: float64 [n, n] -> [n, rank].

    For a small share of them by subspace iteration with a Chebyshev filter. Its residuals are
    measured: where they are larger than those of a singular value decomposition in float32, it
    goes on, and where the spectrum does not let it converge, LAPACK finds all eigenvectors.
    """
    size = matrix.shape[0]
    width = 2 * rank + 8
    if rank and 2 * width <= size:
        found = _iterated(matrix, rank, width)
        if found is not None:
            return found
    return eigen(matrix)[1][:, :rank]


def _iterated(matrix: torch.Tensor, rank: int, width: int) -> torch.Tensor | None:
    """Eigenvectors by subspace iteration; None where too many rounds would be needed."""
    basis = matrix @ fixed_start(matrix.shape[0], width, matrix)
    for turn in range(_ROUNDS):
        basis = torch.linalg.qr(basis).Q
        image = matrix @ basis
        values, turned = eigen(basis.t() @ image)
        basis, image = basis @ turned, image @ turned
        first, last, least = values[[0, rank - 1, -1]].tolist()
        if not last > 0:
            return None  # zeros, or a rank below that asked for
        wanted: torch.Tensor = basis[:, :rank]
        residual = (image[:, :rank] - wanted * values[:rank]).norm(dim=0).amax()
        allowed = _RESIDUAL * math.sqrt(first * last)
        if float(residual) <= allowed:
            return wanted
        pace = math.acosh(max(1.0, 2.0 * last / max(least, 1e-300) - 1.0))
        left = math.log(float(residual) / allowed)
        if left > pace * _DEGREE * (_ROUNDS - 1 - turn):
            return None
        basis = _filtered(matrix, basis, image, values, max(least, 1e-12 * first))
    return None


def _filtered(
    matrix: torch.Tensor,
    basis: torch.Tensor,
    image: torch.Tensor,
    values: torch.Tensor,
    bound: float,
) -> torch.Tensor:
    """The Chebyshev polynomial that damps eigenvalues in [0, bound], applied to Ritz vectors.

    `image`: matrix @ basis. The columns are scaled back, so that none outgrows the others.
    """
    half = 0.5 * bound
    scale = (values / half - 1.0).clamp_min(1.0)  # the argument of the polynomial
    before, now = basis, (image - half * basis) / half
    size_before, size = torch.ones_like(scale), scale
    for _ in range(_DEGREE - 1):
        grown = 2.0 * scale * size - size_before
        step = 2.0 / half * (matrix @ now - half * now) - before
        before, now = now / grown, step / grown
        size_before, size = size / grown, torch.ones_like(scale)
    return now


def fixed_start(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Fixed numbers, spread evenly over [-1, 1): the start is the same at every call."""
    word = torch.arange(rows * columns, dtype=torch.int64, device=like.device) * _MIX[0]
    for factor, shift in ((_MIX[1], 30), (_MIX[2], 27)):
        word = (word ^ ((word >> shift) & ((1 << (64 - shift)) - 1))) * factor
    spread = (word >> 11).to(torch.float64) / float(1 << 52)
    return spread.reshape(rows, columns).to(like.dtype)
