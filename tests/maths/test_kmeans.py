"""k-means: clusters that are apart are found, copies share one, the draws decide."""

from __future__ import annotations

import pytest
import torch

from cermet.maths.kmeans import clusters


def _points(groups: int, each: int, spread: float) -> torch.Tensor:
    own = torch.Generator().manual_seed(0)
    centres = torch.randn(groups, 12, generator=own) * 10
    moved = centres.repeat_interleave(each, dim=0)
    return moved + spread * torch.randn(moved.shape, generator=own)


def _sets(labels: torch.Tensor) -> set[frozenset[int]]:
    found = labels.tolist()
    return {frozenset(i for i, one in enumerate(found) if one == label) for label in set(found)}


@pytest.mark.parametrize("draws", [[0.0, 0.0, 0.0], [0.1, 0.5, 0.9], [0.99, 0.3, 0.7]])
def test_groups_that_are_apart_are_found(draws: list[float]) -> None:
    expected = {frozenset(range(i, i + 5)) for i in (0, 5, 10)}
    assert _sets(clusters(_points(3, 5, 0.1), draws)) == expected


def test_copies_share_a_cluster() -> None:
    points = _points(4, 3, 0.0)
    expected = {frozenset(range(i, i + 3)) for i in (0, 3, 6, 9)}
    assert _sets(clusters(points, [0.2, 0.4, 0.6, 0.8])) == expected


def test_as_many_clusters_as_points_are_the_points() -> None:
    assert clusters(torch.zeros(3, 2), [0.5] * 4).tolist() == [0, 1, 2]


def test_fewer_different_points_than_clusters_leave_some_empty() -> None:
    points = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert _sets(clusters(points, [0.0, 0.5, 0.9])) == {frozenset({0, 1}), frozenset({2, 3})}
