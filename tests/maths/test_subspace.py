"""Leading subspaces: those of a decomposition, and overlaps that are known."""

from __future__ import annotations

import math

import pytest
import torch

import cermet.maths.subspace as maths
from cermet.maths.subspace import leading, overlap


def _random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "columns"), [(40, 90), (90, 40), (1, 5), (5, 1)])
def test_a_matrix_of_low_rank_is_found_exactly(rows: int, columns: int) -> None:
    rank = min(3, rows, columns)
    matrix = _random(rows, rank) @ _random(rank, columns, 1)
    left, values, right = leading(matrix, rank)
    assert left.shape == (rows, rank)
    assert right.shape == (columns, rank)
    torch.testing.assert_close((left * values) @ right.t(), matrix.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.t() @ left, torch.eye(rank, dtype=torch.float64))
    exact = torch.linalg.svdvals(matrix.double())[:rank]
    torch.testing.assert_close(values, exact, rtol=1e-5, atol=1e-5)


def test_leading_directions_of_a_full_matrix_are_those_of_its_decomposition() -> None:
    scale = torch.tensor([0.7**i for i in range(60)])
    matrix = torch.linalg.qr(_random(80, 60)).Q * scale @ torch.linalg.qr(_random(60, 60, 1)).Q
    left, values, right = leading(matrix, 6)
    u, s, v = torch.linalg.svd(matrix.double())
    torch.testing.assert_close(values, s[:6], rtol=1e-5, atol=0)
    assert overlap(left, u[:, :6]) == pytest.approx(1.0, abs=1e-6)
    assert overlap(right, v[:6].t()) == pytest.approx(1.0, abs=1e-6)


def test_fewer_directions_than_asked_for_where_there_are_fewer() -> None:
    left, values, right = leading(_random(3, 7), 32)
    assert (left.shape, values.shape, right.shape) == ((3, 3), (3,), (7, 3))


def test_two_runs_agree() -> None:
    one, two = (leading(_random(50, 30), 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_overlap_is_the_mean_squared_cosine() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    turn = math.radians(30)
    turned = torch.stack([math.cos(turn) * axes[0] + math.sin(turn) * axes[2], axes[1]], dim=1)
    assert overlap(axes[:, :2], axes[:, :2]) == 1.0
    assert overlap(axes[:, :2], axes[:, 2:]) == 0.0
    assert overlap(axes[:, :2], turned) == pytest.approx((0.75 + 1.0) / 2)
    assert overlap(axes[:, :1], axes[:, :3]) == 1.0  # it lies in the other


def test_more_rounds_where_the_first_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the values sought is large: four rounds find too little, and it goes on."""
    values = torch.where(torch.arange(120) < 6, 1.0, 0.7)
    left, right = (torch.linalg.qr(_random(side, 120, side)).Q for side in (150, 130))
    matrix = (left * values) @ right.t()
    assert float(leading(matrix, 6)[1].square().sum()) > (1 - 1e-3) * 6
    monkeypatch.setattr(maths, "_MOST", 2)
    assert float(leading(matrix, 6)[1].square().sum()) < (1 - 1e-3) * 6
