"""Principal angles: known ones, against scipy's definition by hand, and degenerate spaces."""

from __future__ import annotations

import math

import pytest
import torch

from cermet.maths.angles import column_space, overlap, principal_cosines


def _random(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.3, math.pi / 4, math.pi / 2])
def test_two_planes_that_are_turned_against_each_other(angle: float) -> None:
    """They share the first axis; in the others one is turned by an angle."""
    one = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).t().double()
    other = torch.tensor([[1.0, 0, 0], [0, math.cos(angle), math.sin(angle)]]).t().double()
    mixed = column_space(other @ torch.tensor([[2.0, 1.0], [0.5, 3.0]]).double())
    cosines = principal_cosines(column_space(one), mixed)
    torch.testing.assert_close(cosines, torch.tensor([1.0, math.cos(angle)]).double())
    assert overlap(cosines) == pytest.approx((1 + math.cos(angle) ** 2) / 2)


def test_a_basis_is_orthonormal_and_spans_the_columns() -> None:
    matrix = _random(40, 6, 0)
    basis = column_space(matrix)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(6).double())
    torch.testing.assert_close(basis @ (basis.t() @ matrix.double()), matrix.double())


def test_directions_that_are_none_are_left_out() -> None:
    matrix = _random(20, 3, 1)
    repeated = torch.cat([matrix, matrix[:, :2] * 3], dim=1)
    assert column_space(repeated).shape == (20, 3)
    assert column_space(torch.zeros(20, 3)).shape == (20, 0)
    nothing = principal_cosines(column_space(torch.zeros(20, 3)), column_space(matrix))
    assert (nothing.shape, overlap(nothing)) == ((0,), 0.0)


def test_more_columns_than_rows() -> None:
    assert column_space(_random(3, 8, 2)).shape == (3, 3)


def test_a_space_inside_of_another_overlaps_wholly() -> None:
    matrix = _random(30, 5, 3)
    cosines = principal_cosines(column_space(matrix), column_space(matrix[:, :2]))
    assert cosines.shape == (2,)
    assert overlap(cosines) == pytest.approx(1.0)


def test_random_spaces_overlap_as_chance_says() -> None:
    """r / n in the mean over many pairs."""
    spaces = [column_space(_random(64, 4, seed)) for seed in range(40)]
    pairs = zip(spaces[::2], spaces[1::2], strict=True)
    found = [overlap(principal_cosines(a, b)) for a, b in pairs]
    assert sum(found) / len(found) == pytest.approx(4 / 64, rel=0.2)
