"""TIES: how many entries trimming keeps, how signs are elected, what the mean divides by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def _kept(delta: torch.Tensor, density: float) -> torch.Tensor:
    zero = torch.zeros_like(delta)
    return merge_tensors("ties", {"x": zero}, [{"x": delta}], weight=1, density=density)["x"] != 0


def test_worked_by_hand(merge: Merge) -> None:
    """Kept: 4, -2 and 3, 6. They disagree at the third place, where 6 wins."""
    experts = [[4, 1, -2, 0], [2, 3, 6, 1]]
    assert merge("ties", [0.0] * 4, experts, weight=1, density=0.5) == [4.0, 3.0, 6.0, 0.0]


@pytest.mark.parametrize("numel", [2, 7, 16, 1001])
def test_density_one_half_keeps_half(numel: int) -> None:
    delta = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
    kept = _kept(delta, 0.5)
    assert int(kept.sum()) == numel // 2
    assert delta[kept].abs().min() > delta[~kept].abs().max()


def test_of_equal_values_the_first_are_kept() -> None:
    assert _kept(torch.tensor([1.0, -2, 2, 1, -2, 2]), 0.5).tolist() == [
        False, True, True, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("density", "kept"), [(0.03, 1), (0.0, 0), (1.0, 5)])
def test_a_positive_density_keeps_one_entry_at_least(density: float, kept: int) -> None:
    """Where density x numel < 1; mergekit 0.1.5 stops there."""
    assert int(_kept(torch.tensor([1.0, -5, 3, 2, 4]), density).sum()) == kept


def test_the_election_is_weighted(merge: Merge) -> None:
    """1 x 1 against 0.4 x 2: the first wins; at equal weights the second does."""
    experts = [[1.0], [-2.0]]
    assert merge("ties", [0.0], experts, weight=[1, 0.4]) == [1.0]
    assert merge("ties", [0.0], experts, weight=1) == [-2.0]


def test_a_draw_elects_plus(merge: Merge) -> None:
    assert merge("ties", [0.0], [[-3.0], [3.0]], weight=1) == [3.0]


def test_the_divisor_is_the_weight_of_those_that_agree(merge: Merge) -> None:
    experts = [[4.0], [2.0], [-1.0]]
    assert merge("ties", [0.0], experts, weight=[1, 3, 5]) == [2.5]
    assert merge("ties", [0.0], experts, weight=[1, 3, 5], normalize=False) == [10.0]


def test_a_negative_weight_turns_its_delta_before_the_election(merge: Merge) -> None:
    """-1 x -4 = 4 agrees with 2; the divisor is 2 - 1."""
    assert merge("ties", [0.0], [[2.0], [-4.0]], weight=[2, -1]) == [8.0]


def test_rescale_restores_the_size_of_each_delta(merge: Merge) -> None:
    """10 before, 7 after trimming to [4, 3]."""
    experts = [[4, 1, -2, 3]]
    found = merge("ties", [0.0] * 4, experts, weight=1, density=0.5, rescale=True)
    assert found == [5.7143, 0.0, 0.0, 4.2857]
    assert sum(found) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("density", [-0.1, 1.1])
def test_a_density_outside_of_0_and_1_is_refused(merge: Merge, density: float) -> None:
    with pytest.raises(MethodError, match="density"):
        merge("ties", [0.0], [[1.0]], weight=1, density=density)
