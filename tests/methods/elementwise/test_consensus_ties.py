"""Consensus on TIES: the masks are taken against the sum that TIES makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Merge = Callable[..., Any]

EXPERTS = [[4, 1, 2, 0], [3, -2, 0, 1]]


def test_without_consensus_it_is_the_sum_of_ties(merge: Merge) -> None:
    found = merge("consensus_ties", [1.0] * 4, EXPERTS, agree=0, density=0.4, lambda_=0.5)
    known = {"density": 0.4, "normalize": False, "lambda_": 0.5}
    assert found == merge("ties_official", [1.0] * 4, EXPERTS, **known)


def test_entries_that_one_expert_needs_are_dropped(merge: Merge) -> None:
    found = merge("consensus_ties", [0.0] * 4, EXPERTS, density=1, lambda_=1)
    assert found == [7.0, 0.0, 0.0, 0.0]
