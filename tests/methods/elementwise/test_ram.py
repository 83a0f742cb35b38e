"""RAM: the mean over those that changed an element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cermet import MethodError

Merge = Callable[..., Any]


def test_worked_by_hand(merge: Merge) -> None:
    """One changed the first place, both the second, none the third."""
    assert merge("ram", [1.0] * 3, [[3, 5, 1], [1, 3, 1]]) == [3.0, 4.0, 1.0]


def test_a_change_of_epsilon_is_none(merge: Merge) -> None:
    """Strictly more than epsilon is a change; less is dropped even where it is alone."""
    experts = [[0.5, 0.625, 0.25], [0.0, 0.125, 2.0]]
    assert merge("ram", [0.0] * 3, experts, epsilon=0.5) == [0.0, 0.625, 2.0]


def test_opposed_changes_are_averaged(merge: Merge) -> None:
    assert merge("ram", [0.0], [[4.0], [-1.0], [0.0]]) == [1.5]


def test_a_negative_epsilon_is_refused(merge: Merge) -> None:
    with pytest.raises(MethodError, match="epsilon"):
        merge("ram", [0.0], [[1.0]], epsilon=-1e-5)
