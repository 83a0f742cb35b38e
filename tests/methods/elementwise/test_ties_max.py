"""TIES with the largest of those that agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_the_largest_that_agrees_is_taken(merge: Merge) -> None:
    experts = [[3, -1, 2], [-2, -4, 2], [4, 1, 0]]
    assert merge("ties_max", [0.0] * 3, experts, density=1) == [4.0, -4.0, 2.0]


def test_one_expert_is_trimmed_alone(merge: Merge) -> None:
    assert merge("ties_max", [1.0] * 4, [[2, 1, 4, 1]], density=0.25) == [2.0, 1.0, 4.0, 1.0]
