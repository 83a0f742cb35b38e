"""EMR: the unified delta, the masks, and the numbers that give each expert its size back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import merge_tensors
from tests.methods.forms import pool, same_bits

Merge = Callable[..., Any]


def test_the_largest_of_the_elected_sign(merge: Merge) -> None:
    """Sums 5, 3, 0 and -1: where deltas cancel the sign is minus."""
    experts = [[2, 4, 1, 0], [3, -1, -1, -1]]
    assert merge("emr", [0.0] * 4, experts) == [3.0, 4.0, -1.0, -1.0]


def test_rescalers_by_hand(merge: Merge) -> None:
    """The first expert moved by 2 + 4 + 1, and its mask keeps 3 + 4 of the unified delta."""
    experts = [[2, 4, 1, 0], [3, -1, -1, -1]]
    assert merge("emr", [0.0] * 4, experts, task=0) == [3.0, 4.0, 0.0, 0.0]
    second = 6 / (3 + 1 + 1)
    expected = pytest.approx([3 * second, 0.0, -second, -second], abs=1e-4)
    assert merge("emr", [0.0] * 4, experts, task=1) == expected


def test_a_bias_counts_as_much_as_a_matrix_or_by_its_entries() -> None:
    """Each way gives the size that it promises: a mean per tensor, or the sum of all entries."""
    base, experts = pool(3, {"matrix": (30, 40), "bias": (2,)})
    for expert in experts:
        expert["bias"] += 5 * torch.sign(expert["bias"])
    sizes: dict[bool, float] = {}
    for by_tensor in (True, False):
        own = merge_tensors("emr", base, experts, by_tensor=by_tensor, task=0)
        moved = {n: (own[n] - base[n]).abs() for n in base}
        wanted = {n: (experts[0][n] - base[n]).abs() for n in base}
        measure = torch.Tensor.mean if by_tensor else torch.Tensor.sum
        found, expected = (sum(float(measure(v)) for v in m.values()) for m in (moved, wanted))
        assert found == pytest.approx(expected, rel=1e-4)
        sizes[by_tensor] = float(moved["matrix"].sum())
    assert sizes[True] != pytest.approx(sizes[False], rel=0.01)


@pytest.mark.parametrize("count", [1, 3])
def test_equal_experts_are_restored_bit_for_bit(count: int) -> None:
    base, experts = pool(1, dtype=torch.bfloat16)
    assert same_bits(merge_tensors("emr", base, experts * count, task=count - 1), experts[0])


def test_an_expert_that_has_not_moved_is_the_base(merge: Merge) -> None:
    assert merge("emr", [1.0, 2.0], [[1, 2], [3, 4]], task=0) == [1.0, 2.0]
