"""Approximations of low rank: against LAPACK's singular value decomposition in float64."""

from __future__ import annotations

import pytest
import torch

from cermet.maths.lowrank import truncated


def _matrix(rows: int, columns: int, condition: float, seed: int = 0) -> torch.Tensor:
    """A matrix whose singular values fall evenly, on a logarithmic scale, from 1."""
    own = torch.Generator().manual_seed(seed)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=own).double()).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=own).double()).Q
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), size).double()
    return (left * values @ right.t()).float()


@pytest.mark.parametrize("condition", [1.5, 1e3, 1e6])
@pytest.mark.parametrize(("rows", "columns"), [(40, 25), (25, 40), (30, 30)])
@pytest.mark.parametrize("rank", [1, 7, 24])
def test_the_error_is_that_of_the_best(
    rows: int, columns: int, rank: int, condition: float
) -> None:
    """Eckart and Young: the root of the sum of the squares of what is left out."""
    matrix = _matrix(rows, columns, condition)
    left, right = truncated(matrix, rank)
    assert left.shape == (rows, rank)
    assert right.shape == (rank, columns)
    values = torch.linalg.svdvals(matrix.double())
    best = values[rank:].square().sum().sqrt()
    error = torch.linalg.norm(matrix.double() - left.double() @ right.double())
    assert error <= best + 1e-6 * values[0]


def test_rank_zero_is_nothing_and_full_rank_is_everything() -> None:
    matrix = _matrix(6, 9, 10.0)
    left, right = truncated(matrix, 0)
    assert torch.equal(left @ right, torch.zeros(6, 9))
    left, right = truncated(matrix, 6)
    torch.testing.assert_close(left @ right, matrix)


def test_zeros_have_an_approximation() -> None:
    left, right = truncated(torch.zeros(4, 3), 2)
    assert torch.equal(left @ right, torch.zeros(4, 3))
