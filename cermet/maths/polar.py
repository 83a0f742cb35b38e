"""The polar factor: of all matrices with orthonormal columns or rows the nearest to a given one.

Small ones by the eigenvectors of the Gram matrix. Large ones by the dynamically weighted Halley
iteration in products of matrices (Nakatsukasa, Bai and Gygi, 10.1137/090774999), which ends in one
polynomial: the eigenvectors of a matrix of 2048 take longer than all of it.
"""

from __future__ import annotations

import math

import torch

from cermet.maths.eigen import eigen
from cermet.maths.lowrank import FLOOR, gram

__all__ = ["polar"]

_STEEP = 1e3  # condition from which on the factor is worth another step
_SMALL = 512  # a short side for which eigenvectors take no time
_ZERO = 1e-6  # of the largest: below it the eigenvectors say which values count as zero
_LEAST = (
    4e-4,
    0.03,
    0.03,
    0.03,
    0.03,
)  # of the values that a step aims at: a lower one costs accuracy
_NEAR = 0.27  # 1 - σ² from which the last polynomial is exact to float32
_POWERS = 16  # products with a vector, for the largest eigenvalue of a matrix
_COARSE = 250.0  # a weight of the Gram matrix for which its rounding to float32 is too much


def polar(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The polar factor UVᵀ of a matrix UΣVᵀ, and the sum of Σ: [rows, columns] -> the same, [].

    With a short side below 512 in float64, with an error of about 1e-16 κ² for the condition κ;
    else in float32, with that of a singular value decomposition in float32. Where the rank is
    lower, it is the partial isometry: UVᵀ over the singular values that do not count as zero
    (`lowrank.FLOOR`).
    """
    if matrix.shape[0] > matrix.shape[1]:
        factor, total = polar(matrix.t().contiguous())
        return factor.t(), total
    squares = gram(matrix.double())
    if len(squares) >= _SMALL:
        found = _iterated(matrix.float(), squares)
        if found is not None:
            return found, (found * matrix).sum(dtype=torch.float64)
    return _by_eigenvectors(matrix.double(), squares)


def _by_eigenvectors(
    wide: torch.Tensor, squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factor from all eigenvectors of the Gram matrix, and a Newton-Schulz step if steep."""
    found, basis = eigen(squares)
    values = found.clamp_min(0.0).sqrt()
    if not values.numel() or not float(values[0]) > 0:
        return torch.zeros_like(wide), values.sum()
    kept = values > FLOOR * values[0]
    basis, values = basis[:, kept], values[kept]
    factor = (basis / values @ basis.t()) @ wide
    if float(values[0]) > _STEEP * float(values[-1]):
        factor = 1.5 * factor - 0.5 * (gram(factor) @ factor)
    return factor, values.sum()


def _iterated(factor: torch.Tensor, squares: torch.Tensor) -> torch.Tensor | None:
    """The factor by iteration; None where singular values are zero, or too small for it.

    Only the first Gram matrix is weighted so much that it has to be in float64.
    """
    largest = 1.1 * _largest(squares)
    if not largest > 0:
        return None
    squares, factor = squares / largest, factor / math.sqrt(largest)  # of values up to 1.07
    least, gain = 0.0, 1.0
    for aim in _LEAST:
        weights = _weights(max(least, aim))
        factor = _halley(factor, squares, weights)
        squares = gram(factor)
        far = _largest(_rest(squares))
        if far <= _NEAR:
            return _finished(factor, squares, far)
        least = math.sqrt(max(0.0, 1.0 - far))
        gain *= weights[0]
        if least < _ZERO * gain:
            return None
    return None


def _weights(least: float) -> tuple[float, float, float]:
    """a, b, c of x (a + b x²) / (1 + c x²), the nearest to 1 for x in [least, 1]."""
    square = min(least, 1.0 - 1e-6) ** 2
    root = math.cbrt(4.0 * (1.0 - square) / square**2)
    inner = 8.0 - 4.0 * root + 8.0 * (2.0 - square) / (square * math.sqrt(1.0 + root))
    a = math.sqrt(1.0 + root) + 0.5 * math.sqrt(max(0.0, inner))
    b = 0.25 * (a - 1.0) ** 2
    return a, b, a + b - 1.0


def _halley(
    factor: torch.Tensor, squares: torch.Tensor, weights: tuple[float, float, float]
) -> torch.Tensor:
    """The function of `_weights` of all singular values."""
    a, b, c = weights
    shifted = (squares.double() if c > _COARSE else squares.float()) * c
    shifted.diagonal().add_(1.0)
    inverse = _lower_inverse(torch.linalg.cholesky(shifted)).to(factor.dtype)
    return _twice(inverse, factor).mul_(a - b / c).add_(factor, alpha=b / c)


def _twice(lower: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """lowerᵀ lower factor, without the products with the zeros of a quarter."""
    half = len(lower) // 2
    once = torch.empty_like(factor)
    torch.mm(lower[:half, :half], factor[:half], out=once[:half])
    torch.mm(lower[half:], factor, out=once[half:])
    twice = torch.empty_like(factor)
    torch.mm(lower[:, :half].t(), once, out=twice[:half])
    torch.mm(lower[half:, half:].t(), once[half:], out=twice[half:])
    return twice


def _finished(factor: torch.Tensor, squares: torch.Tensor, far: float) -> torch.Tensor:
    """The factor over √squares, whose eigenvalues lie in [1 - far, 1]: by a polynomial.

    Of the fourth degree, equal to 1/√x at the Chebyshev nodes of an interval a little wider.
    """
    wide = 1.1 * far + 1e-4
    nodes = (torch.arange(5, dtype=torch.float64) + 0.5).mul(math.pi / 5).cos()
    series = torch.linalg.solve(
        torch.linalg.vander(nodes), (1.0 - 0.5 * wide * (1.0 + nodes)).rsqrt()
    ).tolist()
    rest = _rest(squares).mul_(2.0 / wide)
    rest.diagonal().sub_(1.0)
    square = gram(rest)
    inner = series[3] * rest + series[4] * square
    inner.diagonal().add_(series[2])
    root = square @ inner + series[1] * rest
    root.diagonal().add_(series[0])
    found: torch.Tensor = root @ factor
    return found


def _rest(squares: torch.Tensor) -> torch.Tensor:
    """1 - squares."""
    rest = squares.neg()
    rest.diagonal().add_(1.0)
    return rest


def _largest(squares: torch.Tensor) -> float:
    """The largest eigenvalue or up to a fifth less, from a fixed vector without any structure."""
    steps = torch.arange(1, len(squares) + 1, dtype=torch.float64, device=squares.device)
    image = steps.square().sin().to(squares.dtype)
    for _ in range(_POWERS):
        image = squares @ (image / image.norm())
    size = float(image.norm())  # one look: a GPU would wait for each
    return size if size > 0 else 0.0  # of zeros it is not a number


def _lower_inverse(lower: torch.Tensor) -> torch.Tensor:
    """The inverse of a lower triangular matrix: by halves, so that most of it is products."""
    size = len(lower)
    if size <= 128:
        one = torch.eye(size, dtype=lower.dtype, device=lower.device)
        solved: torch.Tensor = torch.linalg.solve_triangular(lower, one, upper=False)
        return solved
    half = size // 2
    first, last = _lower_inverse(lower[:half, :half]), _lower_inverse(lower[half:, half:])
    found = torch.zeros_like(lower)
    found[:half, :half], found[half:, half:] = first, last
    found[half:, :half] = last @ (lower[half:, :half] @ first).neg_()
    return found
