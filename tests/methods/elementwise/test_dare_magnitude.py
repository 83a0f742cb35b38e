"""The smallest are dropped, with all that equal the last of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_the_smallest_are_dropped_and_the_rest_enlarged(merge: Merge) -> None:
    assert merge("dare_magnitude", [0.0] * 4, [[1, -3, 4, 2]], density=0.5) == [0, -6, 8, 0]


def test_of_equal_values_all_are_dropped(merge: Merge) -> None:
    assert merge("dare_magnitude", [0.0] * 4, [[2, 2, -2, 3]], density=0.5) == [0, 0, 0, 6]


def test_ends(merge: Merge) -> None:
    assert merge("dare_magnitude", [1.0, 1.0], [[3, 0]], density=1) == [3.0, 0.0]
    assert merge("dare_magnitude", [1.0, 1.0], [[3, 0]], density=0) == [1.0, 1.0]
