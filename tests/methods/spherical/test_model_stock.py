"""Model Stock: how far to go from the base, from the angles between the deltas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    """45 degrees: t = 2c / (1 + c) = 0.8284, of the mean (1, 0.5)."""
    found = merge("model_stock", [0.0, 0.0], [[1.0, 0.0], [1.0, 1.0]])
    assert found == [0.8284, 0.4142]


def test_orthogonal_deltas_give_the_base(merge: Merge) -> None:
    assert merge("model_stock", [1.0, 1.0], [[2.0, 1.0], [1.0, 5.0]]) == [1.0, 1.0]


@pytest.mark.parametrize(("count", "ratio"), [(2, 2 / 3), (4, 0.8)])
def test_a_cosine_of_one_half(count: int, ratio: float) -> None:
    """Deltas e0 + ei: each pair at 60 degrees."""
    deltas = torch.zeros(count, count + 1)
    deltas[:, 0] = 1
    for i in range(count):
        deltas[i, i + 1] = 1
    base = torch.full((count + 1,), 0.5)
    experts = [{"x": base + d} for d in deltas]
    found = merge_tensors("model_stock", {"x": base}, experts)["x"]
    torch.testing.assert_close(found, base + ratio * deltas.mean(dim=0))


def test_the_mean_is_of_cosines() -> None:
    """Not of angles, which differs for three models and more."""
    own = torch.Generator().manual_seed(0)
    deltas = torch.randn(3, 30, generator=own) + torch.randn(30, generator=own)
    unit = deltas.double() / deltas.double().norm(dim=1, keepdim=True)
    cosine = sum(float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(3), 2)) / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    zero = {"x": torch.zeros(30)}
    found = merge_tensors("model_stock", zero, [{"x": d} for d in deltas])["x"]
    torch.testing.assert_close(found, ratio * deltas.mean(dim=0), rtol=2e-6, atol=2e-6)


def test_deltas_that_oppose_each_other_go_the_other_way(merge: Merge) -> None:
    """120 degrees: t = 2c / (1 + c) = -2."""
    experts = [[1.0, 0.0], [-0.5, math.sqrt(0.75)]]
    assert merge("model_stock", [0.0, 0.0], experts) == [-0.5, -0.866]


def test_exactly_opposed_deltas_give_the_base(merge: Merge) -> None:
    """Where the formula divides by zero."""
    assert merge("model_stock", [3.0, 4.0], [[4.0, 6.0], [2.0, 2.0]]) == [3.0, 4.0]


def test_small_deltas_move_as_large_ones_do() -> None:
    """mergekit's floor under the norms leaves tensors like this one at the base."""
    base = torch.zeros(2)
    deltas = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    large = merge_tensors("model_stock", {"x": base}, [{"x": d} for d in deltas])["x"]
    small = merge_tensors("model_stock", {"x": base}, [{"x": d * 1e-5} for d in deltas])["x"]
    torch.testing.assert_close(small, large * 1e-5)


def test_one_ratio_for_each_row(merge: Merge) -> None:
    """The first row agrees, the second does not; a row of zeros stays."""
    one = [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    other = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    base = [[0.0, 0.0]] * 3
    found = merge("model_stock", base, [one, other], filter_wise=True)
    assert found == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_it_takes_two_experts_at_least(merge: Merge) -> None:
    with pytest.raises(MethodError, match="1 experts"):
        merge("model_stock", [0.0], [[1.0]])
