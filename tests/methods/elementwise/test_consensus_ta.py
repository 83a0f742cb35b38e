"""Consensus task arithmetic: which entries are needed by how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Merge = Callable[..., Any]

EXPERTS = [[1, 4, 0, 1], [1, 0, 0, -1], [1, 0, 2, 1]]


@pytest.mark.parametrize(
    ("agree", "expected"),
    [(0, [3, 4, 2, 1]), (1, [3, 4, 2, 1]), (2, [3, 0, 0, 1]), (3, [3, 0, 0, 1]), (4, [0, 0, 0, 0])],
)
def test_entries_that_enough_experts_need(merge: Merge, agree: int, expected: list[float]) -> None:
    """All three need the first, 1 > 0.4 x 2, and the last: -1 is 2 from the total of 1."""
    assert merge("consensus_ta", [0.0] * 4, EXPERTS, agree=agree, lambda_=1) == expected


def test_equality_is_not_enough(merge: Merge) -> None:
    """1 against 0.5 x 2."""
    assert merge("consensus_ta", [0.0], [[1], [2]], threshold=0.5, agree=2, lambda_=1) == [0.0]
    assert merge("consensus_ta", [0.0], [[1], [2]], threshold=0.49, agree=2, lambda_=1) == [3.0]


def test_without_consensus_it_is_task_arithmetic(merge: Merge) -> None:
    found = merge("consensus_ta", [1.0] * 4, EXPERTS, agree=0)
    assert found == merge("task_arithmetic", [1.0] * 4, EXPERTS, weight=0.3)


def test_one_expert_is_task_arithmetic(merge: Merge) -> None:
    assert merge("consensus_ta", [1.0, 2.0], [[3, 2]], agree=1, lambda_=1) == [3.0, 2.0]
