"""RHT: what is kept, enlarged, elected, and divided by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]


def test_the_kept_are_divided_by_the_density(merge: Merge) -> None:
    assert merge("rht", [0.0] * 4, [[4, 1, 2, -8]], density=0.5) == [8.0, 0.0, 0.0, -16.0]


def test_those_that_agree_are_divided_by_their_number(merge: Merge) -> None:
    """Weights that add up to one are divided again: so it is in the authors' code."""
    experts = [[2, 2], [4, -1]]
    assert merge("rht", [0.0, 0.0], experts, density=1, weight=0.5) == [1.5, 1.0]


def test_election_by_how_much_or_by_how_many(merge: Merge) -> None:
    experts = [[5], [-1], [-2]]
    assert merge("rht", [0.0], experts, density=1) == [5.0]
    assert merge("rht", [0.0], experts, density=1, frequency=True) == [-1.5]


def test_a_share_of_less_than_one_entry_keeps_none(merge: Merge) -> None:
    assert merge("rht", [1.0], [[7]], density=0.5) == [1.0]
