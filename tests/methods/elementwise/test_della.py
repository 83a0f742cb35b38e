"""DELLA: the probability of each entry, from its rank in its row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]
STEPS = 64


def _probability(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """With which share of evenly spread draws each entry is kept."""
    zero = {"x": torch.zeros_like(delta)}
    given = {"weight": 1, "density": density, "epsilon": epsilon, "rescale": False}
    kept = torch.zeros_like(delta)
    for step in range(STEPS):
        noise = {"x": torch.full((1, *delta.shape), (step + 0.5) / STEPS)}
        kept += merge_tensors("della", zero, [{"x": delta}], noise=noise, **given)["x"] != 0
    return kept / STEPS


def test_worked_by_hand(merge: Merge) -> None:
    """At density 1 it is TIES: 2 against -1, and the mean of 4 and 1."""
    assert merge("della", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1) == [2.0, 2.5]


def test_probabilities_grow_with_the_rank_in_the_row() -> None:
    """From density - epsilon to density + epsilon in equal steps, in each row."""
    delta = torch.tensor([[5.0, -1, 3, 2, -4], [0.1, 0.2, 0.3, 0.4, 0.5]])
    expected = torch.tensor([[0.75, 0.25, 0.5, 0.375, 0.625], [0.25, 0.375, 0.5, 0.625, 0.75]])
    assert torch.equal(_probability(delta, 0.5, 0.25), expected)


def test_rows_run_along_the_last_dimension() -> None:
    """A vector is one row, a cube has many."""
    expected = torch.tensor([0.25, 0.75])
    assert torch.equal(_probability(torch.tensor([1.0, 2]), 0.5, 0.25), expected)
    cube = torch.tensor([[[1.0, 2], [4, 9]], [[-1, 3], [0.5, 1]]])
    assert torch.equal(_probability(cube, 0.5, 0.25), expected.expand(2, 2, 2))


def test_a_row_of_one_entry_has_the_density() -> None:
    """Not 0/0, as in mergekit."""
    assert torch.equal(_probability(torch.ones(3, 1), 0.5, 0.25), torch.full((3, 1), 0.5))


def test_equal_magnitudes_keep_the_mean_probability() -> None:
    assert _probability(torch.ones(8), 0.5, 0.25).mean().item() == pytest.approx(0.5, abs=0.03)


def test_ranks_above_256_stay_in_order() -> None:
    """Ranks in bfloat16 would not tell 1000 from 1003."""
    probability = _probability(torch.arange(1.0, 2001), 0.5, 0.4)
    assert bool((probability.diff() >= 0).all())
    assert len(probability.unique()) > STEPS * 0.7


def test_the_share_that_is_kept_and_its_size() -> None:
    delta = torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
    zero = {"x": torch.zeros_like(delta)}
    given = {"weight": 1, "density": 0.4, "epsilon": 0.3, "seed": 5}
    found = merge_tensors("della", zero, [{"x": delta}], **given)["x"]
    large = delta.abs() > delta.abs().median()
    assert float((found != 0).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float((found[large] != 0).float().mean()) == pytest.approx(0.55, abs=0.02)
    assert float(found.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 1.35), (0.9, 0.1), (0.1, 0.1), (0.2, 0.5)])
def test_a_window_outside_of_0_and_1_is_refused(density: float, epsilon: float) -> None:
    with pytest.raises(MethodError, match="epsilon"):
        _probability(torch.ones(2), density, epsilon)


def test_at_density_0_and_1_the_window_does_not_matter() -> None:
    assert torch.equal(_probability(torch.ones(3), 1.0, 0.9), torch.ones(3))
    assert torch.equal(_probability(torch.ones(3), 0.0, 0.9), torch.zeros(3))
