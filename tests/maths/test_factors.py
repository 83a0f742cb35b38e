"""Products of two thin matrices: held to the matrices themselves, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cermet.maths.factors import Factors, balanced, cosine, product, stacked, truncated_product


def _factors(outputs: int, inputs: int, rank: int, seed: int, scale: float = 1.0) -> Factors:
    own = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=own)
    return Factors(a, torch.randn(outputs, rank, generator=own), scale)


def _true(factors: Factors) -> Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def test_a_stack_is_the_weighted_sum() -> None:
    held = [_factors(9, 7, r, r, s) for r, s in ((2, 1.5), (4, -0.5), (1, 3.0))]
    left, right = stacked(held, [0.3, 1.0, -2.0])
    expected = sum(w * _true(f) for w, f in zip([0.3, 1.0, -2.0], held, strict=True))
    torch.testing.assert_close((left @ right).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("outputs", "inputs"), [(30, 20), (20, 30), (4, 50), (50, 4)])
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_the_truncation_is_the_best(outputs: int, inputs: int, rank: int, condition: float) -> None:
    held = _factors(outputs, inputs, 6, 0)
    right = held.a * torch.logspace(0, -torch.tensor(condition).log10().item(), 6)[:, None]
    matrix = held.b.double() @ right.double()
    found = truncated_product(held.b, right, rank)
    values = torch.linalg.svdvals(matrix)
    best = values[rank:].square().sum().sqrt()
    error = torch.linalg.norm(matrix - (found.u * found.values) @ found.v)
    assert error <= best + 1e-12 * values[0]
    assert found.lost == pytest.approx(float(best / torch.linalg.norm(matrix)), abs=1e-12)
    kept = len(found.values)
    torch.testing.assert_close(found.u.t() @ found.u, torch.eye(kept).double())
    torch.testing.assert_close(found.v @ found.v.t(), torch.eye(kept).double())


def test_balanced_factors_are_of_one_size_and_padded() -> None:
    held = _factors(12, 9, 3, 5)
    found = balanced(truncated_product(held.b, held.a, 3), 5, torch.float32)
    assert (found.a.shape, found.b.shape, found.rank) == ((5, 9), (12, 5), 5)
    torch.testing.assert_close(product(found), product(held))
    torch.testing.assert_close(found.a.norm(dim=1), found.b.norm(dim=0))
    assert not found.a[3:].any()


def test_nothing_is_truncated_to_nothing() -> None:
    found = truncated_product(torch.zeros(5, 2), torch.zeros(2, 4), 1)
    assert found.lost == 0.0
    assert not balanced(found, 1, torch.float32).a.any()


def test_the_cosine_is_that_of_the_matrices() -> None:
    one, other = _factors(8, 6, 2, 1, 2.0), _factors(8, 6, 3, 2, -0.5)
    a, b = _true(one).flatten(), _true(other).flatten()
    assert cosine(one, other) == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert cosine(one, one) == pytest.approx(1.0)
    assert cosine(one, Factors(torch.zeros(2, 6), torch.zeros(8, 2))) == 0.0
