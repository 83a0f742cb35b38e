"""DARE: exact where the draws are given, right in distribution where they are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]
SIZE = 20_000


def _masks(density: float, experts: int = 1, seed: int = 0) -> list[torch.Tensor]:
    """The masks of experts whose deltas are powers of four, so that sums tell them apart."""
    models = [{"x": torch.full((SIZE,), 4.0**i)} for i in range(experts)]
    zero = {"x": torch.zeros(SIZE)}
    total = merge_tensors(
        "dare_linear", zero, models, weight=1, density=density, rescale=False, seed=seed
    )["x"]
    return [(total / 4.0**i).floor() % 4 for i in range(experts)]


def test_worked_by_hand(merge: Merge) -> None:
    """The second entry is dropped, and the first takes its size."""
    given = {"weight": 1, "density": 0.5, "noise": [[0.2, 0.7]]}
    assert merge("dare_linear", [0.0, 0.0], [[2, 4]], **given) == [6.0, 0.0]
    assert merge("dare_linear", [0.0, 0.0], [[2, 4]], rescale=False, **given) == [2.0, 0.0]


def test_a_draw_below_the_density_keeps(merge: Merge) -> None:
    """Not a draw that equals it: draws are in [0, 1), so density 0 keeps none and 1 all."""
    given = {"weight": 1, "rescale": False, "noise": [[0.0, 0.25, 0.5, 0.75]]}
    for density, kept in ((0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1, 4)):
        found = merge("dare_linear", [0.0] * 4, [[1.0] * 4], density=density, **given)
        assert found == [1.0] * kept + [0.0] * (4 - kept)


def test_every_expert_has_its_own_density_and_draws(merge: Merge) -> None:
    noise = [[0.1, 0.9], [0.9, 0.1]]
    given = {"weight": [1, 10], "density": [0.5, 0.95], "noise": noise, "rescale": False}
    assert merge("dare_linear", [0.0, 0.0], [[1, 2], [3, 4]], **given) == [31.0, 40.0]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept(density: float) -> None:
    """Within five standard deviations of a binomial."""
    (mask,) = _masks(density)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.mean()) - density) < 5 * math.sqrt(density * (1 - density) / SIZE)


def test_masks_are_independent_of_each_other_and_of_the_place() -> None:
    one, other = _masks(0.5, experts=2)
    spread = 5 * 0.25 / math.sqrt(SIZE)
    assert abs(float((one * other).mean()) - 0.25) < spread
    assert abs(float((one[1:] * one[:-1]).mean()) - 0.25) < 1.5 * spread
    assert not torch.equal(one, _masks(0.5, seed=1)[0])


def test_rescale_keeps_the_size_of_the_delta() -> None:
    delta = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    zero = {"x": torch.zeros(SIZE)}
    found = merge_tensors("dare_linear", zero, [{"x": delta}], weight=1, density=0.3)["x"]
    assert float(found.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


def test_a_density_of_0_leaves_its_weight_in_the_divisor(merge: Merge) -> None:
    given = {"weight": [1, 3], "density": [1, 0], "normalize": True}
    assert merge("dare_linear", [0.0, 0.0], [[8, 4], [1, 1]], **given) == [2.0, 1.0]


def test_noise_of_another_shape_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="noise"):
        merge("dare_linear", [0.0, 0.0], [[2, 4]], weight=1, density=0.5, noise=[[0.1]])
    with pytest.raises(MethodError, match="no noise"):
        merge("ties", [0.0, 0.0], [[2, 4]], weight=1, noise=[[0.1, 0.2]])
