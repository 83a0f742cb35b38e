"""Approximations of low rank: against LAPACK's singular value decomposition in float64."""

from __future__ import annotations

import pytest
import torch

from cermet.maths.lowrank import FLOOR, column_space, complement, gram, leading, truncated
from tests.maths.spectra import falling, orthogonal, with_values


@pytest.mark.parametrize("condition", [1.5, 1e3, 1e6])
@pytest.mark.parametrize(("rows", "columns"), [(40, 25), (25, 40), (30, 30)])
@pytest.mark.parametrize("rank", [1, 7, 24])
def test_the_error_is_that_of_the_best(
    rows: int, columns: int, rank: int, condition: float
) -> None:
    """Eckart and Young: the root of the sum of the squares of what is left out."""
    matrix = falling(rows, columns, condition)
    left, right = truncated(matrix, rank)
    assert left.shape == (rows, rank)
    assert right.shape == (rank, columns)
    values = torch.linalg.svdvals(matrix.double())
    best = values[rank:].square().sum().sqrt()
    error = torch.linalg.norm(matrix.double() - left.double() @ right.double())
    assert error <= best + 1e-6 * values[0]


def test_rank_zero_is_nothing_and_full_rank_is_everything() -> None:
    matrix = falling(6, 9, 10.0)
    left, right = truncated(matrix, 0)
    assert torch.equal(left @ right, torch.zeros(6, 9))
    left, right = truncated(matrix, 6)
    torch.testing.assert_close(left @ right, matrix)


def test_zeros_have_an_approximation() -> None:
    left, right = truncated(torch.zeros(4, 3), 2)
    assert torch.equal(left @ right, torch.zeros(4, 3))


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize(("rows", "columns"), [(40, 25), (25, 40), (120, 130)])
@pytest.mark.parametrize("rank", [1, 11])
def test_triplets_are_those_of_float64(
    rows: int, columns: int, rank: int, condition: float
) -> None:
    """Also by the iteration, which finds 11 of 120."""
    matrix = falling(rows, columns, condition)
    found = leading(matrix, rank)
    _, values, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(found.values, values[:rank], rtol=1e-6, atol=1e-12)
    for side in (found.left.t(), found.right):
        one = side.double() @ side.double().t()
        torch.testing.assert_close(one, torch.eye(rank).double(), rtol=0, atol=1e-6)
    product = (found.left * found.values) @ found.right.double()
    error = torch.linalg.norm(matrix.double() - product)
    assert error <= values[rank:].square().sum().sqrt() + 1e-6 * values[0]


def test_no_direction_is_made_up_for_what_counts_as_zero() -> None:
    matrix = with_values(12, 9, torch.tensor([1.0, 0.5, *[FLOOR / 4] * 7]))
    found = leading(matrix, 5)
    assert int((found.values > 0).sum()) == 2
    assert not found.left[:, 2:].any()
    assert not found.right[2:].any()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 5), (5, 1)])
def test_nothing_and_single_lines(shape: tuple[int, int]) -> None:
    matrix = torch.full(shape, 2.0)
    found = leading(matrix, min(shape))
    product = (found.left * found.values.float()) @ found.right
    torch.testing.assert_close(product, matrix)
    zero = leading(torch.zeros(shape), min(shape))
    assert not zero.values.any()


@pytest.mark.parametrize(("rows", "columns"), [(20, 9), (9, 20), (40, 9)])
def test_the_space_of_all_columns(rows: int, columns: int) -> None:
    """Of both sides of the smaller Gram matrix, down to a share of the largest."""
    blocks = torch.stack([falling(rows, columns, 1e3, seed) for seed in range(3)])
    together = blocks.double().movedim(0, 1).reshape(rows, -1)
    left, values, _ = torch.linalg.svd(together, full_matrices=False)
    found = column_space(blocks, 0.0, 0.05)
    assert found.shape == (rows, int((values > 0.05 * values[0]).sum()))
    best = left[:, : found.shape[1]]
    torch.testing.assert_close(found @ found.t(), best @ best.t(), rtol=0, atol=1e-9)
    assert column_space(blocks, 2 * float(values[0]), 0.0).shape == (rows, 0)
    assert column_space(torch.zeros(2, rows, columns), 0.0, 0.01).shape == (rows, 0)


def test_the_complement_and_the_basis_fill_the_space() -> None:
    basis = orthogonal(9, 4, 0)
    rest = complement(basis)
    whole = torch.cat([basis, rest], dim=1)
    torch.testing.assert_close(whole @ whole.t(), torch.eye(9).double())
    assert complement(basis[:, :0]).shape == (9, 9)


def test_the_inner_products_of_many_rows_are_formed_by_halves() -> None:
    wide = falling(1101, 30, 10.0).double()
    torch.testing.assert_close(gram(wide), wide @ wide.t(), rtol=0, atol=1e-14)
