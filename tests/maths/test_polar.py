"""The polar factor against LAPACK's singular value decomposition in float64."""

from __future__ import annotations

import pytest
import torch

import cermet.maths.polar as maths
from cermet.maths.polar import polar
from tests.maths.spectra import falling, with_values


@pytest.mark.parametrize("condition", [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize(("rows", "columns"), [(30, 30), (20, 45), (45, 20)])
def test_the_error_grows_with_the_square_of_the_condition(
    rows: int, columns: int, condition: float
) -> None:
    """1e-15 κ², never more than a decomposition in float32 has, which is 1e-7 κ."""
    matrix = falling(rows, columns, condition)
    factor, total = polar(matrix)
    left, expected, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    error = torch.linalg.matrix_norm(factor - left @ right, ord=2)
    assert float(error) <= 1e-13 + 1e-15 * condition**2
    torch.testing.assert_close(total, expected.sum(), rtol=1e-9, atol=1e-12)


def test_it_is_orthonormal_also_where_the_matrix_is_steep() -> None:
    factor, _ = polar(falling(25, 40, 1e6))
    torch.testing.assert_close(factor @ factor.t(), torch.eye(25).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("rows", "columns"), [(20, 30), (30, 20)])
def test_a_lower_rank_gives_the_partial_isometry(rows: int, columns: int) -> None:
    """Directions in which there is nothing but rounding are not made up."""
    matrix = with_values(rows, columns, torch.where(torch.arange(20) < 7, 2.0, 0.0))
    factor, total = polar(matrix)
    assert int(torch.linalg.matrix_rank(factor, rtol=1e-5)) == 7
    assert float(total) == pytest.approx(14.0)
    torch.testing.assert_close(2 * factor, matrix.double(), rtol=0, atol=1e-6)


def test_zeros_nothing_and_a_row() -> None:
    assert torch.equal(polar(torch.zeros(3, 4))[0], torch.zeros(3, 4).double())
    for shape in ((0, 4), (4, 0)):
        factor, total = polar(torch.zeros(shape))
        assert (tuple(factor.shape), float(total)) == (shape, 0.0)
    factor, total = polar(torch.tensor([[3.0, 0.0, 4.0]]))
    torch.testing.assert_close(factor, torch.tensor([[0.6, 0.0, 0.8]]).double())
    assert float(total) == pytest.approx(5.0)


LARGE = 520
"""A short side that is left to the iteration."""


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(torch.linalg.norm(found.double() - exact) / torch.linalg.norm(exact))


@pytest.mark.parametrize(
    ("rows", "condition"), [(LARGE, 1.0), (700, 1e2), (LARGE, 1e3), (LARGE, 1e4), (LARGE, 1e5)]
)
def test_large_ones_are_as_near_as_by_a_float32_decomposition(
    rows: int, condition: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without eigenvectors; twice the error of float32 is allowed, and 1e-6."""
    monkeypatch.setattr(maths, "eigen", lambda _: pytest.fail("all eigenvectors"))
    matrix = falling(rows, LARGE, condition)
    factor, total = polar(matrix)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    exact = left @ right
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert _error(factor, exact) <= 2 * _error(left @ right, exact) + 1e-6
    torch.testing.assert_close(total, values.sum(), rtol=1e-6, atol=0)
    assert torch.equal(polar(matrix)[0], factor)


def test_a_large_one_of_condition_1e6() -> None:
    """By the iteration or by eigenvectors, whichever can: as near as in float32."""
    matrix = falling(LARGE, LARGE, 1e6)
    left, _, right = torch.linalg.svd(matrix.double())
    exact = left @ right
    left, _, right = torch.linalg.svd(matrix)
    assert _error(polar(matrix)[0], exact) <= 2 * _error(left @ right, exact)


@pytest.mark.parametrize("rank", [LARGE - 1, 100, 0])
def test_large_ones_of_a_lower_rank_are_left_to_eigenvectors(rank: int) -> None:
    values = torch.where(torch.arange(LARGE) < rank, 2.0, 0.0)
    matrix = with_values(LARGE, LARGE, values)
    factor, total = polar(matrix)
    torch.testing.assert_close(2 * factor, matrix.double(), rtol=0, atol=1e-6)
    assert float(total) == pytest.approx(2.0 * rank)
