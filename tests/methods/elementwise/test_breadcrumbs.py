"""Breadcrumbs: the band between the outliers and the noise, counted exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cermet import MethodError, merge_tensors

Merge = Callable[..., Any]


def _kept(numel: int, density: float, gamma: float) -> list[int]:
    """Which of the deltas 1 .. numel are kept, smallest first."""
    delta = {"x": torch.arange(1.0, numel + 1)}
    zero = {"x": torch.zeros(numel)}
    given = {"weight": 1, "density": density, "gamma": gamma}
    found = merge_tensors("breadcrumbs", zero, [delta], **given)["x"]
    return [int(v) for v in found if v != 0]


def test_worked_by_hand(merge: Merge) -> None:
    """9 is the outlier, 3 and 2 are kept, 1 is noise."""
    given = {"weight": 1, "density": 0.5, "gamma": 0.25}
    assert merge("breadcrumbs", [0.0] * 4, [[9, 1, 3, 2]], **given) == [0.0, 0.0, 3.0, 2.0]


@pytest.mark.parametrize(("numel", "density", "gamma"), [(10, 0.5, 0.2), (33, 0.71, 0.05)])
def test_it_keeps_the_share_below_the_outliers(numel: int, density: float, gamma: float) -> None:
    top = numel - int(gamma * numel)
    count = int(density * numel)
    assert _kept(numel, density, gamma) == list(range(top - count + 1, top + 1))


@pytest.mark.parametrize(("numel", "gamma"), [(10, 0.0), (10, 0.05), (3, 0.25)])
def test_without_an_outlier_the_largest_are_kept(numel: int, gamma: float) -> None:
    """gamma 0, or a tensor too small for it: mergekit 0.1.5 drops the whole delta there."""
    assert _kept(numel, 0.4, gamma) == list(range(numel - int(0.4 * numel) + 1, numel + 1))


def test_outliers_give_way_to_the_density() -> None:
    assert _kept(10, 0.9, 0.3) == list(range(1, 10))
    assert _kept(10, 1.0, 0.3) == list(range(1, 11))


def test_density_0_keeps_nothing() -> None:
    assert _kept(10, 0.0, 0.1) == []


def test_of_equal_values_the_first_count_as_larger(merge: Merge) -> None:
    """The first 5 is the outlier, the next two are kept."""
    given = {"weight": 1, "density": 0.5, "gamma": 0.25}
    assert merge("breadcrumbs", [0.0] * 4, [[5, -5, 5, -5]], **given) == [0.0, -5.0, 5.0, 0.0]


def test_rescale_and_lambda(merge: Merge) -> None:
    """15 before, 5 after: three times as large, and half of that."""
    given = {"weight": 1, "density": 0.5, "gamma": 0.25, "rescale": True, "lambda": 0.5}
    assert merge("breadcrumbs", [0.0] * 4, [[9, 1, 3, 2]], **given) == [0.0, 0.0, 4.5, 3.0]


def test_gamma_outside_of_0_and_1_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="gamma"):
        merge("breadcrumbs", [0.0], [[1.0]], weight=1, gamma=1.5)
