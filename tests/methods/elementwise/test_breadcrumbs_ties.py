"""Breadcrumbs with an election among what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    assert merge("breadcrumbs_ties", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1) == [2.0, 5.0]


def test_outliers_do_not_vote(merge: Merge) -> None:
    """-9 is an outlier of the first expert, so 3 decides the first place."""
    experts = [[-9, 4, 3, 1], [3, -5, 9, 1]]
    given = {"weight": 1, "density": 0.5, "gamma": 0.25}
    assert merge("breadcrumbs_ties", [0.0] * 4, experts, **given) == [3.0, -5.0, 3.0, 0.0]


def test_normalize_divides_by_the_weights_that_agree(merge: Merge) -> None:
    given = {"weight": [1, 3], "normalize": True}
    assert merge("breadcrumbs_ties", [0.0, 0.0], [[2, 4], [-1, 8]], **given) == [-1.0, 7.0]


def test_negative_weights_turn_before_the_election(merge: Merge) -> None:
    assert merge("breadcrumbs_ties", [1.0], [[3.0], [-3.0]], weight=[1, -0.5]) == [5.0]
